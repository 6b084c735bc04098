"""Which ids have been seen, in 8 bytes each: millions of rows fit beside a model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

PENDING = 1 << 15
"""Keys that wait in a Python set before they are sorted in among the others."""


class Keys:
    """A growing set of texts, each kept as a hash of 64 bits. Among 10 million texts two share one with a chance of 3 in a million."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, dtype=np.uint64)
        self._pending: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._pending)

    def __contains__(self, text: str) -> bool:
        return self._has(_key(text))

    def add(self, text: str) -> bool:
        """Put a text in.

        Args:
            text: e.g. the id of a row.

        Returns:
            Whether it is new.
        """
        key = _key(text)
        if self._has(key):
            return False
        self._pending.add(key)
        if len(self._pending) >= PENDING:
            new = np.fromiter(self._pending, dtype=np.uint64, count=len(self._pending))
            new.sort()
            self._sorted = np.insert(self._sorted, np.searchsorted(self._sorted, new), new)
            self._pending.clear()
        return True

    def _has(self, key: int) -> bool:
        if key in self._pending:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(key)))
        return place < len(self._sorted) and int(self._sorted[place]) == key


@dataclass(frozen=True, slots=True)
class Done:
    """Rows that are answered already."""

    ids: Keys = field(default_factory=Keys)
    questions: Keys = field(default_factory=Keys)
    """``ID\\0KEY``, where the key says what was asked of which weights."""


class UniqueIds:
    """Gives every row of a file an id of its own: what came before gets ``#2``, ``#3``, … behind it, the same at every reading."""

    def __init__(self) -> None:
        self._seen = Keys()
        self._repeats: dict[int, int] = {}

    def of(self, name: str) -> str:
        """The id under which the next row named ``name`` is known."""
        if self._seen.add(name):
            return name
        key = _key(name)
        n_before = self._repeats.get(key, 1)
        while not self._seen.add(f"{name}#{n_before + 1}"):
            n_before += 1
        self._repeats[key] = n_before + 1
        return f"{name}#{n_before + 1}"


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hexadecimal(text: str) -> str:
    """A text's hash as 16 hexadecimal digits."""
    return f"{_key(text):016x}"
