"""``/v1/tasks/predict``: rows of the task in, read answers out; a row that cannot be used does not hold up the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from weitiao import errors
from weitiao.seams import Answer, Sample
from weitiao.serve.counts import Counts
from weitiao.serve.jobs import Job
from weitiao.serve.refusal import Refusal
from weitiao.serve.replies import PredictedRow, PredictResponse, RowError
from weitiao.serve.served import Served
from weitiao.serve.waiting import finished, usage_of


def job_of(sample: Sample, served: Served, max_new_tokens: int) -> Job:
    """What answering a row takes: its labels scored, or an answer written, as in evaluation.

    Args:
        sample: of the row.
        served: the run.
        max_new_tokens: most tokens of an answer.

    Returns:
        A job.
    """
    if served.task.answer_mode == "labels":
        return Job(sample, None)
    constraint = served.task.constraint(sample) if served.constrained else None
    sampling = replace(served.sampling, max_new_tokens=min(served.sampling.max_new_tokens, max_new_tokens))
    return Job(sample, sampling, constraint, max_prompt_tokens=served.max_prompt_tokens)


def few_images(sample: Sample | errors.RowError, max_images: int) -> Sample | errors.RowError:
    """A row's sample, unless it has too many images.

    Args:
        sample: of the row, or what is wrong with it already.
        max_images: of one row.

    Returns:
        The same, or what is wrong with it.
    """
    if isinstance(sample, errors.RowError):
        return sample
    n_images = sum(part.kind == "image" for message in sample.messages for part in message.parts)
    return sample if n_images <= max_images else errors.RowError(f"{n_images} images are more than the {max_images} allowed")


async def predicted(
    samples: Sequence[Sample | errors.RowError], jobs: Sequence[Job], served: Served, counts: Counts, deadline: float
) -> PredictResponse:
    """Wait for the answers to all rows.

    Args:
        samples: per row, its sample or what is wrong with it.
        jobs: at work, one per sample.
        served: the run.
        counts: gets the answers.
        deadline: by the event loop's clock.

    Returns:
        One entry per row.

    Raises:
        Refusal: the model failed, or it takes too long.
    """
    answered = iter(await asyncio.gather(*(_end(job, deadline) for job in jobs)))
    ends = [error if isinstance(error := sample, errors.RowError) else next(answered) for sample in samples]
    rows = [_row(index, sample, end, served) for index, (sample, end) in enumerate(zip(samples, ends, strict=True))]
    answers = [end for end in ends if isinstance(end, Answer)]
    for answer in answers:
        counts.answer(answer)
    return PredictResponse(model=served.name, rows=rows, usage=usage_of(answers))


async def _end(job: Job, deadline: float) -> Answer | Refusal:
    try:
        return (await finished(job, deadline)).answer
    except Refusal as refusal:
        if refusal.status != 400:
            raise
        return refusal


def _row(index: int, sample: Sample | errors.RowError, end: Answer | Refusal | errors.RowError, served: Served) -> PredictedRow:
    if isinstance(sample, errors.RowError):
        return PredictedRow(index=index, error=RowError(message=sample.what, hint=sample.hint or None))
    if isinstance(end, Refusal):
        return PredictedRow(index=index, id=sample.id, error=RowError(message=end.message))
    assert isinstance(end, Answer)
    prediction = served.task.parse(end, sample)
    return PredictedRow(
        index=index,
        id=sample.id,
        answer=end.text,
        prediction=prediction.value,
        is_valid=prediction.is_valid,
        ended_by=end.ended_by,
        probabilities=served.calibrated(end.label_probabilities) if end.label_probabilities is not None else None,
        flags=list(prediction.flags),
    )
