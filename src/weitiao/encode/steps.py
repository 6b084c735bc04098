"""Which rows are computed together: rows are dealt into optimizer steps, and the rows of a step packed by best fit.

A step's loss is the mean over all its trained tokens, so packing changes time and memory, never the mathematics.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weitiao.encode.store import have_pictures, row_beginning, row_lengths
from weitiao.seams import IGNORED, EncodedRow

MICRO_BATCH_TOKENS = 1024
"""Tokens computed at once where the recipe does not say: matrix products run at full rate, activations stay below the weights in size."""
LEAST_PREFIX = 8
"""A shared beginning shorter than this is not worth a packed layout of its own."""


@dataclass(frozen=True)
class StepPlan:
    """Deals rows into steps, anew in each epoch; implements ``seams.Steps``."""

    rows: Sequence[EncodedRow]
    n_steps: int
    micro_batch_tokens: int
    packing: bool
    prefix_length: int
    """Tokens that all rows begin with and that are computed once per packed row; 0 for none."""
    seed: int

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.n_steps

    def step(self, epoch: int, index: int) -> list[EncodedRow]:
        """Rows of one optimizer step.

        Args:
            epoch: from 0; decides the order of the rows together with the seed.
            index: in [0, len(self)).

        Returns:
            Packed rows, or single ones without packing. Each row of the set is in exactly one step of an epoch.
        """
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        start, end = (len(order) * i // self.n_steps for i in (index, index + 1))
        chosen = [self.rows[int(i)] for i in order[start:end]]
        return pack(chosen, self.micro_batch_tokens, self.prefix_length) if self.packing else chosen


def plan_steps(
    rows: Sequence[EncodedRow],
    *,
    batch_tokens: int,
    batch_rows: int | None,
    micro_batch_tokens: int | None,
    packing: bool,
    share_prefix: bool,
    seed: int,
) -> StepPlan:
    """Decide how many optimizer steps an epoch has and what is computed at once.

    Args:
        rows: encoded rows, at least one.
        batch_tokens: about how many tokens a step has.
        batch_rows: about how many rows a step has, where that is fewer; None: tokens alone decide.
        micro_batch_tokens: length limit of a packed row; the longest row where that is longer. None: ``MICRO_BATCH_TOKENS``.
        packing: whether rows are joined.
        share_prefix: whether a beginning common to all rows is computed once per packed row.
        seed: of the order of rows.

    Returns:
        A plan with steps of nearly equal row counts.
    """
    lengths = row_lengths(rows)
    n_steps = max(math.ceil(int(lengths.sum()) / batch_tokens), math.ceil(len(rows) / batch_rows) if batch_rows else 1)
    limit = max(micro_batch_tokens or MICRO_BATCH_TOKENS, int(lengths.max()))
    prefix = common_prefix(rows) if packing and share_prefix else 0
    return StepPlan(rows, min(n_steps, len(rows)), limit, packing, prefix if prefix >= LEAST_PREFIX else 0, seed)


def common_prefix(rows: Sequence[EncodedRow]) -> int:
    """Length of the beginning that all rows share and that predicts no trained token.

    Args:
        rows: unpacked rows, at least one.

    Returns:
        Number of tokens, 0 where rows hold images or begin differently.
    """
    if have_pictures(rows):
        return 0
    first = np.array(rows[0].input_ids, np.int32)
    n = len(first)
    for index in range(len(rows)):
        beginning = row_beginning(rows, index, n + 1)
        trained = beginning < 0
        # The token before the first trained one predicts it, so it is not shared either.
        n = min(n, int(trained.argmax()) - 1 if trained.any() else len(beginning))
        differs = beginning[: max(n, 0)] != first[: max(n, 0)]
        n = int(differs.argmax()) if differs.any() else n
        if n <= 0:
            return 0
    return n


def pack(rows: Sequence[EncodedRow], max_tokens: int, prefix_length: int = 0) -> list[EncodedRow]:
    """Join rows into rows of at most ``max_tokens`` tokens, best fit decreasing.

    Args:
        rows: unpacked, each at most ``max_tokens`` long; order is not kept.
        max_tokens: length limit of a packed row, >= 1.
        prefix_length: tokens that all rows begin with; kept once per packed row.

    Returns:
        Rows whose ``segment_lengths`` say where each conversation ends. No token is lost but the repeated prefix.

    Example: lengths 5, 2, 3 with ``max_tokens=5`` and no prefix give rows of segments (5,) and (3, 2).
    """
    bins: list[list[EncodedRow]] = []
    room: list[tuple[int, int]] = []
    """(tokens left, bin) in ascending order."""
    for row in sorted(rows, key=lambda row: len(row.input_ids), reverse=True):
        need = len(row.input_ids) - prefix_length
        at = bisect_left(room, (need, -1))
        if at == len(room):
            bins.append([row])
            insort(room, (max_tokens - len(row.input_ids), len(bins) - 1))
        else:
            left, number = room.pop(at)
            bins[number].append(row)
            insort(room, (left - need, number))
    return [_joined(members, prefix_length) for members in bins]


def _joined(members: Sequence[EncodedRow], prefix_length: int) -> EncodedRow:
    ids = members[0].input_ids[:prefix_length]
    labels = [IGNORED] * prefix_length
    for member in members:
        ids = ids + member.input_ids[prefix_length:]
        labels = labels + member.labels[prefix_length:]
    lengths = tuple(len(member.input_ids) - prefix_length for member in members)
    pictures = tuple(picture for member in members for picture in member.pictures)
    return EncodedRow(ids, labels, lengths, prefix_length, pictures)
