"""A file of rows answered by a tuned model: keyed, flushed as answers come, going on where an earlier call stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from weitiao import data, evaluate
from weitiao.errors import CommandError
from weitiao.log import progress
from weitiao.recipe import Recipe
from weitiao.seams import Answer, Engine, Sample, Task

WINDOW = 512
"""Rows held and sorted by length at once."""


@dataclass(frozen=True, slots=True)
class PredictSummary:
    """What became of the rows of a file."""

    n_answered: int
    n_already: int
    """Rows that an earlier call had answered."""
    n_rejected: int
    output: Path
    rejected: Path | None
    """``rejected.jsonl`` beside the output, where a row was rejected."""


def predict_file(
    engine: Engine, task: Task, recipe: Recipe, source: str | Path, output: Path, candidates: tuple[str, ...] = ()
) -> PredictSummary:
    """Answer every row of a file.

    Args:
        engine: answers.
        task: makes prompts and reads answers.
        recipe: how the file's columns are read.
        source: rows with or without answers.
        output: JSONL; appended to. A half line left by a crash is removed.
        candidates: labels or entity types for rows that name none.

    Returns:
        Counts; ``n_answered + n_already + n_rejected`` is the number of rows read.

    Raises:
        CommandError: the output is no .jsonl file.
        DataError: the source cannot be read.
    """
    if output.suffix != ".jsonl":
        raise CommandError("answers are written as .jsonl", where=str(output), hint="name the output answers.jsonl")
    done = _answered(output)
    samples = data.load_file(source, recipe.data, task, candidates=candidates, with_answers=False)
    n_answered = n_already = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        file = stack.enter_context(output.open("a", encoding="utf-8"))
        advance = stack.enter_context(progress("predicting", len(samples)))
        for start in range(0, len(samples), WINDOW):
            window = [samples[i] for i in range(start, min(start + WINDOW, len(samples)))]
            new = [sample for sample in window if sample.id not in done]
            n_already += len(window) - len(new)
            advance(len(window) - len(new))
            for index, answer in evaluate.ask(engine, task, new, recipe.evaluate, recipe.run.seed):
                _write(file, _row(new[index], answer, task))
                n_answered += 1
                advance(1)
    return PredictSummary(n_answered, n_already, len(samples.rejected), output, _write_rejected(output, samples.rejected))


def _row(sample: Sample, answer: Answer, task: Task) -> dict[str, Any]:
    prediction = task.parse(answer, sample)
    row = {
        "id": sample.id,
        "origin": sample.origin,
        "answer": answer.text,
        "prediction": prediction.value,
        "is_valid": prediction.is_valid,
        "ended_by": answer.ended_by,
    }
    if answer.label_probabilities is not None:
        row["probabilities"] = dict(answer.label_probabilities)
    if prediction.flags:
        row["flags"] = list(prediction.flags)
    return row


def _answered(output: Path) -> set[str]:
    """Ids in an output that is there; what follows its last whole line is cut off."""
    if not output.exists():
        return set()
    done: set[str] = set()
    whole = 0
    with output.open("rb+") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                done.add(json.loads(line)["id"])
            except (ValueError, KeyError, TypeError) as error:
                raise CommandError("this is not a row of answers", where=f"{output}:{number}", hint="name a new file with -o") from error
            whole += len(line)
        file.truncate(whole)
    return done


def _write(file: IO[str], row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()


def _write_rejected(output: Path, rejected: Sequence[tuple[str, str]]) -> Path | None:
    if not rejected:
        return None
    path = output.with_name("rejected.jsonl")
    rows = [{"origin": origin, "reason": reason} for origin, reason in rejected]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
