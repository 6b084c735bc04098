"""Gets the answers of an engine to rows, row by row into a file, so that interrupted work goes on where it stopped.

While answers arrive they are appended to ``answers.part.jsonl``; once all are there, ``answers.jsonl`` takes its place in the order of
the rows. Answers of a part file are used again where row, prompt and settings are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from weitiao import log
from weitiao.recipe.sections import Evaluate
from weitiao.seams import Answer, Engine, Message, Part, Prediction, Sample, Sampling, Task

PART, WHOLE = "answers.part.jsonl", "answers.jsonl"


def collect(
    engine: Engine, task: Task, samples: Sequence[Sample], folder: Path | None, section: Evaluate, *, title: str, seed: int, identity: str
) -> list[Answer]:
    """Ask for every answer that is not there yet.

    Args:
        engine: answers.
        task: says how: by generating, by scoring labels, or by likelihood alone.
        samples: the rows.
        folder: where the part file lies; None to keep no file.
        section: the recipe's ``evaluate``.
        title: of the progress display.
        seed: of sampling; greedy answers do not depend on it.
        identity: names the weights that answer.

    Returns:
        One answer per sample, in their order.
    """
    keys = [_key(sample, task, section, identity) for sample in samples]
    answers: dict[int, Answer] = {}
    if folder is not None:
        kept = _read_part(folder / PART)
        answers = {i: kept[sample.id, key] for i, (sample, key) in enumerate(zip(samples, keys, strict=True)) if (sample.id, key) in kept}
    missing = [i for i in range(len(samples)) if i not in answers]
    with ExitStack() as stack:
        advance = stack.enter_context(log.progress(title, len(samples), "rows"))
        part = stack.enter_context((folder / PART).open("a", encoding="utf-8")) if folder is not None else None
        advance(len(answers), before=True)
        for place, answer in ask(engine, task, [samples[i] for i in missing], section, seed) if missing else ():
            i = missing[place]
            answers[i] = answer
            if part is not None:
                part.write(json.dumps({"id": samples[i].id, "key": keys[i], **_answer_fields(answer)}, ensure_ascii=False) + "\n")
                part.flush()
            advance(1)
    return [answers[i] for i in range(len(samples))]


def ask(engine: Engine, task: Task, samples: Sequence[Sample], section: Evaluate, seed: int) -> Iterator[tuple[int, Answer]]:
    """Ask an engine in the way of the task.

    Args:
        engine: answers.
        task: says how: by generating, by scoring labels, or by likelihood alone.
        samples: the rows.
        section: the recipe's ``evaluate``.
        seed: of sampling; greedy answers do not depend on it.

    Yields:
        Index and answer as answers finish, in any order.
    """
    likelihoods: dict[int, Answer] = {}
    if task.answer_mode == "likelihood":
        yield from ((i, replace(answer, n_scored_tokens=answer.n_new_tokens)) for i, answer in engine.likelihood(samples))
        return
    if task.needs_likelihood and all(sample.has_answer for sample in samples):
        likelihoods = dict(engine.likelihood(samples))
    if task.answer_mode == "labels":
        answered = engine.score_labels(samples, lambda sample: _choices(task, sample))
    else:
        answered = engine.generate(samples, sampling_of(section, seed), task.constraint if section.constrained else None)
    for i, answer in answered:
        scored = likelihoods.get(i)
        yield i, answer if scored is None else replace(answer, nll=scored.nll, n_scored_tokens=scored.n_new_tokens)


def sampling_of(section: Evaluate, seed: int) -> Sampling:
    """How the recipe wants answers drawn.

    Args:
        section: the recipe's ``evaluate``.
        seed: of sampling; greedy answers do not depend on it.

    Returns:
        Greedy where the temperature is 0.
    """
    return Sampling(section.max_new_tokens, section.temperature, section.top_p, section.top_k, seed)


def _choices(task: Task, sample: Sample) -> Sequence[str]:
    constraint = task.constraint(sample)
    return (constraint.choices if constraint else None) or sample.candidates


def _key(sample: Sample, task: Task, section: Evaluate, identity: str) -> str:
    """What an answer depends on besides the engine, as 16 hexadecimal digits."""
    messages = [[message.role, [[part.text, str(part.image or "")] for part in message.parts]] for message in sample.messages]
    drawing = [section.max_new_tokens, section.temperature, section.top_p, section.top_k]
    settings = [task.kind, task.answer_mode, *drawing, section.constrained, identity]
    text = json.dumps([messages, list(sample.candidates), settings], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _read_part(path: Path) -> dict[tuple[str, str], Answer]:
    """Answers of interrupted work by (id, key); the last line may be cut off."""
    if not path.exists():
        return {}
    kept = {}
    text = path.read_bytes()
    if not text.endswith(b"\n"):
        text = text[: text.rfind(b"\n") + 1]
        path.write_bytes(text)
    for line in text.splitlines():
        row = json.loads(line)
        kept[row["id"], row["key"]] = read_answer(row)
    return kept


def _answer_fields(answer: Answer) -> dict[str, Any]:
    """The row's part that the engine gave; ``read_answer`` is its inverse."""
    fields: dict[str, Any] = {
        "answer": answer.text,
        "ended_by": answer.ended_by,
        "n_prompt_tokens": answer.n_prompt_tokens,
        "n_new_tokens": answer.n_new_tokens,
    }
    if answer.label_probabilities is not None:
        fields["probabilities"] = dict(answer.label_probabilities)
    if answer.nll is not None:
        fields |= {"nll": answer.nll, "n_scored_tokens": answer.n_scored_tokens}
    return fields


def read_answer(row: Mapping[str, Any]) -> Answer:
    """The answer of a row of ``answers.jsonl``."""
    return Answer(
        text=row["answer"],
        n_prompt_tokens=row["n_prompt_tokens"],
        n_new_tokens=row["n_new_tokens"],
        ended_by=row["ended_by"],
        label_probabilities=row.get("probabilities"),
        nll=row.get("nll"),
        n_scored_tokens=row.get("n_scored_tokens", 0),
    )


def write_answers(
    folder: Path, samples: Sequence[Sample], answers: Sequence[Answer], predictions: Sequence[Prediction], task: Task
) -> None:
    """Write ``answers.jsonl`` whole, then drop the part file.

    Args:
        folder: an existing folder.
        samples: the rows.
        answers: one per row.
        predictions: one per row.
        task: gives the scores of a row.
    """
    path = folder / f"{WHOLE}.new"
    with path.open("w", encoding="utf-8") as file:
        for sample, answer, prediction in zip(samples, answers, predictions, strict=True):
            row = _row(sample, answer, prediction, task.row_scores(prediction, sample))
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    path.replace(folder / WHOLE)
    (folder / PART).unlink(missing_ok=True)


def _row(sample: Sample, answer: Answer, prediction: Prediction, scores: Mapping[str, float]) -> dict[str, Any]:
    notes = {"flags": list(prediction.flags), "forgiven": list(prediction.forgiven)}
    return {
        "origin": sample.origin,
        **_asked(sample),
        **_answer_fields(answer),
        "prediction": prediction.value,
        "is_valid": prediction.is_valid,
        "scores": dict(scores),
        **{name: value for name, value in notes.items() if value},
    }


def _asked(sample: Sample) -> dict[str, Any]:
    """The row's part that is known before it is answered."""
    users = [message for message in sample.prompt if message.role == "user"]
    images = [str(part.image) for message in sample.prompt for part in message.parts if part.image is not None]
    extras = {"images": images, "candidates": list(sample.candidates)}
    fields = {"id": sample.id, "prompt": users[-1].text if users else "", "reference": sample.reference}
    return fields | {name: value for name, value in extras.items() if value}


def answers_rows(folder: Path, samples: Sequence[Sample]) -> bool:
    """Whether ``write_answers`` wrote for these rows: the same prompts and references in the same order.

    Args:
        folder: it may hold no answers.
        samples: rows as they are now.

    Returns:
        False where a row was added, taken out or changed since.
    """
    if not (folder / WHOLE).exists():
        return False
    wanted = [json.loads(json.dumps(_asked(sample))) for sample in samples]
    names = ("id", "prompt", "reference", "images", "candidates")
    return [{name: row[name] for name in names if name in row} for row in _lines(folder)] == wanted


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    # Not `splitlines`: answers may hold U+2028 and other characters that end a line for it.
    return (json.loads(line) for line in (folder / WHOLE).read_text(encoding="utf-8").split("\n") if line)


def read_answers(folder: Path) -> tuple[list[Sample], list[Answer], list[Prediction]]:
    """What ``write_answers`` wrote; the samples have their reference, candidates and pictures, but no texts."""
    samples, answers, predictions = [], [], []
    for row in _lines(folder):
        pictures = tuple(Part("image", image=Path(path)) for path in row.get("images", ()))
        messages = (Message("user", pictures),) if pictures else ()
        samples.append(Sample(row["id"], row["origin"], messages, row["reference"], candidates=tuple(row.get("candidates", ()))))
        answers.append(read_answer(row))
        predictions.append(Prediction(row["prediction"], row["is_valid"], tuple(row.get("forgiven", ())), tuple(row.get("flags", ()))))
    return samples, answers, predictions
