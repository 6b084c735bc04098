"""The server's life: a socket, uvicorn on it, and an end that finishes what was begun."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from weitiao.errors import CommandError
from weitiao.log import logger
from weitiao.serve.app import make_app
from weitiao.serve.keys import Keys
from weitiao.serve.limits import Limits
from weitiao.serve.served import Served
from weitiao.serve.worker import Worker

GRACE_SECONDS = 10
"""On top of a request's own time, for requests that were begun when the server was told to stop."""


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
    app, worker = make_app(served, limits, keys, allow_image_urls=allow_image_urls)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=round(limits.max_seconds) + GRACE_SECONDS,
    )
    _Server(config, worker, ready).run(sockets=[listening])


class _Server(uvicorn.Server):
    """uvicorn, with an end of its own: new work is refused at once, and the process ends as one that did what it was told."""

    def __init__(self, config: uvicorn.Config, worker: Worker, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._worker = worker
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The base class sends the signal on to the process afterwards, which then ends as if it had failed."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            logger.info("stopping: %d answers are being finished", self._worker.n_running + self._worker.n_waiting)
        self._worker.refuses = True
        super().handle_exit(sig, frame)
