"""The server's life: uvicorn on a socket, and an end that finishes what was begun."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from weitiao.log import logger
from weitiao.serve.limits import Limits
from weitiao.serve.worker import Worker

GRACE_SECONDS = 10
"""On top of a request's own time, for requests that were begun when the server was told to stop."""


def live(app: ASGIApp, worker: Worker, listening: socket.socket, limits: Limits, ready: Callable[[], None]) -> None:
    """Serve until the process is told to stop.

    Args:
        app: answers.
        worker: of the app.
        listening: a bound socket.
        limits: of every request.
        ready: called once requests are answered.
    """
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
