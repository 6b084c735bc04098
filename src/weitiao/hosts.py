"""Which Host headers name this machine.

A page in a browser here can have its own name point to 127.0.0.1; the header of its requests still says that name.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:[0-9]+)?")


def is_local(host: str) -> bool:
    """Whether a Host header is ``localhost`` or a loopback address.

    Args:
        host: the header's value, with or without a port; empty where there is none.

    Returns:
        True for this machine.
    """
    name = urlsplit(f"//{host}").hostname if HOST.fullmatch(host) else None
    try:
        return name == "localhost" or ip_address(name or "").is_loopback
    except ValueError:
        return False
