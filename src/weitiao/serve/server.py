"""Where the server listens, and how it is started."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address

from weitiao.errors import CommandError
from weitiao.serve.keys import Keys
from weitiao.serve.limits import Limits
from weitiao.serve.served import Served


def open_socket(host: str, port: int) -> socket.socket:
    """Take a port before anything heavy is loaded.

    Args:
        host: address or name to listen on.
        port: 0 for any that is free.

    Returns:
        A bound socket; nobody is listened to yet.

    Raises:
        CommandError: the port is taken, or the host is not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CommandError(f"there is no such host: {error}", where="--host") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        opened.close()
        hint = "choose another with --port, or --port 0 for any that is free"
        raise CommandError(f"the server cannot listen there: {error.strerror}", where=f"{host}:{port}", hint=hint) from error
    return opened


def address_of(listening: socket.socket) -> str:
    """Where clients find a socket.

    Args:
        listening: a bound socket.

    Returns:
        ``http://HOST:PORT``.
    """
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(
    served: Served, listening: socket.socket, limits: Limits, keys: Keys | None, *, allow_image_urls: bool, ready: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests that were begun; a second SIGINT ends at once.

    Args:
        served: the run.
        listening: a bound socket.
        limits: of every request.
        keys: who may ask; None for everybody who reaches the socket.
        allow_image_urls: whether images are fetched from public web addresses.
        ready: called once requests are answered.
    """
    # vLLM's own server is started without these libraries.
    from weitiao.serve.app import make_app
    from weitiao.serve.life import live

    only_local = keys is None and ip_address(listening.getsockname()[0]).is_loopback
    app, worker = make_app(served, limits, keys, allow_image_urls=allow_image_urls, only_local=only_local)
    live(app, worker, listening, limits, ready)
