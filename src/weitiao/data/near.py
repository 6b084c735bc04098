"""Near duplicates: MinHash over character 3-grams, banded to find candidates, every candidate pair then compared exactly.

A text's signature is 64 minima of hashed 3-grams; two texts agree in as large a share of them as their 3-gram sets overlap (Broder,
1997). Texts that agree in all rows of any band are candidates.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

N_HASHES = 64
MULTIPLIERS = np.random.default_rng(20240601).integers(1, 2**63, N_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
SHIFT = np.uint64(32)
GRAM = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9))
BETWEEN_WORDS = re.compile(r"[\W_]+")
MAX_CHARACTERS = 20_000
"""Of a text that are looked at."""


def grams(text: str) -> np.ndarray:
    """The 3-grams of a text as hashes, repeated where they are repeated; blanks, punctuation and case make no difference.

    Args:
        text: any; of a very long one the beginning counts.

    Returns:
        uint64 numbers, one for a text of up to three letters, none for one without letters or digits.
    """
    signs = np.frombuffer(BETWEEN_WORDS.sub("", text[:MAX_CHARACTERS]).casefold().encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    codes = signs.astype(np.uint64)
    if 0 < len(codes) < 3:
        codes = np.pad(codes, (0, 3 - len(codes)))
    with np.errstate(over="ignore"):
        mixed = codes[:-2] * GRAM[0] + codes[1:-1] * GRAM[1] + codes[2:] * GRAM[2]
        hashes: np.ndarray = (mixed ^ (mixed >> SHIFT)) * GRAM[1]
    return hashes


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Jaccard overlap of two sets of distinct grams, in [0, 1]."""
    common = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - common
    return common / union if union else 1.0


class NearIndex:
    """Collects texts by row number, then finds families of near duplicates among them."""

    def __init__(self, threshold: float, rows_per_band: int, max_texts: int | None) -> None:
        """Set how near is near.

        Args:
            threshold: least Jaccard overlap of two neighbours, in (0, 1].
            rows_per_band: hashes that must all agree for two texts to be compared: fewer find more and cost more.
            max_texts: texts beyond this number are not looked at; None for no limit.
        """
        self._threshold = threshold
        self._rows_per_band = rows_per_band
        self._max_texts = max_texts
        self._rows: list[int] = []
        self._signatures = bytearray()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def is_full(self) -> bool:
        """Whether further texts are left out."""
        return self._max_texts is not None and len(self._rows) >= self._max_texts

    def add(self, row: int, text: str) -> None:
        """Take a text; an empty one is passed over."""
        if self.is_full:
            return
        hashes = grams(text)
        if len(hashes):
            with np.errstate(over="ignore"):
                signature = ((hashes[:, None] * MULTIPLIERS) >> SHIFT).min(axis=0).astype(np.uint32)
            self._rows.append(row)
            self._signatures += signature.tobytes()

    def families(self, text_of: Callable[[int], str]) -> list[list[int]]:
        """Rows that are near duplicates of one another, directly or through others.

        Args:
            text_of: the text of a row that was added.

        Returns:
            Families of at least two rows, largest first, rows in ascending order.
        """
        signatures = np.frombuffer(self._signatures, dtype=np.uint32).reshape(-1, N_HASHES)
        parent = list(range(len(self._rows)))
        known: dict[int, np.ndarray] = {}

        def root(item: int) -> int:
            while parent[item] != item:
                parent[item] = parent[parent[item]]
                item = parent[item]
            return item

        def grams_of(item: int) -> np.ndarray:
            if item not in known:
                if len(known) > 4096:
                    known.clear()
                known[item] = np.unique(grams(text_of(self._rows[item])))
            return known[item]

        for first, second in self._candidates(signatures):
            a, b = root(first), root(second)
            if a != b and overlap(grams_of(first), grams_of(second)) >= self._threshold:
                parent[max(a, b)] = min(a, b)
        members: dict[int, list[int]] = {}
        for item, row in enumerate(self._rows):
            members.setdefault(root(item), []).append(row)
        return sorted((rows for rows in members.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows[0]))

    def _candidates(self, signatures: np.ndarray) -> list[tuple[int, int]]:
        """Pairs that agree in a band: each text with the one before it and with the first of its bucket."""
        pairs: set[tuple[int, int]] = set()
        for start in range(0, N_HASHES - self._rows_per_band + 1, self._rows_per_band):
            band = signatures[:, start : start + self._rows_per_band].astype(np.uint64)
            with np.errstate(over="ignore"):
                key = (band * MULTIPLIERS[: self._rows_per_band]).sum(axis=1)
            order = np.argsort(key, kind="stable")
            ordered = key[order]
            same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
            if not len(same):
                continue
            starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
            firsts = order[starts[np.searchsorted(starts, same, side="right") - 1]]
            pairs.update(zip(order[same - 1].tolist(), order[same].tolist(), strict=True))
            pairs.update(zip(firsts.tolist(), order[same].tolist(), strict=True))
        return sorted(pair for pair in pairs if pair[0] != pair[1])
