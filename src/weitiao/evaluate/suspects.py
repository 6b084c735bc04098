"""Training rows that look wrong: the tuned model finds their own answer unlikely and would give another one.

A row's loss is the negative log likelihood of its own answer in nats: of the label among its candidates where labels are scored, the mean
over the answer's tokens otherwise. A model that was trained on few wrong labels among many right ones still tends to the right ones, so
wrong labels gather at the top. A model that has learnt its rows by heart shows nothing here.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from weitiao import log
from weitiao.evaluate.answers import ask
from weitiao.recipe.sections import Evaluate
from weitiao.seams import Answer, Engine, Sample, Task

N_KEPT = 20
"""Rows that are kept at most."""
CHUNK = 64
"""Rows between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class SuspectSearch:
    """How far the search went."""

    n_rows: int
    """Training rows that were looked at: a seeded choice of at most ``evaluate.n_suspects``, fewer where time ran out."""
    n_train: int
    n_found: int
    seconds: float
    out_of_time: bool


@dataclass(frozen=True, slots=True)
class _Scored:
    sample: Sample
    loss: float
    answer: Answer | None
    """What the model says instead, where that came with the loss."""


def find_suspects(
    engine: Engine, task: Task, samples: Sequence[Sample], path: Path, section: Evaluate, *, seed: int, max_seconds: float
) -> SuspectSearch:
    """Write the training rows that are likeliest to be wrong, worst first.

    Args:
        engine: the tuned model.
        task: says how to ask and when an answer is right.
        samples: training rows, each with its answer.
        path: a ``.jsonl`` file, written anew: ``id``, ``origin``, ``prompt``, ``answer`` (the row's own), ``model_answer`` (null for
            documents), ``loss`` in nats, ``probability`` (of the label, or the mean one of a token: exp(-loss)).
        section: the recipe's ``evaluate``; ``n_suspects`` rows are looked at, none when it is 0.
        seed: of the choice of rows.
        max_seconds: after which no further rows are looked at.

    Returns:
        How many rows were looked at and found.
    """
    started = time.monotonic()
    rows = _choose(samples, section.n_suspects, seed)
    scored: list[_Scored] = []
    n_seen = 0
    with log.progress("looking for wrong training rows", len(rows), "rows") as advance:
        while n_seen < len(rows) and time.monotonic() - started < max_seconds:
            chunk = rows[n_seen : n_seen + CHUNK]
            for found in _score(engine, task, chunk, section, seed):
                scored.append(found)
                advance(1)
            n_seen += len(chunk)
    worst = sorted(scored, key=lambda found: (-found.loss, found.sample.id))[:N_KEPT]
    suspects = _disagreeing(engine, task, worst, section, seed)
    lines = [json.dumps(_row(found), ensure_ascii=False) + "\n" for found in suspects]
    path.write_text("".join(lines), encoding="utf-8")
    return SuspectSearch(n_seen, len(samples), len(suspects), time.monotonic() - started, n_seen < len(rows))


def _choose(samples: Sequence[Sample], n: int, seed: int) -> list[Sample]:
    """A seeded choice of at most ``n`` different rows: a source with a weight has its rows several times."""
    order = random.Random(seed).sample(range(len(samples)), len(samples)) if n else []
    chosen: dict[str, int] = {}
    for i in order:
        chosen.setdefault(samples[i].id, i)
        if len(chosen) == n:
            break
    return [samples[i] for i in sorted(chosen.values())]


def _score(engine: Engine, task: Task, samples: Sequence[Sample], section: Evaluate, seed: int) -> Iterator[_Scored]:
    if task.answer_mode == "labels":
        for i, answer in ask(engine, task, samples, section, seed):
            probability = (answer.label_probabilities or {}).get(samples[i].reference, 0.0)
            yield _Scored(samples[i], -math.log(max(probability, 1e-12)), answer)
        return
    for i, answer in engine.likelihood(samples):
        yield _Scored(samples[i], (answer.nll or 0.0) / max(1, answer.n_new_tokens), None)


def _disagreeing(engine: Engine, task: Task, worst: Sequence[_Scored], section: Evaluate, seed: int) -> list[_Scored]:
    """Those rows that the model would answer otherwise; documents are no answers and stay."""
    if task.answer_mode == "likelihood":
        return list(worst)
    missing = [i for i, found in enumerate(worst) if found.answer is None]
    asked = dict(ask(engine, task, [worst[i].sample for i in missing], section, seed)) if missing else {}
    answers = {missing[place]: answer for place, answer in asked.items()}
    said = [_Scored(found.sample, found.loss, found.answer or answers[i]) for i, found in enumerate(worst)]
    return [found for found in said if not _is_right(task, found)]


def _is_right(task: Task, found: _Scored) -> bool:
    assert found.answer is not None
    scores = task.row_scores(task.parse(found.answer, found.sample), found.sample)
    return next(iter(scores.values())) >= 1


def _row(found: _Scored) -> dict[str, object]:
    users = [message for message in found.sample.prompt if message.role == "user"]
    return {
        "id": found.sample.id,
        "origin": found.sample.origin,
        "prompt": users[-1].text if users else "",
        "answer": found.sample.messages[-1].text,
        "model_answer": None if found.answer is None else found.answer.text,
        "loss": found.loss,
        "probability": math.exp(-found.loss),
    }
