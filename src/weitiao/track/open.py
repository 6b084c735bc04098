"""Opens the tracker that the recipe asks for, and keeps its failures away from the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from weitiao.log import logger
from weitiao.recipe.sections import SwanlabTrack, Track
from weitiao.seams import Tracker
from weitiao.track.swanlab import SwanlabTracker, start_swanlab


@contextmanager
def open_tracker(section: Track, run_path: Path, name: str) -> Iterator[Tracker]:
    """Open the tracker of a run for as long as the context lasts.

    SwanLab's page is made in ``run_path/swanlog`` and can be seen with ``swanlab watch``; all that was logged is also kept in
    ``run_path/track.jsonl``, from which a resumed run rebuilds its page before it goes on: one run, one curve.

    Args:
        section: the recipe's ``track``.
        run_path: the run folder, which exists.
        name: name of the experiment where the recipe gives none.

    Yields:
        A tracker whose methods never raise: the first failure is logged as a warning and switches the tracker off.
    """
    if not isinstance(section, SwanlabTrack) or not _is_first_process():
        yield SilentTracker()
        return
    tracker = CarefulTracker(lambda: start_swanlab(section, run_path, name))
    tracker.open()
    failed = True
    try:
        yield tracker
        failed = False
    finally:
        tracker.close(failed)


def _is_first_process() -> bool:
    """Whether this process speaks for the run; the others of a torchrun launch stay silent."""
    return os.environ.get("RANK", "0") == "0"


class SilentTracker:
    """A tracker that does nothing."""

    def settings(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Do nothing."""


class CarefulTracker:
    """Hands everything on to another tracker until one of its calls fails; that is one warning, and the run goes on without it."""

    def __init__(self, start: Callable[[], SwanlabTracker]) -> None:
        self._inner: SwanlabTracker | None = None
        self._start = start

    def open(self) -> None:
        """Start the other tracker."""
        with self._guarded():
            self._inner = self._start()

    def settings(self, values: Mapping[str, Any]) -> None:
        """Record the resolved recipe and facts of the run."""
        with self._guarded():
            if self._inner:
                self._inner.settings(values)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of one optimizer step."""
        with self._guarded():
            if self._inner:
                self._inner.log(step, values)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table."""
        with self._guarded():
            if self._inner:
                self._inner.table(name, columns, rows)

    def close(self, failed: bool) -> None:
        """Write out what is waiting, and mark the run as finished or failed."""
        with self._guarded():
            if self._inner:
                self._inner.finish(failed)
        self._inner = None

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as err:  # whatever a tracker does, the run is worth more
            broken, self._inner = self._inner, None
            if broken:  # otherwise SwanLab would end the experiment at the process's exit, aloud
                with suppress(Exception):
                    broken.finish(failed=True)
            logger.warning("SwanLab stopped working, the run goes on without it (its numbers are in events.jsonl): %s", err)
