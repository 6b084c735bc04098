"""Ctrl-C and a polite kill end training after the step in work, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from weitiao.log import logger


@dataclass
class StopFlag:
    """Whether the user asked to stop."""

    is_set: bool = False


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Catch the first SIGINT or SIGTERM while the context lasts; a second one ends the process at once.

    Yields:
        The flag that the signal sets. Outside the main thread signals cannot be caught, and the flag stays as it is.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: FrameType | None) -> None:
        flag.is_set = True
        logger.warning("stopping after this step; the run can be resumed (once more to stop at once)")
        signal.signal(number, before[number] or signal.SIG_DFL)

    for number in before:
        signal.signal(number, stop)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
