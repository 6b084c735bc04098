"""Metrics that several kinds of work share, from sums of counts, elementwise over arrays."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np


def ratio(part: np.ndarray, whole: np.ndarray, empty: float = float("nan")) -> np.ndarray:
    """``part / whole``, and ``empty`` where ``whole`` is 0.

    Args:
        part: sums of any shape.
        whole: sums of the same shape.
        empty: the value where there is nothing to divide by.

    Returns:
        An array of that shape.
    """
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    filled = np.full(np.broadcast(part, whole).shape, empty)
    np.divide(part, whole, out=filled, where=whole > 0)
    return filled


def precision_recall_f1(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1.

    Args:
        tp: true positives.
        fp: false positives.
        fn: false negatives; all of one shape.

    Returns:
        The three, each 1 where there was nothing to find and nothing was claimed, and 0 where only one of these holds.
    """
    nothing = np.asarray(tp + fp + fn) == 0
    alike = (np.where(nothing, 1.0, ratio(tp, tp + fp, 0.0)), np.where(nothing, 1.0, ratio(tp, tp + fn, 0.0)))
    return *alike, ratio(2 * tp, 2 * tp + fp + fn, 1.0)


def f1_row(counts: Mapping[str, int]) -> dict[str, Any]:
    """A line of a per-field or per-type table from counts named ``tp``, ``fp`` and ``fn``."""
    arrays = [np.asarray(counts[name], dtype=np.float64) for name in ("tp", "fp", "fn")]
    precision, recall, f1 = (float(value) for value in precision_recall_f1(*arrays))
    return {"precision": precision, "recall": recall, "f1": f1, **{name: counts[name] for name in ("tp", "fp", "fn")}}


def plain(text: str) -> str:
    """A text for comparing: NFKC (full-width forms become ordinary ones), stripped, runs of white space as one blank; case is kept."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def stands_in(value: str, text: str) -> bool:
    """Whether a value stands in a text; white space, line breaks and full-width forms make no difference."""
    return plain(value).replace(" ", "") in plain(text).replace(" ", "")
