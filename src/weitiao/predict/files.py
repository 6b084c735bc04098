"""What a prediction writes: answers, unsure rows and rejected rows, each a JSONL file that is only ever appended to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from weitiao.cache import cache_folder
from weitiao.errors import CommandError
from weitiao.predict.keys import Done, Keys, hexadecimal

ANSWER_KEYS = ("id", "origin", "answer", "asked")
REJECTED_KEYS = ("output", "origin", "reason")
"""Texts that each row of the two kinds of file has, the first one first."""

Append = Callable[[Mapping[str, Any]], None]
"""Writes a row; it is with the system when this returns, so that a killed process loses nothing of it."""


def unsure_path(output: Path) -> Path:
    """``answers.unsure.jsonl`` beside ``answers.jsonl``."""
    return output.with_name(f"{output.stem}.unsure.jsonl")


def rejected_path(output: Path) -> Path:
    """``rejected.jsonl`` beside the answers."""
    return output.with_name("rejected.jsonl")


def is_sure(confidence: float | None, least: float | None) -> bool:
    """Whether a row belongs among the answers, not among the unsure rows; ``least`` None: every row does."""
    return least is None or (confidence or 0.0) >= least


def answered_rows(output: Path, min_confidence: float | None) -> Done:
    """The rows that are answered, surely or not; what follows a file's last whole line, left by a crash, is cut off.

    Args:
        output: JSONL; its unsure rows lie beside it. A file that is not there holds nothing.
        min_confidence: of this call; see ``is_sure``.

    Returns:
        Their ids, and what was asked.

    Raises:
        CommandError: a file holds something else than answers, or rows that belong in the other one.
    """
    done = Done()
    hint = "name a new file with -o"
    for path in (output, unsure_path(output)):
        for row in _whole_rows(path, ANSWER_KEYS, hint=hint):
            if is_sure(row.get("confidence"), min_confidence) != (path == output):
                raise CommandError(
                    f"its row with the id {row['id']!r} was sorted by another --min-confidence",
                    where=str(path),
                    hint=f"{hint}, or give the --min-confidence that this one was made with",
                )
            done.ids.add(row["id"])
            done.questions.add(f"{row['id']}\0{row['asked']}")
    return done


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Refuse to write where another process writes.

    Args:
        output: the file of answers.

    Yields:
        Nothing; the lock goes with the process, however it ends.

    Raises:
        CommandError: another process predicts into the same file.
    """
    lock = _lock(output)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CommandError("another process writes answers to it", where=str(output), hint="wait for it, or name another -o") from error
    try:
        yield
    finally:
        lock.release()


def _lock(path: Path) -> FileLock:
    """Of a file, under whatever name it is called."""
    return FileLock(cache_folder("locks") / f"{hexadecimal(str(path.resolve()))}.lock")


class Rejections:
    """``rejected.jsonl``: rows of this and of earlier calls, each once. Several outputs of a folder share it."""

    def __init__(self, output: Path, stack: ExitStack) -> None:
        """Read what is there.

        Args:
            output: the file of answers.
            stack: closes the file.
        """
        self.path = rejected_path(output)
        self.n_rows = 0
        self._output = output.name
        self._stack = stack
        self._append: Append | None = None
        self._known = Keys()
        self._lock = _lock(self.path)
        with self._lock:
            for row in _whole_rows(self.path, REJECTED_KEYS, hint="move it away: rejected rows are listed there"):
                self._known.add(_identity(row))

    def add(self, origin: str, reason: str) -> None:
        """List a row, unless an earlier call listed it for the same reason."""
        self.n_rows += 1
        row = {"output": self._output, "origin": origin, "reason": reason}
        if self._known.add(_identity(row)):
            if self._append is None:
                self._append = self._stack.enter_context(appending(self.path))
            with self._lock:
                self._append(row)


@contextmanager
def appending(path: Path) -> Iterator[Append]:
    """Open a JSONL file to append to it.

    Args:
        path: made where it is not there, its folder too.

    Yields:
        A function that writes a row.

    Raises:
        CommandError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("ab", buffering=0)
    except OSError as error:
        raise _no_access(path, error) from error
    with opened as file:

        def append(row: Mapping[str, Any]) -> None:
            line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
            while line:
                line = line[file.write(line) :]

        yield append


def _whole_rows(path: Path, keys: Sequence[str], *, hint: str) -> Iterator[Mapping[str, Any]]:
    """Rows of a file that ``predict`` wrote, whose first key is the first of ``keys``; half a row at its end is cut off."""
    try:
        opened = path.open("rb+")
    except FileNotFoundError:
        return
    except OSError as error:
        raise _no_access(path, error) from error
    whole = 0
    with opened as file:
        for number, line in enumerate(file, 1):
            row = _parsed(line)
            is_ours = isinstance(row, dict) and all(isinstance(row.get(key), str) for key in keys)
            if line.endswith(b"\n") and is_ours:
                yield row
                whole += len(line)
            elif line.endswith(b"\n") or not (is_ours or _may_be_half(line, keys[0])):
                raise CommandError("this is not a row that `predict` wrote", where=f"{path}:{number}", hint=hint)
            else:
                file.truncate(whole)


def _no_access(path: Path, error: OSError) -> CommandError:
    hint = "look at the folder's permissions, or name another place with -o"
    return CommandError(f"cannot write ({error.strerror or error})", where=str(path), hint=hint)


def _parsed(line: bytes) -> Any:
    """A line of JSON; None where it is none."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _may_be_half(line: bytes, first_key: str) -> bool:
    """Whether a line is the beginning of a row whose first key is known, and not a whole row of something else."""
    beginning = f'{{"{first_key}": '.encode()
    return (line.startswith(beginning) or beginning.startswith(line)) and _parsed(line) is None


def _identity(row: Mapping[str, Any]) -> str:
    return "\0".join(str(row.get(name, "")) for name in ("output", "origin", "reason"))
