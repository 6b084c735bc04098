"""Readers of text files: JSON lines, JSON, plain text, and one token with its tag per line.

Each yields ``(row number, values or a problem)`` and reads no more of the file at once than a row needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from weitiao.data.encodings import open_text
from weitiao.errors import DataError

CHUNK = 1 << 20
"""Characters read at once from a JSON array."""
MAX_DOCUMENT = 1_000_000
"""Characters of a plain text file that make one row; a longer file becomes several, cut at line ends."""
CONTAINERS = ("data", "rows", "examples", "train", "items", "records")
"""Keys under which a JSON object may hold its rows."""
N_NAMED = 3
"""Names of an object that a message shows."""

Numbered = tuple[int, "dict[str, Any] | str"]
"""A row number from 1, and the row's values, or a sentence saying why there are none."""


def read_jsonl(path: Path, encoding: str | None, _delimiter: str | None) -> Iterator[Numbered]:
    """One JSON object per line; also a JSON array under this name. Row numbers are line numbers."""
    with open_text(path, encoding) as file:
        first = _first_sign(file)
        if first == "[":
            yield from _array_rows(file, path)
        else:
            yield from _line_rows(file, path)


def read_json(path: Path, encoding: str | None, _delimiter: str | None) -> Iterator[Numbered]:
    """A JSON array of rows, an object that holds one under ``data`` or the like, or JSON lines. Rows are counted from 1."""
    with open_text(path, encoding) as file:
        first = _first_sign(file)
        if first == "[":
            yield from _array_rows(file, path)
        elif first == "{" and not _has_object_per_line(file) and (inner := _container_start(file)) is not None:
            file.seek(0)
            yield from _array_rows(file, path, skip=inner)
        elif first == "{":
            yield from _line_rows(file, path)
        else:
            raise DataError("this is not JSON: it begins with neither [ nor {", where=str(path))


def read_txt(path: Path, encoding: str | None, _delimiter: str | None) -> Iterator[Numbered]:
    """A whole file is one document; beyond a million characters it is cut at line ends. Row numbers are line numbers."""
    with open_text(path, encoding) as file:
        lines: list[str] = []
        start, n_characters = 1, 0
        for number, line in enumerate(file, start=1):
            if n_characters + len(line) > MAX_DOCUMENT and lines:
                yield start, {"text": "".join(lines)}
                lines, start, n_characters = [], number, 0
            lines.append(line)
            n_characters += len(line)
        if lines:
            yield start, {"text": "".join(lines).strip("\r\n")}


def read_conll(path: Path, encoding: str | None, _delimiter: str | None) -> Iterator[Numbered]:
    """One token and its tag per line, blank lines between sentences. Row numbers are those of the first line."""
    with open_text(path, encoding) as file:
        tokens: list[str] = []
        tags: list[str] = []
        start, problem = 1, ""
        for number, line in enumerate(file, start=1):
            cells = line.split()
            if not cells or cells[0] == "-DOCSTART-":
                if tokens or problem:
                    yield start, problem or {"tokens": tokens, "tags": tags}
                tokens, tags, start, problem = [], [], number + 1, ""
            elif len(cells) < 2:
                problem = "a line holds no tag beside its token"
            else:
                tokens.append(cells[0])
                tags.append(cells[-1])
        if tokens or problem:
            yield start, problem or {"tokens": tokens, "tags": tags}


def _first_sign(file: TextIO) -> str:
    """The first character that is not blank; the file is back at its beginning afterwards."""
    sign = " "
    while sign and sign.isspace():
        sign = file.read(1)
    file.seek(0)
    return sign


def _has_object_per_line(file: TextIO) -> bool:
    """Whether the first line is a whole JSON object and more follows; the file is back at its beginning afterwards."""
    line = file.readline()
    has_more = bool(file.read(CHUNK).strip())
    file.seek(0)
    return has_more and isinstance(_json_row(line), dict)


def _line_rows(file: TextIO, path: Path) -> Iterator[Numbered]:
    """One JSON object per line."""
    _refuse_named_rows(file, path)
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield number, _json_row(line.rstrip())


def _refuse_named_rows(file: TextIO, path: Path) -> None:
    """Refuse a file that is one object of rows under names of their own: ``{"a17": {...}, "a18": {...}}``."""
    if _has_object_per_line(file):
        return
    head = file.read(CHUNK)
    file.seek(0)
    members = list(_members(head)) if head.lstrip().startswith("{") else []
    if len(members) > 1 and all(head[start : start + 1] in ("{", "") for _, start in members):
        names = ", ".join(f"`{name}`" for name, _ in members[:N_NAMED])
        hint = 'write it as a list, [{"id": "…", …}, …], or one row per line, with what names a row inside it'
        raise DataError(f"this is one object of objects ({names}, …), not a list of rows", where=str(path), hint=hint)


def _json_row(text: str) -> dict[str, Any] | str:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as err:
        return f"not JSON: {err.msg} at character {err.pos + 1}"
    except (ValueError, RecursionError):
        return "not JSON: a number is too long or the nesting too deep"
    return _as_row(value)


def _as_row(value: Any) -> dict[str, Any] | str:
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    return f"not a row: a JSON {type(value).__name__} where an object is expected"


def _container_start(file: TextIO) -> int | None:
    """Characters before the array of rows inside an object like ``{"version": 1, "data": [...]}``; None where there is none."""
    head = file.read(CHUNK)
    file.seek(0)
    return next((start for name, start in _members(head) if name in CONTAINERS and head[start : start + 1] == "["), None)


def _members(head: str) -> Iterator[tuple[str, int]]:
    """Names in the JSON object that a text begins with, and where their values start, as far as the text goes."""
    decoder = json.JSONDecoder()
    try:
        position = head.index("{") + 1
        while True:
            position += _n_blank(head, position)
            name, position = decoder.raw_decode(head, position)
            position += _n_blank(head, position)
            if head[position] != ":":
                return
            position += 1 + _n_blank(head, position + 1)
            yield name, position
            _, position = decoder.raw_decode(head, position)
            position += _n_blank(head, position)
            if head[position] != ",":
                return
            position += 1
    except (ValueError, IndexError, RecursionError):
        return


def _n_blank(text: str, position: int) -> int:
    end = position
    while end < len(text) and text[end] in " \t\r\n":
        end += 1
    return end - position


def _array_rows(file: TextIO, path: Path, skip: int = 0) -> Iterator[Numbered]:
    """Items of a JSON array, one at a time, from a buffer that grows only while an item does not fit."""
    decoder = json.JSONDecoder()
    file.read(skip)
    buffer = file.read(CHUNK)
    position = _n_blank(buffer, 0) + 1
    number = 0
    while True:
        position += _n_blank(buffer, position)
        if position < len(buffer) and buffer[position] == "]":
            return _refuse_more(buffer[position + 1 :], file, path, skip)
        number += 1
        try:
            value, end = decoder.raw_decode(buffer, position)
            after = end + _n_blank(buffer, end)
            is_whole = after < len(buffer)
            problem: Exception | None = None
        except (ValueError, RecursionError) as err:
            is_whole, problem = False, err
        if not is_whole:
            more = file.read(max(CHUNK, len(buffer)))
            if not more:
                raise _broken_array(path, number, problem)
            buffer, position, number = buffer[position:] + more, 0, number - 1
            continue
        yield number, _as_row(value)
        if buffer[after] == "]":
            return _refuse_more(buffer[after + 1 :], file, path, skip)
        if buffer[after] != ",":
            raise _broken_array(path, number + 1, None)
        position = after + 1
        if position > CHUNK:
            buffer, position = buffer[position:], 0


def _refuse_more(rest: str, file: TextIO, path: Path, skip: int) -> None:
    """Raise where something follows the array; behind one inside an object (``skip``) the object's other members may."""
    if not skip and (rest + file.read(CHUNK)).strip():
        hint = "write one array, or one object per line"
        raise DataError("more follows the JSON array, which would be left out", where=str(path), hint=hint)


def _broken_array(path: Path, number: int, problem: Exception | None) -> DataError:
    said = problem.msg if isinstance(problem, json.JSONDecodeError) else "the array does not go on or end as JSON does"
    return DataError(
        f"the JSON breaks at item {number}: {said}",
        where=str(path),
        hint=f"items before it are whole ({number - 1}); nothing after it can be read until it is mended",
    )
