"""Which rows are for training, choosing the checkpoint, and the final figures.

Rows that belong together form a group (equal text, equal image, equal value of ``split.by``, near duplicates on request), and a group
lands in one part as a whole. A group's place is a number in [0, 1) hashed from the content of one member and the seed: below ``test``
it is a test group, below ``test + valid`` a validation group. New rows therefore never move old ones, except rows whose group they
join. The same thresholds hold within every label, so that labels are shared out alike, up to the noise of a draw; a label (or a whole
set) in which a part would expect at least one group but has none gives that part its group of lowest place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_GROUPS = 3
"""Groups from which on no wanted part stays empty."""
TRAIN, VALID, TEST = 0, 1, 2


def group_rows(n_rows: int, keys: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Join rows that share a key, directly or through others.

    Args:
        n_rows: how many rows there are.
        keys: pairs of (row numbers, uint64 keys of the same length), one pair per reason to belong together.

    Returns:
        The group of each row, int64, numbered from 0.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, nodes, n_nodes = [], [], n_rows
    for numbers, values in keys:
        if len(numbers):
            distinct, places = np.unique(values, return_inverse=True)
            rows.append(numbers)
            nodes.append(places + n_nodes)
            n_nodes += len(distinct)
    if not rows:
        return np.arange(n_rows)
    edges = (np.concatenate(rows), np.concatenate(nodes))
    graph = coo_array((np.ones(len(edges[0]), dtype=np.int8), edges), shape=(n_nodes, n_nodes))
    _, labels = connected_components(graph, directed=False)
    return np.unique(labels[:n_rows], return_inverse=True)[1].astype(np.int64)


def mixed(keys: np.ndarray, salt: int) -> np.ndarray:
    """Hash uint64 keys to well-spread uint64 numbers (the finaliser of SplitMix64), another one for every salt."""
    with np.errstate(over="ignore"):
        state = keys.astype(np.uint64) + np.uint64((salt * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out: np.ndarray = state ^ (state >> np.uint64(31))
    return out


def assign_parts(groups: np.ndarray, keys: np.ndarray, labels: np.ndarray, *, valid: float, test: float, seed: int) -> np.ndarray:
    """Give every row its part.

    Args:
        groups: group of each row, numbered from 0.
        keys: uint64 content key of each row.
        labels: int label of each row, -1 where there is none.
        valid: share of validation rows, in [0, 1).
        test: share of test rows; ``valid + test < 1``.
        seed: another seed, another split.

    Returns:
        0 (train), 1 (valid) or 2 (test) per row.
    """
    if not len(groups):
        return np.zeros(0, dtype=np.int8)
    # The member with the smallest hash stands for the group; a second hash places it, or large groups would land low.
    order = np.lexsort((mixed(keys, 0), groups))
    _, first = np.unique(groups[order], return_index=True)
    standing = order[first]
    places = mixed(keys[standing], seed + 1) / np.float64(2**64)
    parts = np.where(places < test, TEST, np.where(places < test + valid, VALID, TRAIN)).astype(np.int8)
    group_labels = labels[standing]
    for label in np.unique(group_labels[group_labels >= 0]):
        _fill_empty(parts, places, np.flatnonzero(group_labels == label), valid, test, at_least=1.0)
    _fill_empty(parts, places, np.arange(len(parts)), valid, test, at_least=0.0)
    out: np.ndarray = parts[groups]
    return out


def _fill_empty(parts: np.ndarray, places: np.ndarray, members: np.ndarray, valid: float, test: float, *, at_least: float) -> None:
    """Give each wanted but empty part one group: validation and test the lowest place, training the highest."""
    if len(members) < MIN_GROUPS:
        return
    by_place = members[np.argsort(places[members], kind="stable")]
    shares = {TEST: test, VALID: valid, TRAIN: 1 - valid - test}
    for part, share in shares.items():
        if share <= 0 or share * len(members) < at_least or (parts[members] == part).any():
            continue
        counts = np.bincount(parts[members], minlength=3)
        order = by_place if part != TRAIN else by_place[::-1]
        parts[next(group for group in order if counts[parts[group]] > 1)] = part
