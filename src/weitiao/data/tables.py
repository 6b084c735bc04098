"""Readers of tables: csv with any delimiter, Parquet and Arrow. Each yields ``(row number, values or a problem)``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weitiao.data.encodings import open_text
from weitiao.data.text_files import Numbered
from weitiao.errors import DataError

DELIMITERS = (",", "\t", ";", "|")
N_SNIFFED = 50
"""Records from which the delimiter is told."""
BATCH_ROWS = 1024


def read_csv(path: Path, encoding: str | None, delimiter: str | None) -> Iterator[Numbered]:
    """A table whose first record names the columns. Rows are counted as a spreadsheet does: the first one after the names is 2."""
    delimiter = delimiter or _find_delimiter(path, encoding)
    # The library's limit of 131,072 characters per cell is below the length of many documents.
    csv.field_size_limit(sys.maxsize)
    with open_text(path, encoding) as file:
        lines = _Lines(file)
        records = csv.reader(lines, delimiter=delimiter)
        names: list[str] = []
        number = 0
        while True:
            lines.taken.clear()
            try:
                record = next(records, None)
            except csv.Error as err:
                raise DataError(f"the table breaks at line {records.line_num}: {err}", where=str(path)) from err
            if record is None:
                return
            _refuse_open_quote(lines, delimiter, path, records.line_num)
            number += 1
            if not record or record == [""]:
                continue
            if not names:
                names = _column_names(record, path)
                continue
            if len(record) != len(names):
                yield number, f"{len(record)} cells where the first line names {len(names)} columns"
            else:
                yield number, dict(zip(names, record, strict=True))


class _Lines:
    """Hands lines to the csv parser and remembers those of the record at hand, to tell a quote that is never closed."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.taken: list[str] = []
        self.at_end = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self.file, None)
        if line is None:
            self.at_end = True
            raise StopIteration
        self.taken.append(line)
        return str(line)


def _refuse_open_quote(lines: _Lines, delimiter: str, path: Path, line_number: int) -> None:
    """Raise where a quote makes one record of several lines without closing at a cell's end: those lines may be rows of their own."""
    if not lines.at_end and len(lines.taken) < 2:
        return
    try:
        list(csv.reader(lines.taken, delimiter=delimiter, strict=True))
    except csv.Error as err:
        is_open = "unexpected end" in str(err)
        if not is_open and len(lines.taken) < 2:
            return
        first = line_number - len(lines.taken) + 1
        does = f"is never closed; it swallows the {len(lines.taken)} lines up to the end"
        if not is_open:
            does = f"does not end at a cell's end; {len(lines.taken)} lines would be read as one row"
        hint = 'close it, or double quotes that belong to a text ("")'
        raise DataError(f"a quote opened in line {first} {does}", where=str(path), hint=hint) from None


def _column_names(record: list[str], path: Path) -> list[str]:
    names = [name.strip().lstrip("\ufeff") for name in record]
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise DataError(f"two columns are both named `{repeated[0]}`", where=str(path), hint="the first line must name each column once")
    return [name or f"column {i}" for i, name in enumerate(names, start=1)]


def _find_delimiter(path: Path, encoding: str | None) -> str:
    """The delimiter by which most of the first records have as many cells as the first one, and that number is largest."""
    csv.field_size_limit(sys.maxsize)
    best, best_score = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        widths = []
        with open_text(path, encoding) as file:
            records = csv.reader(file, delimiter=delimiter)
            try:
                for record in records:
                    if record:
                        widths.append(len(record))
                    if len(widths) >= N_SNIFFED or records.line_num > 100 * N_SNIFFED:
                        break
            except csv.Error:
                continue
        if widths and widths[0] > 1:
            share = sum(width == widths[0] for width in widths) / len(widths)
            best, best_score = max((best, best_score), (delimiter, (share, widths[0])), key=lambda pair: pair[1])
    return best


def read_parquet(path: Path, _encoding: str | None, _delimiter: str | None) -> Iterator[Numbered]:
    """A Parquet file, read in batches. Class numbers of a Hugging Face data set become their names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = _class_names(file.schema_arrow)
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                batch.validate(full=True)
                for row in batch.to_pylist():
                    number += 1
                    yield number, _with_names(row, names)
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as err:
        raise DataError(f"this Parquet file cannot be read: {_first_line(err)}", where=str(path)) from err


def read_arrow(path: Path, _encoding: str | None, _delimiter: str | None) -> Iterator[Numbered]:
    """An Arrow file or stream (what ``Dataset.save_to_disk`` writes), read in batches."""
    import pyarrow as pa

    try:
        with pa.OSFile(str(path)) as source:
            try:
                reader = pa.ipc.open_file(source)
                batches: Iterator[Any] = (reader.get_batch(i) for i in range(reader.num_record_batches))
            except pa.ArrowInvalid:
                source.seek(0)
                reader = pa.ipc.open_stream(source)
                batches = iter(reader)
            names = _class_names(reader.schema)
            number = 0
            for batch in batches:
                # A damaged file may hold offsets that point outside it, which only this looks at.
                batch.validate(full=True)
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    for row in batch.slice(start, BATCH_ROWS).to_pylist():
                        number += 1
                        yield number, _with_names(row, names)
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as err:
        raise DataError(f"this Arrow file cannot be read: {_first_line(err)}", where=str(path)) from err


def _first_line(err: Exception) -> str:
    return str(err).strip().split("\n", 1)[0] or type(err).__name__


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Names of class labels per column, from the note that the ``datasets`` library leaves in a schema."""
    note = (schema.metadata or {}).get(b"huggingface")
    if note is None:
        return {}
    try:
        features = json.loads(note)["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    names = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and isinstance(inner.get("names"), list):
            names[column] = [str(name) for name in inner["names"]]
    return names


def _with_names(row: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    for column, labels in names.items():
        row[column] = _named(row.get(column), labels)
    return row


def _named(value: Any, labels: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, labels) for item in value]
    if isinstance(value, int) and 0 <= value < len(labels):
        return labels[value]
    return value
