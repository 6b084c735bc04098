"""95 % intervals by the bootstrap over rows, as products of resampling weights with per-row counts.

A resample of n rows draws each row some number of times; those numbers are the weights. Both sides of a comparison get the same
weights, so that what is hard for both cancels. Shape letters: R resamples, N rows, K counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

Counts = Mapping[str, np.ndarray]
"""Name -> one number per row."""
Metrics = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

BLOCK_NUMBERS = 8_000_000
"""Weights that exist at the same time (64 MB)."""


def intervals(counts: Counts, metrics: Metrics, n_bootstrap: int, seed: int) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of each metric.

    Args:
        counts: name -> one number per row, at least one row.
        metrics: turns summed counts into metrics, elementwise.
        n_bootstrap: resamples.
        seed: of the resampling; the same seed gives the same intervals.

    Returns:
        Metric -> (low, high), NaN where no resample defines it.
    """
    return {name: percentiles(values) for name, values in resampled(counts, metrics, n_bootstrap, seed).items()}


def gains(before: Counts, after: Counts, metrics: Metrics, n_bootstrap: int, seed: int) -> dict[str, tuple[float, float, float]]:
    """Paired differences, after minus before.

    Args:
        before: counts of one side.
        after: counts of the other side for the same rows in the same order.
        metrics: turns summed counts into metrics, elementwise.
        n_bootstrap: resamples.
        seed: of the resampling.

    Returns:
        Metric -> (difference, low, high) for the metrics that both sides have.
    """
    point = {name: float(value - totals(before, metrics)[name]) for name, value in totals(after, metrics).items()}
    first, second = resampled(before, metrics, n_bootstrap, seed), resampled(after, metrics, n_bootstrap, seed)
    return {name: (difference, *percentiles(second[name] - first[name])) for name, difference in point.items()}


def totals(counts: Counts, metrics: Metrics) -> dict[str, np.float64]:
    """The metrics of all rows."""
    with np.errstate(all="ignore"):
        values = metrics({name: np.asarray(column.sum(), dtype=np.float64) for name, column in counts.items()})
    return {name: np.float64(value) for name, value in values.items()}


def resampled(counts: Counts, metrics: Metrics, n_bootstrap: int, seed: int) -> dict[str, np.ndarray]:
    """Each metric in each resample, ``n_bootstrap`` numbers per metric."""
    names = list(counts)
    counts_NK = np.stack([np.asarray(counts[name], dtype=np.float64) for name in names], axis=1)
    sums_RK = np.concatenate([weights_RN @ counts_NK for weights_RN in _weights(len(counts_NK), n_bootstrap, seed)])
    with np.errstate(all="ignore"):
        return dict(metrics({name: sums_RK[:, k] for k, name in enumerate(names)}))


def _weights(n_rows: int, n_bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is drawn in each resample, some resamples at a time; depends on nothing but the three numbers."""
    random = np.random.default_rng(seed)
    n_block = max(1, BLOCK_NUMBERS // n_rows)
    for start in range(0, n_bootstrap, n_block):
        n_resamples = min(n_block, n_bootstrap - start)
        yield random.multinomial(n_rows, np.full(n_rows, 1 / n_rows), size=n_resamples).astype(np.float64)


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the finite values; NaN where there are none."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)
