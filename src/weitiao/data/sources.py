"""From the recipe's sources to a stream of records: files found, shapes recognised, rows converted or listed as rejected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

from weitiao.data.convert import Converter
from weitiao.data.files import DataFile, find_files
from weitiao.data.hub import PREFIX, HubFile, hub_files
from weitiao.data.pictures import PictureFinder
from weitiao.data.rows import N_EXAMPLES, RawRow, RejectedRowError, Tally
from weitiao.data.shapes import Recognised, recognise
from weitiao.data.spans import has_inclusive_ends
from weitiao.errors import DataError, RowError
from weitiao.recipe.sections import Data, Source
from weitiao.seams import Record, Task

N_FIRST = 64
"""Rows from which the shape is told."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are read; the part of the recipe's ``data`` that is the same for all sources."""

    kind: str
    mapping: Mapping[str, str]
    shape: str | None
    group_column: str | None
    limit: int | None
    encoding: str | None
    delimiter: str | None
    with_truth: bool = True
    several_labels: bool = False


def reading_of(section: Data, task: Task, *, with_truth: bool = True) -> Reading:
    """The reading that a recipe asks for."""
    mapping = {str(name): column for name, column in section.columns.items()}
    by = section.split.by if with_truth else None
    several = has_several_labels(task)
    return Reading(task.kind, mapping, section.shape, by, section.limit, section.encoding, section.delimiter, with_truth, several)


def has_several_labels(task: Task) -> bool:
    """Whether a row can have several labels, or none: a single label is scored, several are generated."""
    return task.kind == "classification" and task.answer_mode == "generate"


def listed(sources: Source | Sequence[Source] | None) -> list[Source]:
    """The sources as a list."""
    if sources is None:
        return []
    return [sources] if isinstance(sources, Source) else list(sources)


def read_source(source: Source, reading: Reading, tally: Tally, found: list[Recognised]) -> Iterator[Record]:
    """Records of a source, one at a time.

    Args:
        source: of the recipe.
        reading: how.
        tally: counts what is read and rejected.
        found: gets every shape that was recognised, once.

    Yields:
        The records of the first ``limit`` rows that can be used.

    Raises:
        DataError: the source is not there, is not what its name says, holds no row, or fits no shape.
    """
    left = reading.limit
    for file in open_source(source):
        rows = file.rows(reading.encoding, reading.delimiter)
        n_before = tally.n_read
        yield from read_file(file, rows if left is None else islice(rows, left), reading, tally, found)
        if left is not None:
            left -= tally.n_read - n_before
            if left <= 0:
                return


def open_source(source: Source) -> Sequence[DataFile | HubFile]:
    """The files of a source."""
    if source.path.startswith(PREFIX):
        return hub_files(source.path, source.subset, source.split)
    return find_files(source.path)


class RowFile(Protocol):
    """A file of rows, or what stands for one."""

    @property
    def path(self) -> Path:
        """Where it lies; images are looked for beside it."""
        ...


def read_file(file: RowFile, rows: Iterator[RawRow], reading: Reading, tally: Tally, found: list[Recognised]) -> Iterator[Record]:
    """Records of one file; see ``read_source``."""
    first = list(islice(rows, N_FIRST))
    readable = readable_rows(first, str(file.path))
    shape = recognise(
        readable,
        reading.kind,
        reading.mapping,
        reading.shape,
        str(file.path),
        with_truth=reading.with_truth,
        several_labels=reading.several_labels,
    )
    if shape not in found:
        found.append(shape)
    if reading.group_column is not None and not any(reading.group_column in values for values in readable):
        names = ", ".join(dict.fromkeys(name for values in readable for name in values))
        raise DataError(
            f"there is no column `{reading.group_column}`, which data.split.by names", where=str(file.path), hint=f"columns: {names}"
        )
    pictures = PictureFinder(file.path.parent, file.beside if isinstance(file, HubFile) else None)
    converter = Converter(
        shape,
        reading.kind,
        pictures,
        reading.group_column,
        reading.with_truth,
        ends_inclusive=_inclusive(shape, readable),
        several_labels=reading.several_labels,
    )
    for row in chain(first, rows):
        tally.n_read += 1
        try:
            yield converter.record(row)
        except RejectedRowError as rejection:
            tally.reject(row.origin, rejection)
        except RowError as err:
            tally.reject(row.origin, err)


def readable_rows(first: Sequence[RawRow], where: str) -> list[Mapping[str, Any]]:
    """The values of a file's first rows, those that cannot be read left out.

    Args:
        first: rows as they were read.
        where: the file, for messages.

    Returns:
        At least one row's values.

    Raises:
        DataError: there is no row, or none that can be read.
    """
    if not first:
        is_table = Path(where).suffix.lower() in (".csv", ".tsv")
        hint = "remove the file, or put rows into it" + ("; the first line only names the columns" if is_table else "")
        raise DataError("there is no row in it", where=where, hint=hint)
    readable = [row.values for row in first if not row.problem]
    if not readable:
        problems = "\n".join(f"{row.origin}: {row.problem}" for row in first[:N_EXAMPLES])
        raise DataError("none of the first rows can be read", where=where, hint=problems)
    return readable


def _inclusive(shape: Recognised, rows: Sequence[Mapping[str, object]]) -> bool:
    if shape.shape != "entities":
        return False
    entities, text = shape.columns.get("entities"), shape.columns["text"]
    return has_inclusive_ends([(row.get(entities or ""), str(row.get(text, ""))) for row in rows])
