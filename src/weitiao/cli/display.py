"""Progress with a rate and the time left: a live bar in a terminal, a plain line every ten seconds in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from weitiao.log import Display, Tell, install_display, logger

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn, Task

SECONDS_BETWEEN_LINES = 10.0
SECONDS_WORTH_A_LINE = 0.5


def show_messages(*, debug: bool) -> None:
    """Send the project's messages and progress to stderr, in the form that suits a terminal or a log.

    Args:
        debug: show debug messages and other libraries' warnings as well.
    """
    from rich.console import Console
    from rich.logging import RichHandler

    console = Console(stderr=True)
    handler: logging.Handler = logging.StreamHandler()
    if console.is_terminal:
        handler = RichHandler(console=console, show_time=False, show_path=False, show_level=False, markup=False, highlighter=None)
    handler.setFormatter(_PlainWords())
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.captureWarnings(True)
    if not debug:
        logging.getLogger("py.warnings").addHandler(logging.NullHandler())
        logging.getLogger("py.warnings").propagate = False
    install_display(_bars(console) if console.is_terminal else _lines(console))


class _PlainWords(logging.Formatter):
    """``warning: …`` for warnings and worse, the bare message otherwise."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return message if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {message}"


def duration(seconds: float) -> str:
    """A time as people say it: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rate(n_done: float, seconds: float, unit: str) -> str:
    """A speed in units per second, or seconds per unit where that reads better."""
    per_second = n_done / seconds if seconds > 0 else 0.0
    if 0 < per_second < 0.5:
        return f"{1 / per_second:.1f} s/{unit.removesuffix('s')}"
    return f"{per_second:,.1f} {unit}/s" if per_second < 100 else f"{per_second:,.0f} {unit}/s"


def progress_line(
    title: str, n_done: int, total: int | None, unit: str, seconds: float, n_begun: float = 0.0, words: str = "", n_before: int = 0
) -> str:
    """One line that says how far work has come.

    Args:
        title: what is done.
        n_done: units done.
        total: units in all; None where it is not known.
        unit: plural noun of a unit.
        seconds: since the start.
        n_begun: units' worth of work in those that are not done.
        words: about those.
        n_before: of the units done, those that an earlier process did.

    Returns:
        Such as ``answering: 120 of 400 rows, 3.2 rows/s, 1 min 27 s left``; no rate before a unit's worth of work is done.
    """
    n_worth = n_done - n_before + n_begun
    about = f", {words}" if words else ""
    if total is not None and n_done < total and n_worth < 1:
        return f"{title}: {n_done:,} of {total:,} {unit}{about}, {duration(seconds)}"
    speed = rate(n_worth, seconds, unit)
    if total is None or n_done >= total:
        return f"{title}: {n_done:,} {unit}, {f'{speed}, ' if n_worth else ''}{duration(seconds)}"
    left = duration(seconds / n_worth * max(0.0, total - n_done - n_begun))
    return f"{title}: {n_done:,} of {total:,} {unit}{about}, {speed}, {left} left"


def _lines(console: Console) -> Display:
    @contextmanager
    def display(title: str, total: int | None, unit: str) -> Iterator[Tell]:
        started = last = time.monotonic()
        n_done = n_before = 0
        begun = (0.0, "")

        def tell(n: int, n_begun: float, words: str, before: bool) -> None:
            nonlocal n_done, n_before, last, begun
            n_done += n
            n_before += n if before else 0
            begun = (max(0.0, begun[0] - n), begun[1]) if n else (n_begun, words)
            now = time.monotonic()
            if now - last >= SECONDS_BETWEEN_LINES and n_done != total:
                last = now
                _print(console, progress_line(title, n_done, total, unit, now - started, *begun, n_before))

        yield tell
        _print_end(console, title, n_done, n_before, unit, time.monotonic() - started)

    return display


def _bars(console: Console) -> Display:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    bars = Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _words_column(), console=console, transient=True)

    @contextmanager
    def display(title: str, total: int | None, unit: str) -> Iterator[Tell]:
        if not bars.tasks:
            bars.start()
        task = bars.add_task(title, total=total, unit=unit, n_begun=0.0, words="", n_before=0)
        started = time.monotonic()
        n_done = n_before = 0

        def tell(n: int, n_begun: float, words: str, before: bool) -> None:
            nonlocal n_done, n_before
            n_done += n
            n_before += n if before else 0
            if n:
                bars.update(task, advance=n, n_before=n_before)
            else:
                bars.update(task, n_begun=n_begun, words=words)

        try:
            yield tell
        finally:
            bars.remove_task(task)
            if not bars.tasks:
                bars.stop()
        _print_end(console, title, n_done, n_before, unit, time.monotonic() - started)

    return display


def _words_column() -> ProgressColumn:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Words(ProgressColumn):
        """Count, rate and time left of a task."""

        def render(self, task: Task) -> Text:
            total = None if task.total is None else int(task.total)
            begun = (task.fields["n_begun"], task.fields["words"], task.fields["n_before"])
            line = progress_line("", int(task.completed), total, task.fields["unit"], task.elapsed or 0.0, *begun)
            return Text(line.removeprefix(": "))

    return Words()


def _print_end(console: Console, title: str, n_done: int, n_before: int, unit: str, seconds: float) -> None:
    if seconds >= SECONDS_WORTH_A_LINE:
        _print(console, progress_line(title, n_done, n_done, unit, seconds, n_before=n_before))


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
