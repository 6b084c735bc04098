"""The door's functions: score an engine on rows, calibrate it, compare two scores, read scores back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weitiao.evaluate.answers import WHOLE, answers_rows, collect, read_answers, write_answers
from weitiao.evaluate.bootstrap import gains
from weitiao.evaluate.confidence import Calibration, confidence_details, fit_calibration
from weitiao.evaluate.questions import answer_questions
from weitiao.evaluate.score import read_scores, row_counts, score, scores_json
from weitiao.recipe.sections import Evaluate
from weitiao.seams import Comparison, Engine, Sample, Scores, Task

NOTHING = Scores(n=0, metrics={}, intervals={}, length_limited=0.0, seconds=0.0, counts={})
"""Scores of no rows."""


def measure(
    engine: Engine,
    task: Task,
    samples: Sequence[Sample],
    folder: Path | None,
    section: Evaluate,
    *,
    title: str,
    seed: int,
    calibration: Calibration | None = None,
    identity: str = "",
) -> Scores:
    """Score an engine on rows.

    Args:
        engine: answers.
        task: says how to ask, how to read answers and what counts as right.
        samples: the rows; with none, the scores have ``n == 0`` and no metrics.
        folder: where ``answers.jsonl``, ``scores.json`` and, for a recipe's own questions, ``questions.json`` are written; None for none.
            Answers of interrupted work there are used again.
        section: the recipe's ``evaluate``.
        title: of the progress display.
        seed: of the resampling, and of answers that are drawn (``evaluate.temperature`` above 0).
        calibration: of label probabilities, from ``calibrate``; its thresholds are checked on these rows.
        identity: names the weights that answer, so that interrupted work with other weights is not used.

    Returns:
        Metrics with 95 % intervals, and tables for the report.
    """
    started = time.perf_counter()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scores.json").unlink(missing_ok=True)
    answers = collect(engine, task, samples, folder, section, title=title, seed=seed, identity=identity)
    seconds = time.perf_counter() - started
    if folder is not None and task.questions:
        _write(folder / "questions.json", answer_questions(engine, task.questions, section, seed))
    scorer = task.for_rows(samples)
    predictions = [scorer.parse(answer, sample) for answer, sample in zip(answers, samples, strict=True)]
    details = confidence_details(answers, samples, calibration)
    scores = (
        score(scorer, samples, answers, predictions, n_bootstrap=section.n_bootstrap, seed=seed, seconds=seconds, details=details)
        if samples
        else NOTHING
    )
    if folder is not None:
        write_answers(folder, samples, answers, predictions, scorer)
        _write(folder / "scores.json", scores_json(scores))
    return scores


def calibrate(
    engine: Engine, task: Task, samples: Sequence[Sample], folder: Path | None, section: Evaluate, *, title: str, seed: int
) -> Calibration | None:
    """Choose the temperature of label probabilities and the thresholds for automatic decisions.

    Args:
        engine: answers.
        task: a task of another ``answer_mode`` than ``labels`` has no probabilities, and nothing is asked.
        samples: validation rows, never those that are scored.
        folder: where ``calibration.json`` is written; None for none.
        section: the recipe's ``evaluate``.
        title: of the progress display.
        seed: handed to the engine.

    Returns:
        The choice; None for a task without label probabilities, or without rows.
    """
    if task.answer_mode != "labels" or not samples:
        return None
    answers = collect(engine, task, samples, None, section, title=title, seed=seed, identity="")
    calibration = fit_calibration(answers, samples)
    if folder is not None and calibration is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "calibration.json", calibration.as_json())
    return calibration


def compare(before: Scores, after: Scores, task: Task, n_bootstrap: int, seed: int) -> Comparison:
    """Tuned against baseline on the same rows, by the paired bootstrap.

    Args:
        before: of the baseline.
        after: of the tuned model, for the same rows in the same order.
        task: turns counts into metrics.
        n_bootstrap: resamples, the same ones for both sides.
        seed: of the resampling.

    Returns:
        Both scores and the gain per metric; no gain where one of the sides has no rows.

    Raises:
        ValueError: both have rows, but not equally many.
    """
    if not (before.n and after.n):
        return Comparison(before, after, {})
    if before.n != after.n:
        raise ValueError(f"a paired comparison needs the same rows, not {before.n} and {after.n}")
    return Comparison(before, after, gains(before.counts, after.counts, task.metrics, n_bootstrap, seed))


def load_scores(folder: Path, task: Task, rows: Sequence[Sample] | None = None) -> Scores | None:
    """Read back what ``measure`` wrote, per-row counts included.

    Args:
        folder: that was handed to ``measure``.
        task: of the same recipe.
        rows: that the scores must be of; None for whichever they are of.

    Returns:
        The scores, good for ``compare``; None where the folder holds no finished ones, or those of other rows.
    """
    if not (folder / "scores.json").exists() or not (folder / WHOLE).exists():
        return None
    if rows is not None and not answers_rows(folder, rows):
        return None
    samples, answers, predictions = read_answers(folder)
    counts = row_counts(task.for_rows(samples), samples, answers, predictions)
    return read_scores(json.loads((folder / "scores.json").read_text(encoding="utf-8")), counts)


def count_rows(folder: Path, task: Task, places: Sequence[int]) -> Scores:
    """Scores' counts for some of the rows that ``measure`` wrote: what a task takes from the whole set, it takes from these rows alone.

    Args:
        folder: that was handed to ``measure``.
        task: of the same recipe.
        places: of the rows, at least one, in the order that is wanted.

    Returns:
        Scores with counts and ``n`` only, good for ``compare``.
    """
    rows = list(zip(*read_answers(folder), strict=True))
    samples, answers, predictions = zip(*(rows[place] for place in places), strict=True)
    return replace(NOTHING, n=len(places), counts=row_counts(task.for_rows(samples), samples, answers, predictions))


def _write(path: Path, value: Any) -> None:
    """Write JSON in one step: the file is the old one or the new one, never half of it."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False), encoding="utf-8")
    new.replace(path)
