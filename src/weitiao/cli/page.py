"""``weitiao chat RUN --web``: the page is served until Ctrl-C."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from weitiao.cli.ahead import importing


def show_page(run: Path, port: int) -> None:
    """Serve the page and say where it is.

    Args:
        run: a run folder.
        port: on 127.0.0.1; 0 for any that is free.
    """
    from weitiao.cli.show import say

    with importing():
        from weitiao.trying import web_page
    with web_page(run, port) as address, suppress(KeyboardInterrupt):
        say(f"{address}  (Ctrl-C ends it)")
        threading.Event().wait()
