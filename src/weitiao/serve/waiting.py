"""How a request waits for its answers: until they are there, its time is up, or its client is gone; the last two give the work up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from starlette.types import Receive

from weitiao.errors import WeitiaoError
from weitiao.seams import Answer
from weitiao.serve.jobs import Event, Failed, Finished, Job, Piece
from weitiao.serve.refusal import Refusal
from weitiao.serve.replies import Usage
from weitiao.serve.worker import Worker

T = TypeVar("T")


@contextmanager
def at_work(worker: Worker, jobs: Sequence[Job]) -> Iterator[None]:
    """Have jobs worked on; those that are not finished at the end are given up.

    Args:
        worker: does them.
        jobs: of one request.

    Yields:
        Nothing.

    Raises:
        Refusal: the queue is full.
    """
    worker.submit(jobs)
    try:
        yield
    finally:
        worker.give_up(jobs)


async def while_connected(work: Coroutine[None, None, T], receive: Receive) -> T:
    """Wait for work, and end it when the client goes.

    Args:
        work: to be done.
        receive: of the connection, the body already read.

    Returns:
        What the work gives.

    Raises:
        Refusal: the client is gone; nobody reads it, but it is counted.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refusal(499, "the client is gone")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def events(job: Job, deadline: float) -> AsyncIterator[Event]:
    """What becomes of a job, to its end.

    Args:
        job: at work.
        deadline: by the event loop's clock.

    Yields:
        Pieces, then the end.

    Raises:
        Refusal: there is no answer, or not in time.
    """
    while True:
        event = await _next(job, deadline)
        yield event
        if isinstance(event, Finished):
            return


async def _next(job: Job, deadline: float) -> Event:
    try:
        async with asyncio.timeout_at(deadline):
            event = await job.events.get()
    except TimeoutError:
        raise Refusal(504, "the answer took too long and was given up", code="timeout") from None
    if isinstance(event, Failed):
        raise refusal_of(event) from event.error
    return event


async def begun(job: Job, deadline: float) -> None:
    """Wait until a job's prompt was taken in; what can be wrong with a request shows by then, while a status can still say it.

    Args:
        job: at work, with pieces; ``events`` gives what comes after.
        deadline: by the event loop's clock.

    Raises:
        Refusal: there will be no answer, or not in time.
    """
    first = await _next(job, deadline)
    assert first == Piece(""), "the worker says first that it took the prompt in"


async def finished(job: Job, deadline: float) -> Finished:
    """The end of a job.

    Args:
        job: at work, without streaming.
        deadline: by the event loop's clock.

    Returns:
        Its end.

    Raises:
        Refusal: there is no answer, or not in time.
    """
    async for event in events(job, deadline):
        if isinstance(event, Finished):
            return event
    raise AssertionError("a job ends with its answer or an error")


def refusal_of(failed: Failed) -> Refusal:
    """What a client is told: its own mistakes in words, ours only as such."""
    error = failed.error
    if failed.is_ours or not isinstance(error, WeitiaoError):
        return Refusal(500, "the model could not answer; the server's log says why", code="engine_error")
    is_length = error.what.startswith("the prompt has")
    return Refusal(400, error.what, code="context_length_exceeded" if is_length else "invalid_request")


def usage_of(answers: Sequence[Answer]) -> Usage:
    """OpenAI's token counts of answers."""
    n_prompt, n_new = sum(answer.n_prompt_tokens for answer in answers), sum(answer.n_new_tokens for answer in answers)
    return Usage(prompt_tokens=n_prompt, completion_tokens=n_new, total_tokens=n_prompt + n_new)
