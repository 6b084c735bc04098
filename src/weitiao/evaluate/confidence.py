"""What label probabilities are worth: temperature, expected calibration error, and how many rows a machine may decide alone.

A temperature T turns probabilities p into p^(1/T), normalised (Guo et al. 2017); it is chosen on validation rows and changes no answer.
A threshold for 95 % precision is the lowest confidence from which on so many validation rows are right that a share below 95 % is refuted:
the lower bound of Clopper and Pearson (1934) at ``CERTAINTY`` is at least 95 %. With w wrong rows among n decided ones that takes
n >= 59 at w = 0, n >= 93 at w = 1; 98 % and 99 % take 149 and 299 rows that are all right. Fewer rows promise nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv

from weitiao.seams import Answer, Sample

PRECISIONS = (0.95, 0.98, 0.99)
CERTAINTY = 0.95
"""One-sided, of the bound that a threshold's precision is read from."""
PRIOR_WEIGHT = 6.0
"""Shape and rate of the gamma distribution that 1/T has before any row is seen: mean 1, and T between 0.51 and 2.7 at 95 %."""
N_BINS = 10
N_CURVE_POINTS = 200
"""Points of the coverage curve that are kept."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """From which confidence on rows are decided at a wanted precision, and what that gave on validation rows."""

    precision: float
    """Wanted, in (0, 1)."""
    confidence: float | None
    """None where no confidence reaches the precision."""
    coverage: float
    """Share of rows that reach the confidence, in [0, 1]."""
    reached: float | None
    """Share of those that are right; above the precision, since that is its lower bound. None where no row is decided."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Chosen on validation rows."""

    temperature: float
    thresholds: tuple[Threshold, ...]
    n: int
    """Validation rows it was chosen on."""

    def as_json(self) -> dict[str, Any]:
        """The content of ``calibration.json``."""
        return asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Calibration:
        """The inverse of ``as_json``; a number that is not one stands for null, as earlier versions wrote it."""
        rows: list[dict[str, Any]] = [
            {name: None if value is None or math.isnan(value) else value for name, value in row.items()} for row in content["thresholds"]
        ]
        return Calibration(content["temperature"], tuple(Threshold(**row) for row in rows), content["n"])


def fit_calibration(answers: Sequence[Answer], samples: Sequence[Sample]) -> Calibration | None:
    """Choose temperature and thresholds.

    Args:
        answers: with label probabilities.
        samples: the rows they answer; the reference is a label.

    Returns:
        The choice; None where no answer has probabilities that include the right label.
    """
    pairs = _with_probabilities(answers, samples)
    logs = [
        (np.log(np.maximum(list(answer.label_probabilities.values()), 1e-12)), list(answer.label_probabilities).index(sample.reference))
        for answer, sample in pairs
        if answer.label_probabilities and sample.reference in answer.label_probabilities
    ]
    if not logs:
        return None
    temperature = _best_temperature(logs)
    confidence, right = _confidences(pairs, temperature)
    thresholds = tuple(_threshold(confidence, right, precision) for precision in PRECISIONS)
    return Calibration(temperature, thresholds, len(pairs))


def _best_temperature(logs: Sequence[tuple[np.ndarray, int]]) -> float:
    """The likeliest temperature in [0.05, 20] given the right labels and a prior, by golden section on its logarithm.

    By likelihood alone, rows that are all right would be made as sure as can be and a single wrong one as unsure: ten right rows give 0.05.
    So 1/T has a gamma prior, the usual one of a positive scale (Bishop 2006, 2.3.6); its density over log T is highest at T = 1. It weighs
    as much as a handful of rows: ten right ones give about 0.8, and from some hundred rows on the rows alone decide.
    """

    def loss(log_t: float) -> float:
        t = float(np.exp(log_t))
        rows = sum(float(np.logaddexp.reduce(log_p / t) - log_p[right] / t) for log_p, right in logs)
        return rows + PRIOR_WEIGHT * (1 / t + log_t)

    low, high, golden = float(np.log(0.05)), float(np.log(20)), (5**0.5 - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > 1e-4:
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - golden * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + golden * (high - low)
            loss_right = loss(right)
    return float(np.exp((low + high) / 2))


def _threshold(confidence: np.ndarray, right: np.ndarray, precision: float) -> Threshold:
    sorted_confidence, reached, last = _decided(confidence, right)
    n_decided = np.arange(1, len(reached) + 1)
    good = np.flatnonzero((precision_bound(np.rint(reached * n_decided), n_decided) >= precision) & last)
    if good.size == 0:
        return Threshold(precision, None, 0.0, None)
    i = int(good[-1])
    return Threshold(precision, float(sorted_confidence[i]), (i + 1) / len(sorted_confidence), float(reached[i]))


def precision_bound(n_right: np.ndarray, n_decided: np.ndarray) -> np.ndarray:
    """The lowest precision that ``n_right`` of ``n_decided`` right rows leave possible, by Clopper and Pearson at ``CERTAINTY``.

    Args:
        n_right: rows that are right, of any shape.
        n_decided: rows, of the same shape, >= 1.

    Returns:
        Bounds in [0, 1): a model of lower precision gets so many rows right in less than 5 % of all samples.
    """
    bound = betaincinv(np.maximum(n_right, 1), n_decided - n_right + 1, 1 - CERTAINTY)
    return np.where(n_right > 0, bound, 0.0)


def _decided(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surest rows first: confidence, share of right answers up to each row, and whether a threshold can end there.

    Rows of equal confidence cannot be told apart by a threshold: only the last of them can be its end.
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    reached = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    return sorted_confidence, reached, np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)


def coverage_curve(confidence: np.ndarray, right: np.ndarray) -> list[tuple[float, float]]:
    """What deciding the surest rows alone gives: (share of rows decided, share of these that are right), from few rows to all."""
    _, reached, last = _decided(confidence, right)
    ends = np.flatnonzero(last)
    kept = ends[np.unique(np.linspace(0, len(ends) - 1, min(len(ends), N_CURVE_POINTS)).astype(int))]
    return [((int(i) + 1) / len(reached), float(reached[i])) for i in kept]


def confidence_details(answers: Sequence[Answer], samples: Sequence[Sample], calibration: Calibration | None) -> dict[str, Any]:
    """Tables on the label probabilities of scored rows.

    Args:
        answers: of any task.
        samples: the rows they answer.
        calibration: chosen on validation rows; None leaves probabilities as they are and gives no coverage.

    Returns:
        ``confidence``: ``temperature``, ``n_valid`` validation rows that it was chosen on (0 for none), ``ece`` and ``ece_raw`` in [0, 1],
        ``reliability`` bins, ``coverage`` at the thresholds and its ``curve``; empty for answers without probabilities.
    """
    pairs = _with_probabilities(answers, samples)
    if not pairs:
        return {}
    temperature = calibration.temperature if calibration else 1.0
    raw, right = _confidences(pairs, 1.0)
    confidence, _ = _confidences(pairs, temperature)
    table = {
        "temperature": temperature,
        "n_valid": calibration.n if calibration else 0,
        "ece": expected_calibration_error(confidence, right),
        "ece_raw": expected_calibration_error(raw, right),
        "reliability": reliability(confidence, right),
        "coverage": [_coverage(threshold, confidence, right) for threshold in (calibration.thresholds if calibration else ())],
        "curve": coverage_curve(confidence, right),
    }
    return {"confidence": table}


def _coverage(threshold: Threshold, confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    decided = confidence >= (2.0 if threshold.confidence is None else threshold.confidence)
    here = {
        "coverage": float(decided.mean()),
        "precision": float(right[decided].mean()) if decided.any() else None,
        "n": int(decided.sum()),
    }
    valid = {"coverage": threshold.coverage, "precision": threshold.reached}
    return {"precision": threshold.precision, "confidence": threshold.confidence, "valid": valid, "test": here}


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Bins of equal width: from, to, rows, mean confidence and share of right answers; bins without rows are left out."""
    place = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    return [
        {
            "from": b / N_BINS,
            "to": (b + 1) / N_BINS,
            "n": int((place == b).sum()),
            "confidence": float(confidence[place == b].mean()),
            "accuracy": float(right[place == b].mean()),
        }
        for b in range(N_BINS)
        if (place == b).any()
    ]


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean distance between confidence and share of right answers over ten bins of equal width, weighted by their rows."""
    return sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in reliability(confidence, right)) / len(confidence)


def _with_probabilities(answers: Sequence[Answer], samples: Sequence[Sample]) -> list[tuple[Answer, Sample]]:
    return [(answer, sample) for answer, sample in zip(answers, samples, strict=True) if answer.label_probabilities]


def _confidences(pairs: Sequence[tuple[Answer, Sample]], temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the likeliest label at a temperature, and whether that label is right."""
    confidence, right = [], []
    for answer, sample in pairs:
        probabilities: Mapping[str, float] = answer.label_probabilities or {}
        log_p = np.log(np.maximum(list(probabilities.values()), 1e-12)) / temperature
        confidence.append(float(np.exp(log_p.max() - np.logaddexp.reduce(log_p))))
        right.append(max(probabilities, key=lambda label: probabilities[label]) == sample.reference)
    return np.array(confidence), np.array(right, dtype=np.float64)
