"""Messages for people while work goes on: the ``weitiao`` logger, and progress with a rate and the time left.

``cli/`` decides how they look by installing a handler and a progress display; without it a room's work is silent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

logger = logging.getLogger("weitiao")

Advance = Callable[[int], None]
Display = Callable[[str, int | None, str], AbstractContextManager[Advance]]


@contextmanager
def _silent(_title: str, _total: int | None, _unit: str) -> Iterator[Advance]:
    yield lambda _n_done: None


_display: ContextVar[Display] = ContextVar("display", default=_silent)


def progress(title: str, total: int | None, unit: str = "rows") -> AbstractContextManager[Advance]:
    """Show that work of ``total`` units goes on.

    Args:
        title: what is done, e.g. ``answering``.
        total: units in all; None where it is not known.
        unit: plural noun of a unit.

    Returns:
        A context whose value is called with the number of units done since the last call.
    """
    return _display.get()(title, total, unit)


def install_display(display: Display) -> None:
    """Make ``display`` show the progress of every room from here on."""
    _display.set(display)
