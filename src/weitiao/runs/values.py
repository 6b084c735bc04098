"""Values as JSON on disk: whole files replaced at once, rows appended one write each, a full disk said in a sentence."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from weitiao.errors import WeitiaoError

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_DISK_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")


def jsonable(value: Any) -> Any:
    """Turn a value into what JSON has.

    Args:
        value: dataclasses and pydantic models become mappings, numpy scalars and arrays numbers and lists, paths text, sets sorted lists;
            numbers that are not finite become None, since JSON has none. Dataclass fields whose metadata says ``written: False`` are
            left out.

    Returns:
        Mappings with text keys, lists, text, finite numbers, booleans and None.

    Raises:
        TypeError: a value has no JSON form.
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, BaseModel):
        return jsonable(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field for field in dataclasses.fields(value) if field.metadata.get("written", True))
        return {field.name: jsonable(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(jsonable(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, without importing numpy here
        return jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; a reader sees the old content or the new, never half of it.

    Args:
        path: the file; its folder exists.
        value: anything that ``jsonable`` takes.

    Raises:
        WeitiaoError: the disk is full or the file cannot be written.
    """
    write_text(path, json.dumps(jsonable(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file at once, in UTF-8.

    Args:
        path: the file; its folder exists.
        text: its whole content.

    Raises:
        WeitiaoError: the disk is full or the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with full_disk_in_words(path):
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def append_line(path: Path, row: Any) -> None:
    """Add a row to a JSONL file in one write; a half row that a crash left at the end is removed first.

    Args:
        path: the file; made when it is not there.
        row: anything that ``jsonable`` takes.

    Raises:
        WeitiaoError: the disk is full or the file cannot be written; the rows before this one are whole.
    """
    line = (json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False) + "\n").encode()
    with full_disk_in_words(path), path.open("a+b", buffering=0) as file:
        _cut_half_row(file.fileno())
        n_written = file.write(line)
        if n_written != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _cut_half_row(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        start = max(0, end - 4096)
        block = os.pread(descriptor, end - start, start)
        newline = block.rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Args:
        path: the file.

    Returns:
        Its content.

    Raises:
        WeitiaoError: the file is missing or is not JSON.
    """
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise WeitiaoError(f"the file is damaged ({error})", where=str(path), hint="start the run again in another folder") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file of a run; what follows the last line end is left out.

    Args:
        path: the file.

    Returns:
        Its rows in order.

    Raises:
        WeitiaoError: the file is missing, or a row is not JSON.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_read(path).split(b"\n")[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            where = f"{path}:{number}"
            raise WeitiaoError(f"the row is damaged ({error})", where=where, hint="start the run again in another folder") from error
    return rows


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise WeitiaoError(
            "the run has no such file yet", where=str(path), hint="was the run finished? `--resume` goes on with it"
        ) from None


def no_space_left(error: BaseException) -> bool:
    """Whether an error says that the disk is full.

    Args:
        error: of the system, or of a library that wraps the system's in one of its own; what caused it is looked at too.

    Returns:
        True for a full disk, a quota that is used up, and a limit on the size of files.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL_DISK:
            return True
        if not isinstance(seen, OSError | WeitiaoError) and any(words in str(seen) for words in FULL_DISK_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def no_space_error(path: Path) -> WeitiaoError:
    """The sentence for a full disk."""
    return WeitiaoError("no space left on the disk", where=str(path), hint="free some space, then go on with --resume")


@contextmanager
def full_disk_in_words(path: Path) -> Iterator[None]:
    """Turn the errors of writing to ``path`` into sentences.

    Args:
        path: what is written.

    Yields:
        Nothing.

    Raises:
        WeitiaoError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        if no_space_left(error):
            raise no_space_error(path) from error
        raise WeitiaoError(f"cannot write ({error.strerror or error})", where=str(path), hint="look at the folder's permissions") from error
