"""Messages for people while work goes on: the ``weitiao`` logger, and progress with a rate and the time left.

``cli/`` decides how they look by installing a handler and a progress display; without it a room's work is silent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

logger = logging.getLogger("weitiao")

Tell = Callable[[int, float, str, bool], None]
"""Units done since the last call, units' worth of work that is begun, words about it, and whether the units were done before."""
Display = Callable[[str, int | None, str], AbstractContextManager[Tell]]


@contextmanager
def _silent(_title: str, _total: int | None, _unit: str) -> Iterator[Tell]:
    yield _nothing


class Advance(Protocol):
    """Moves a progress display on."""

    def __call__(self, n_done: int, *, before: bool = False) -> None:
        """Tell that units are done.

        Args:
            n_done: since the last call.
            before: by an earlier process, so that they say nothing about the rate.
        """
        ...


def _nothing(_n_done: int, _n_begun: float, _words: str, _before: bool) -> None:
    """What is told to nobody."""


_display: ContextVar[Display] = ContextVar("display", default=_silent)
_tell: ContextVar[Tell] = ContextVar("tell", default=_nothing)


@contextmanager
def progress(title: str, total: int | None, unit: str = "rows") -> Iterator[Advance]:
    """Show that work of ``total`` units goes on.

    Args:
        title: what is done, e.g. ``answering``.
        total: units in all; None where it is not known.
        unit: plural noun of a unit.

    Yields:
        What is called with the number of units done since the last call.
    """
    with _display.get()(title, total, unit) as tell:
        before = _tell.set(tell)
        try:
            yield lambda n_done, *, before=False: tell(n_done, 0.0, "", before)
        finally:
            _tell.reset(before)


def at_work(n_begun: float, words: str) -> None:
    """Say how far units have come that are not done, so that slow ones show that they go on, and when they will be done.

    Args:
        n_begun: units' worth of work in them; 0 where that cannot be said.
        words: what is at work, e.g. ``64 at work, 12 of at most 256 tokens``; empty for nothing.
    """
    _tell.get()(0, n_begun, words, False)


def install_display(display: Display) -> None:
    """Make ``display`` show the progress of every room from here on."""
    _display.set(display)
