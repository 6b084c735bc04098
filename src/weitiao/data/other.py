"""Rows of another file than the recipe's: to be scored, which needs the right answers, or only to be answered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from weitiao.data.check import usable_sample, with_images
from weitiao.data.image_checks import image_problem
from weitiao.data.rows import Tally
from weitiao.data.shapes import Recognised
from weitiao.data.sources import read_source, reading_of
from weitiao.data.store import Store, StoredSamples, StoreWriter, completed
from weitiao.errors import RowError
from weitiao.log import logger, progress
from weitiao.recipe.sections import Data, Source
from weitiao.seams import Task


class FileSamples(StoredSamples):
    """The usable rows of a file, read lazily, and all rows that were rejected."""

    rejected: tuple[tuple[str, str], ...] = ()
    """Origin and reason of each row that cannot be used."""
    n_read: int = 0


class _Listing(Tally):
    """A tally that keeps every rejected row, not only examples."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, str]] = []

    def reject(self, origin: str, error: RowError) -> None:
        super().reject(origin, error)
        self.rows.append((origin, error.what))


def load_file(path: str | Path, section: Data, task: Task, *, candidates: tuple[str, ...] = (), with_answers: bool = True) -> FileSamples:
    """Read a file whose rows look like the recipe's.

    With answers, the file is held to what the recipe's own data are held to, and rows that are left out are told in the log.

    Args:
        path: a file, folder, glob or ``hub:`` name.
        section: the recipe's ``data``: columns, shape, encoding and delimiter hold here too; ``limit`` does not.
        task: makes samples of records.
        candidates: labels for rows that name none: those of the training rows, ``statistics["candidates"]`` of their report.
        with_answers: whether the rows are to be scored: those without the right answer are rejected, and no more than
            ``section.allow_dropped`` may be; else they become samples without one, however many are rejected.

    Returns:
        Samples in the order of the file, ids unique, with the list of rejected rows.

    Raises:
        DataError: the file is not there, is not what its name says, or its rows fit no shape.
        Problems: no row of it can be used, or with answers too few; one problem per reason.
    """
    tally = _Listing()
    shapes: list[Recognised] = []
    wanted = section.model_copy(update={"limit": None})
    writer = StoreWriter()
    seen: Counter[str] = Counter()
    repeats: dict[int, int] = {}
    has_images = False
    try:
        with progress("reading", None) as advance:
            for record in read_source(Source(path=str(path)), reading_of(wanted, task, with_truth=with_answers), tally, shapes):
                whole = completed(record, candidates)
                try:
                    usable_sample(whole, task, task.check_record(whole))
                except RowError as err:
                    tally.reject(record.origin, err)
                else:
                    if seen[record.id]:
                        repeats[writer.n_rows] = seen[record.id]
                    seen[record.id] += 1
                    writer.add(record)
                    has_images = has_images or bool(record.images)
                advance(1)
        store: Store = writer.close()
    except BaseException:
        writer.discard()
        raise
    kept = _with_whole_images(store, tally) if has_images else np.arange(len(store))
    tally.refuse_beyond(section.allow_dropped if with_answers else 1.0)
    if with_answers and tally.n_rejected:
        logger.warning("%s: %d of %d rows cannot be used and are not scored: %s", path, tally.n_rejected, tally.n_read, tally.in_words)
    samples = FileSamples(store, kept, task, candidates, repeats)
    samples.rejected, samples.n_read = tuple(tally.rows), tally.n_read
    return samples


def _with_whole_images(store: Store, tally: Tally) -> np.ndarray:
    """Numbers of the rows whose images can all be read, ascending; the others are rejected."""
    kept = []
    with progress("checking", len(store)) as advance:
        for row, (record, images) in enumerate(with_images(store, {})):
            problem = image_problem(images)
            if problem is None:
                kept.append(row)
            else:
                tally.reject(record.origin, RowError(problem.message, where=record.origin, hint=problem.hint))
            advance(1)
    return np.array(kept, dtype=np.int64)
