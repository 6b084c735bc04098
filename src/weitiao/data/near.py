"""Near duplicates: MinHash over character 3-grams, banded to find candidates, every candidate pair then compared exactly.

A text's signature is 64 minima of hashed 3-grams; two texts agree in as large a share of them as their 3-gram sets overlap (Broder,
1997). Texts that agree in all rows of any band are candidates.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np

from weitiao.log import progress

# All numbers have 32 bits: processors multiply eight of them at once, but no 64-bit ones.
N_HASHES = 64
MULTIPLIERS = np.random.default_rng(20240601).integers(0, 2**31, N_HASHES, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
BAND_MULTIPLIERS = np.random.default_rng(20240601).integers(1, 2**63, N_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
GRAM = (np.uint32(0x9E3779B1), np.uint32(0xC2B2AE3D), np.uint32(0x165667B1))
MIX = np.uint32(0x85EBCA6B)
WORDS = re.compile(r"[^\W_]+")
MAX_CHARACTERS = 20_000
"""Of a text that are looked at."""
DOUBT = 0.2
"""How far the share of equal minima may lie below the overlap that it stands for: four standard deviations where that is 0.8."""
N_KNOWN = 4096
"""Texts whose distinct grams are remembered while pairs are compared."""
KEPT_BYTES = 64 << 20
"""Grams of so many bytes are kept from adding to comparing; those of further texts are made of the texts again."""
BLOCK_PAIRS = 65_536
BLOCK_GRAMS = 2048
"""Grams whose products with all multipliers fit into a processor's cache."""


def grams(text: str) -> np.ndarray:
    """The 3-grams of a text as hashes, repeated where they are repeated; blanks, punctuation and case make no difference.

    Args:
        text: any; of a very long one the beginning counts.

    Returns:
        uint32 numbers, one for a text of up to three letters, none for one without letters or digits.
    """
    signs = np.frombuffer(text[:MAX_CHARACTERS].casefold().encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    codes = signs[_letters()[signs]]
    if 0 < len(codes) < 3:
        codes = np.pad(codes, (0, 3 - len(codes)))
    with np.errstate(over="ignore"):
        hashes: np.ndarray = codes[:-2] * GRAM[0] + codes[1:-1] * GRAM[1] + codes[2:] * GRAM[2]
        hashes ^= hashes >> np.uint32(16)
        hashes *= MIX
        hashes ^= hashes >> np.uint32(13)
    return hashes


@cache
def _letters() -> np.ndarray:
    """Whether each character, by its number, is a letter or a digit."""
    every = np.arange(sys.maxunicode + 1, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    table = np.zeros(len(every), dtype=bool)
    for run in WORDS.finditer(every):
        table[run.start() : run.end()] = True
    return table


def signature(hashes: np.ndarray) -> np.ndarray:
    """The least product of any gram with each multiplier, uint32; ``hashes`` holds at least one gram."""
    least = np.full(N_HASHES, 2**32 - 1, dtype=np.uint32)
    for start in range(0, len(hashes), BLOCK_GRAMS):
        with np.errstate(over="ignore"):
            products = MULTIPLIERS[:, None] * hashes[None, start : start + BLOCK_GRAMS]
        np.minimum(least, products.min(axis=1), out=least)
    return least


def _distinct(hashes: np.ndarray) -> np.ndarray:
    """Ascending, each once. For some thousand numbers sorting is quicker than the hash table of ``np.unique``."""
    ordered = np.sort(hashes)
    return ordered[np.r_[True, ordered[1:] != ordered[:-1]]]


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
        self._grams: list[np.ndarray] = []
        self._n_bytes = 0

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
            self._rows.append(row)
            self._signatures += signature(hashes).tobytes()
            self._n_bytes += hashes.nbytes
            if self._n_bytes <= KEPT_BYTES:
                self._grams.append(hashes)

    def families(self, text_of: Callable[[int], str]) -> list[list[int]]:
        """Rows that are near duplicates of one another, directly or through others.

        Args:
            text_of: the text of a row that was added.

        Returns:
            Families of at least two rows, largest first, rows in ascending order.
        """
        signatures = np.frombuffer(self._signatures, dtype=np.uint32).reshape(-1, N_HASHES)
        parent = list(range(len(self._rows)))

        def root(item: int) -> int:
            while parent[item] != item:
                parent[item] = parent[parent[item]]
                item = parent[item]
            return item

        @lru_cache(N_KNOWN)
        def grams_of(item: int) -> np.ndarray:
            return _distinct(self._grams[item] if item < len(self._grams) else grams(text_of(self._rows[item])))

        pairs = self._candidates(signatures)
        with progress("comparing", len(pairs), "pairs") as advance:
            for first, second in pairs:
                a, b = root(first), root(second)
                if a != b and overlap(grams_of(first), grams_of(second)) >= self._threshold:
                    parent[max(a, b)] = min(a, b)
                advance(1)
        members: dict[int, list[int]] = {}
        for item, row in enumerate(self._rows):
            members.setdefault(root(item), []).append(row)
        return sorted((rows for rows in members.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows[0]))

    def _candidates(self, signatures: np.ndarray) -> list[tuple[int, int]]:
        """Pairs that agree in a band, each text with the one before it and with the first of its bucket, by the later text of a pair.

        Texts are read in about that order, so that neighbours in the file are read together.
        """
        n = len(signatures)
        found = [np.zeros(0, dtype=np.int64)]
        for start in range(0, N_HASHES - self._rows_per_band + 1, self._rows_per_band):
            band = signatures[:, start : start + self._rows_per_band].astype(np.uint64)
            with np.errstate(over="ignore"):
                key = (band * BAND_MULTIPLIERS[: self._rows_per_band]).sum(axis=1)
            order = np.argsort(key, kind="stable")
            ordered = key[order]
            same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
            starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
            firsts = order[starts[np.searchsorted(starts, same, side="right") - 1]]
            found += [order[same] * n + before for before in (order[same - 1], firsts)]
        later, earlier = np.divmod(np.unique(np.concatenate(found)), n)
        likely = [
            (signatures[part] == signatures[other]).mean(axis=1) > self._threshold - DOUBT
            for part, other in zip(*(np.array_split(side, len(later) // BLOCK_PAIRS + 1) for side in (later, earlier)), strict=True)
        ]
        chosen = np.concatenate(likely)
        return list(zip(earlier[chosen].tolist(), later[chosen].tolist(), strict=True))
