"""Answers: how they are drawn, what was said, how it was read and scored, and what a run leaves behind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

EndedBy = Literal["stop", "length", "constraint"]
"""How an answer ended: a stop token, the limit on new tokens, or a constraint that allowed nothing more."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn. ``temperature == 0`` is greedy."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to one prompt."""

    text: str
    n_prompt_tokens: int
    n_new_tokens: int
    ended_by: EndedBy
    label_probabilities: Mapping[str, float] | None = None
    """For label scoring: each candidate's probability; sums to 1."""
    nll: float | None = None
    """For likelihood scoring: summed negative log likelihood of the reference, in nats."""
    n_scored_tokens: int = 0
    """Tokens that ``nll`` sums over; ``evaluate.measure`` fills it from what ``Engine.likelihood`` counted."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer may look like; at most one field is set, and none means anything."""

    json_schema: Mapping[str, Any] | None = None
    choices: tuple[str, ...] | None = None
    regex: str | None = None
    """A pattern that the whole answer matches: literals, classes, groups, ``|``, ``?``, ``*`` and ``+``; no look-around."""


def literal(text: str) -> str:
    """A pattern for ``Constraint.regex`` that matches one text.

    Args:
        text: any; a line break in it is written out, for the character itself would end the pattern where decoding reads it.

    Returns:
        The text, escaped.
    """
    return re.escape(text).replace("\\\n", r"\n").replace("\\\r", r"\r")


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer, read by its task."""

    value: Any
    """JSON-able, in the form of ``Sample.reference``; None where nothing could be read."""
    is_valid: bool
    """Whether the answer had the task's form (valid JSON, a known label)."""
    forgiven: tuple[str, ...] = ()
    """What the parser had to overlook, e.g. ``code fence``."""
    flags: tuple[str, ...] = ()
    """Warnings for the reader, e.g. ``name: not in the text``."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Metrics of one model on one set of rows; the content of a ``scores.json``."""

    n: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    """95 % percentile-bootstrap interval over rows, per metric."""
    length_limited: float
    """Share of answers that ran into the limit on new tokens, in [0, 1]."""
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)
    """Task tables for the report: confusion matrix, per-field counts, calibration."""
    counts: Any = field(default=None, metadata={"written": False})
    """Per-row sufficient statistics, name -> ``np.ndarray`` of one number per row in the order of the rows; not written to JSON."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tuned against baseline on the same rows."""

    baseline: Scores
    tuned: Scores
    gain: Mapping[str, tuple[float, float, float]]
    """Metric -> (tuned minus baseline, low, high): paired bootstrap, 95 %."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something exported: its kind, place, size and what its check showed."""

    kind: str
    path: Path
    size_bytes: int
    check: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a finished run says to whoever started it."""

    path: Path
    comparison: Comparison | None
    report: Path
    artifacts: tuple[Artifact, ...] = ()
