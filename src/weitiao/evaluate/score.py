"""Answers to scores: the task's counts summed into metrics with intervals, and their JSON forms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weitiao.evaluate.bootstrap import intervals, totals
from weitiao.seams import Answer, Comparison, Prediction, Sample, Scores, Task


def row_counts(
    task: Task, samples: Sequence[Sample], answers: Sequence[Answer], predictions: Sequence[Prediction]
) -> dict[str, np.ndarray]:
    """Sufficient statistics, name -> one number per row; what a row does not name is 0."""
    rows = [task.counts(prediction, answer, sample) for prediction, answer, sample in zip(predictions, answers, samples, strict=True)]
    names = sorted({name for row in rows for name in row})
    return {name: np.array([row.get(name, 0.0) for row in rows]) for name in names}


def score(
    task: Task,
    samples: Sequence[Sample],
    answers: Sequence[Answer],
    predictions: Sequence[Prediction],
    *,
    n_bootstrap: int,
    seed: int,
    seconds: float,
    details: Mapping[str, Any],
) -> Scores:
    """Scores of answers.

    Args:
        task: says what counts as right.
        samples: at least one row.
        answers: one per row.
        predictions: one per row.
        n_bootstrap: resamples for the intervals.
        seed: of the resampling.
        seconds: that answering took.
        details: tables besides the task's own.

    Returns:
        Metrics, 95 % intervals and the per-row counts that a comparison needs.
    """
    counts = row_counts(task, samples, answers, predictions)
    return Scores(
        n=len(samples),
        metrics={name: float(value) for name, value in totals(counts, task.metrics).items()},
        intervals=intervals(counts, task.metrics, n_bootstrap, seed),
        length_limited=sum(answer.ended_by == "length" for answer in answers) / len(answers),
        seconds=seconds,
        details={**task.details(predictions, answers, samples), **details, **_overlooked(predictions)},
        counts=counts,
    )


def metric_names(task: Task, sample: Sample) -> tuple[str, ...]:
    """The metrics that a task gives.

    Args:
        task: any.
        sample: any row of it.

    Returns:
        Their names, as for an empty answer to the row.
    """
    scorer, answer = task.for_rows([sample]), Answer("", 1, 1, "stop", nll=0.0, n_scored_tokens=1)
    counts = row_counts(scorer, [sample], [answer], [scorer.parse(answer, sample)])
    return tuple(totals(counts, scorer.metrics))


def _overlooked(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """How many answers had what forgiven, were flagged for what, and could not be read."""
    table: dict[str, dict[str, int]] = {"forgiven": {}, "flags": {}}
    for prediction in predictions:
        for kind, notes in (("forgiven", prediction.forgiven), ("flags", prediction.flags)):
            for note in dict.fromkeys(notes):
                table[kind][note] = table[kind].get(note, 0) + 1
    most = {kind: dict(sorted(notes.items(), key=lambda item: -item[1])[:20]) for kind, notes in table.items()}
    return {**most, "n_unreadable": sum(prediction.value is None for prediction in predictions)}


def scores_json(scores: Scores) -> dict[str, Any]:
    """The content of a ``scores.json``.

    Args:
        scores: of one model.

    Returns:
        JSON-able values; numbers that are not defined are null, and the per-row counts are left out.
    """
    content = {
        "n": scores.n,
        "metrics": dict(scores.metrics),
        "intervals": {name: list(bounds) for name, bounds in scores.intervals.items()},
        "length_limited": scores.length_limited,
        "seconds": scores.seconds,
        "details": dict(scores.details),
    }
    return dict(_finite(content))


def read_scores(content: Mapping[str, Any], counts: Mapping[str, np.ndarray]) -> Scores:
    """The inverse of ``scores_json``, with the counts that it leaves out."""
    number = {None: float("nan")}
    return Scores(
        n=content["n"],
        metrics={name: number.get(value, value) for name, value in content["metrics"].items()},
        intervals={name: (number.get(low, low), number.get(high, high)) for name, (low, high) in content["intervals"].items()},
        length_limited=content["length_limited"],
        seconds=content["seconds"],
        details=content["details"],
        counts=counts,
    )


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The content of ``RUN/scores.json``.

    Args:
        comparison: of tuned and baseline.

    Returns:
        JSON-able ``baseline``, ``tuned`` and ``gain``, the latter as metric -> [difference, low, high].
    """
    gain = {name: _finite(list(values)) for name, values in comparison.gain.items()}
    return {"baseline": scores_json(comparison.baseline), "tuned": scores_json(comparison.tuned), "gain": gain}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
