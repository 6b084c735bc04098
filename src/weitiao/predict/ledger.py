"""Where each row of a file ends: among the answers, among the unsure ones, among the rejected ones, or where it was already."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.log import Advance
from weitiao.predict.files import Rejections, appending, is_sure, unsure_path
from weitiao.seams import Answer, Sample, Task


@dataclass(frozen=True, slots=True)
class PredictSummary:
    """What became of the rows of a file."""

    n_answered: int
    """Rows written to ``output`` by this call."""
    n_unsure: int
    """Rows written to ``unsure`` by this call."""
    n_already: int
    """Rows that an earlier call had answered."""
    n_rejected: int
    output: Path
    unsure: Path | None
    """Where rows below ``--min-confidence`` lie, where it was given."""
    rejected: Path | None
    """``rejected.jsonl`` beside the output, where a row was rejected."""


class Ledger:
    """Writes rows to the file that they belong in and counts them; each row moves the progress by one."""

    def __init__(self, output: Path, task: Task, min_confidence: float | None, advance: Advance, stack: ExitStack) -> None:
        """Open the files.

        Args:
            output: of answers; unsure and rejected rows lie beside it.
            task: reads answers.
            min_confidence: below it a row is unsure, in (0, 1]; None: every row is sure.
            advance: moves the progress.
            stack: closes the files.
        """
        self._rejections = Rejections(output, stack)
        self._output = output
        self._unsure = None if min_confidence is None else unsure_path(output)
        self._task = task
        self._least = min_confidence
        self._advance = advance
        self._append_sure = stack.enter_context(appending(output))
        self._append_unsure = self._append_sure if self._unsure is None else stack.enter_context(appending(self._unsure))
        self._n_sure = self._n_unsure = self._n_already = 0

    def reject(self, origin: str, reason: str) -> None:
        """List a row that cannot be answered."""
        self._rejections.add(origin, reason)
        self._advance(1)

    def pass_over(self, n_rows: int) -> None:
        """Count rows that an earlier call answered."""
        self._n_already += n_rows
        self._advance(n_rows, before=True)

    def write(self, sample: Sample, answer: Answer, confidence: float | None, asked: str) -> None:
        """Write a row's answer, an unsure one with its prompt; ``asked`` says what was asked of which weights."""
        row = _answer_row(sample, answer, confidence, self._task) | {"asked": asked}
        if is_sure(confidence, self._least):
            self._append_sure(row)
            self._n_sure += 1
        else:
            self._append_unsure(row | _prompt_fields(sample))
            self._n_unsure += 1
        self._advance(1)

    def summary(self) -> PredictSummary:
        """What became of the rows so far."""
        return PredictSummary(
            n_answered=self._n_sure,
            n_unsure=self._n_unsure,
            n_already=self._n_already,
            n_rejected=self._rejections.n_rows,
            output=self._output,
            unsure=self._unsure,
            rejected=self._rejections.path if self._rejections.n_rows else None,
        )


def _answer_row(sample: Sample, answer: Answer, confidence: float | None, task: Task) -> dict[str, Any]:
    prediction = task.parse(answer, sample)
    row: dict[str, Any] = {
        "id": sample.id,
        "origin": sample.origin,
        "answer": answer.text,
        "prediction": prediction.value,
        "is_valid": prediction.is_valid,
        "ended_by": answer.ended_by,
    }
    if answer.label_probabilities is not None:
        row["probabilities"] = dict(answer.label_probabilities)
    if confidence is not None:
        row["confidence"] = confidence
    if answer.nll is not None:
        row |= {"nll": answer.nll, "n_scored_tokens": answer.n_scored_tokens}
    if prediction.flags:
        row["flags"] = list(prediction.flags)
    return row


def _prompt_fields(sample: Sample) -> dict[str, Any]:
    """What a person needs to answer the row; images and candidates only where it has them."""
    users = [message for message in sample.prompt if message.role == "user"]
    fields: dict[str, Any] = {"prompt": users[-1].text if users else ""}
    if images := [str(part.image) for message in sample.prompt for part in message.parts if part.image is not None]:
        fields["images"] = images
    if sample.candidates:
        fields["candidates"] = list(sample.candidates)
    return fields
