"""Rows that a program hands over one by one, as dicts: each is a sample or says why it is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.data.check import usable_sample
from weitiao.data.convert import Converter
from weitiao.data.pictures import PictureFinder
from weitiao.data.rows import RawRow, RejectedRowError
from weitiao.data.shapes import recognise
from weitiao.data.sources import reading_of
from weitiao.data.store import completed
from weitiao.errors import DataError, RowError
from weitiao.recipe.sections import Data
from weitiao.seams import Sample, Task

FindImage = Callable[[str], Path]
"""From an image's address to a file; raises ``RowError`` where it is not allowed or no image."""


@dataclass(frozen=True, slots=True)
class GivenPictures(PictureFinder):
    """Images of rows that come from outside: files of this machine are out of their reach."""

    keep: FindImage | None = None

    def find(self, cell: Any, origin: str) -> Path:
        """The file of an image that the row holds.

        Args:
            cell: an address, or an object with ``url``.
            origin: of the row.

        Returns:
            What ``keep`` made of it.

        Raises:
            RejectedRowError: the cell is neither.
        """
        address = cell.get("url") if isinstance(cell, Mapping) else cell
        if self.keep is None or not isinstance(address, str) or not address.startswith(("data:", "http://", "https://")):
            raise RejectedRowError("the image is no address", where=origin, hint="send the image itself: data:image/png;base64,…")
        return self.keep(address)


def read_rows(
    rows: Sequence[Mapping[str, Any]], section: Data, task: Task, find_image: FindImage, candidates: tuple[str, ...] = ()
) -> list[Sample | RowError]:
    """Turn rows to be answered into samples, as a file of the same rows would be.

    Args:
        rows: with the columns of the recipe's data; answers are not needed. Each is told by itself.
        section: the recipe's ``data``.
        task: makes samples of records.
        find_image: for images that rows hold.
        candidates: labels for rows that name none: those of the training rows.

    Returns:
        Per row, its sample without answer, or what is wrong with it; origins are ``row 1``, ``row 2``, …
    """
    return [_read(row, f"row {number}", section, task, find_image, candidates) for number, row in enumerate(rows, 1)]


def _read(
    row: Mapping[str, Any], origin: str, section: Data, task: Task, find_image: FindImage, candidates: tuple[str, ...]
) -> Sample | RowError:
    reading = reading_of(section, task, with_truth=False)
    try:
        several = reading.several_labels
        shape = recognise([row], reading.kind, reading.mapping, reading.shape, origin, with_truth=False, several_labels=several)
        pictures = GivenPictures(Path(), keep=find_image)
        converter = Converter(shape, reading.kind, pictures, with_truth=False, several_labels=several)
        record = completed(converter.record(RawRow(origin, row)), candidates)
        return usable_sample(record, task, task.check_record(record))
    except RowError as error:
        return error
    except DataError as error:
        return RowError(error.what, where=error.where, hint=error.hint)
