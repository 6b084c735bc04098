"""Rows that are only to be answered, as a stream: nothing is kept of a row once it was handed on, so their number does not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from weitiao.data.check import usable_sample
from weitiao.data.files import DOCUMENTS, IMAGES, READERS, DataFile, place_of
from weitiao.data.hub import HubFile
from weitiao.data.image_checks import image_problem, look_at_images
from weitiao.data.rows import RawRow, Tally
from weitiao.data.shapes import SHAPES_OF_KIND, Recognised
from weitiao.data.sources import open_source, read_file, reading_of
from weitiao.data.store import completed
from weitiao.errors import RowError
from weitiao.recipe.sections import Data, Source
from weitiao.seams import Record, Sample, Task

CHUNK_ROWS = 256
"""Rows whose images are looked at together."""

Reject = Callable[[str, str], None]
"""Called with origin and reason of a row that cannot be used."""


class _Passing(Tally):
    """A tally that hands every rejected row on."""

    def __init__(self, on_reject: Reject) -> None:
        super().__init__()
        self._on_reject = on_reject

    def reject(self, origin: str, error: RowError) -> None:
        super().reject(origin, error)
        self._on_reject(origin, error.what)


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """A folder of images, each a row of its own; its id is its path in the folder."""

    path: Path

    def rows(self, _encoding: str | None, _delimiter: str | None) -> Iterator[RawRow]:
        """Every image, in the order of the names."""
        for name in _image_names(self.path):
            yield RawRow(name, {"id": name, "image": str(self.path.absolute() / name)})


def stream_file(path: str | Path, section: Data, task: Task, reject: Reject, *, candidates: tuple[str, ...] = ()) -> Iterator[Sample]:
    """Read rows to be answered, one after the other, in constant memory.

    Args:
        path: a file, folder, glob or ``hub:`` name; or a folder that holds images and no table.
        section: the recipe's ``data``: columns, shape, encoding and delimiter hold here too; ``limit`` does not.
        task: makes samples of records.
        reject: gets origin and reason of every row that cannot be used.
        candidates: labels for rows that name none.

    Yields:
        A sample per usable row, in the order of the file. Ids are the rows' own, or hashes of their content; they may repeat.

    Raises:
        DataError: the file is not there, is not what its name says, or its rows fit no shape.
        Problems: no row of it can be used.
    """
    tally = _Passing(reject)
    records = _records(path, section, task, tally)
    while chunk := list(islice(records, CHUNK_ROWS)):
        seen = look_at_images(image for record in chunk for image in record.images) if any(record.images for record in chunk) else {}
        for record in chunk:
            whole = completed(record, candidates)
            problem = image_problem([seen[image] for image in record.images])
            try:
                sample = usable_sample(whole, task, [*task.check_record(whole), *filter(None, [problem])])
            except RowError as err:
                tally.reject(record.origin, err)
            else:
                yield sample
    tally.refuse_beyond(1.0)


def count_rows(path: str | Path, section: Data, kind: str) -> int:
    """How many rows a file has, usable or not; Parquet files say it, others are read through.

    Args:
        path: as for ``stream_file``.
        section: the recipe's ``data``.
        kind: of work.

    Returns:
        The rows that ``stream_file`` yields or rejects.

    Raises:
        DataError: the file is not there, or breaks somewhere.
    """
    import pyarrow.parquet as pq

    n_rows = 0
    for file in _files(path, kind):
        if isinstance(file, DataFile) and file.path.suffix.lower() == ".parquet":
            try:
                n_rows += pq.read_metadata(file.path).num_rows
                continue
            except (OSError, ValueError):
                pass  # The reader says what is wrong with it.
        n_rows += sum(1 for _ in file.rows(section.encoding, section.delimiter))
    return n_rows


def _records(path: str | Path, section: Data, task: Task, tally: Tally) -> Iterator[Record]:
    reading = reading_of(section.model_copy(update={"limit": None}), task, with_truth=False)
    plain = reading_of(section.model_copy(update={"columns": {}, "shape": None}), task, with_truth=False)
    shapes: list[Recognised] = []
    for file in _files(path, task.kind):
        how = plain if isinstance(file, ImageFolder) else reading
        yield from read_file(file, file.rows(how.encoding, how.delimiter), how, tally, shapes)


def _files(path: str | Path, kind: str) -> Sequence[DataFile | HubFile | ImageFolder]:
    folder = place_of(path)
    if folder.is_dir() and "image-text" in SHAPES_OF_KIND[kind] and not _has_table(folder) and next(_image_names(folder), None):
        return [ImageFolder(folder)]
    return open_source(Source(path=str(path)))


def _has_table(folder: Path) -> bool:
    endings = set(READERS) - set(DOCUMENTS)
    return any(path.suffix.lower() in endings for path in folder.rglob("*") if not path.name.startswith("."))


def _image_names(folder: Path) -> Iterator[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in IMAGES and path.is_file())
    yield from sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
