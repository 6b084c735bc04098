"""What makes two records equal: hashes of their input, their images and their answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from weitiao.seams import Record


def hashed(text: str) -> int:
    """A hash of 64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def input_text(record: Record) -> str:
    """What the model is given, as text: the conversation before the answer, or the row's own text."""
    if record.messages:
        asked = record.messages[:-1] if record.messages[-1].role == "assistant" else record.messages
        return "\n".join(message.text for message in asked if message.role != "system")
    return record.text or record.instruction


def turns_of(record: Record) -> list[tuple[str, str]]:
    """Everything that the model is given before the answer as (role, text), the system message included."""
    if not record.messages:
        return [("system", record.system), ("instruction", record.instruction), ("user", record.text)]
    asked = record.messages[:-1] if record.messages[-1].role == "assistant" else record.messages
    return [(message.role, message.text) for message in asked]


def content_key(turns: Iterable[tuple[str, str]], answer: str, more: Sequence[str]) -> int:
    """A hash of all that a row holds: turns as ``turns_of`` gives them, the answer, and what else belongs to it."""
    said = hashlib.blake2b(digest_size=8)
    for role, text in turns:
        said.update(_bytes(role, text, ""))
    return _ended(said, answer, more)


def beginning_keys(turns: Iterable[tuple[str, str]], more: Sequence[str]) -> list[int]:
    """For each earlier answer among the turns, the ``content_key`` of a row that ends with it."""
    out, said = [], hashlib.blake2b(digest_size=8)
    for role, text in turns:
        if role == "assistant":
            out.append(_ended(said.copy(), text, more))
        said.update(_bytes(role, text, ""))
    return out


def _ended(said: hashlib.blake2b, answer: str, more: Sequence[str]) -> int:
    said.update(_bytes(answer, *more))
    return int.from_bytes(said.digest(), "little")


def _bytes(*texts: str) -> bytes:
    return "\0".join(texts).encode(errors="surrogatepass")


def answer_text(record: Record) -> str:
    """The truth of a record, as text that is equal for equal truths."""
    if record.entities is not None:
        spans = sorted((entity.start, entity.end, entity.label) for entity in record.entities)
        return json.dumps(spans, ensure_ascii=False)
    if record.labels:
        return json.dumps(sorted(record.labels), ensure_ascii=False)
    if record.captions:
        return "\n".join(record.captions)
    return record.answer or ""


class ImageHashes:
    """Hashes of image files by content; every file is read once."""

    def __init__(self) -> None:
        self._known: dict[Path, int] = {}

    def of(self, path: Path) -> int:
        """The hash of a file's bytes, 64 bits."""
        found = self._known.get(path)
        if found is None:
            with path.open("rb") as file:
                found = int.from_bytes(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).digest(), "little")
            self._known[path] = found
        return found
