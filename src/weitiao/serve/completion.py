"""``/v1/chat/completions``: one answer, whole or as it is written."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from weitiao.seams import Answer
from weitiao.serve.counts import Counts
from weitiao.serve.jobs import Finished, Job, Piece
from weitiao.serve.refusal import Refusal
from weitiao.serve.replies import AnswerMessage, ChatCompletion, ChatCompletionChunk, Choice, ChunkChoice, Delta, FinishReason, Usage
from weitiao.serve.waiting import events, finished, usage_of

GRACE_SECONDS = 5.0
"""For the last bytes of a stream to leave once its time is up."""


async def whole_answer(job: Job, name: str, counts: Counts, deadline: float) -> ChatCompletion:
    """Wait for the whole answer.

    Args:
        job: at work.
        name: of the run.
        counts: gets the answer.
        deadline: by the event loop's clock.

    Returns:
        OpenAI's object.

    Raises:
        Refusal: there is no answer, or not in time.
    """
    end = await finished(job, deadline)
    counts.answer(end.answer)
    choice = Choice(message=AnswerMessage(content=end.answer.text), finish_reason=finish_reason(end.answer))
    return ChatCompletion(id=new_id(), created=int(time.time()), model=name, choices=[choice], usage=usage_of([end.answer]))


async def answer_events(job: Job, name: str, counts: Counts, deadline: float, *, with_usage: bool) -> AsyncIterator[str]:
    """The answer as server-sent events, in OpenAI's order: role, text, reason, usage, ``[DONE]``.

    Args:
        job: at work, with pieces.
        name: of the run.
        counts: gets the answer.
        deadline: by the event loop's clock.
        with_usage: whether tokens are counted at the end.

    Yields:
        One event each. A failure after the first is an event too: the status has been sent.
    """
    answer_id, created = new_id(), int(time.time())

    def chunk(choices: list[ChunkChoice], usage: Usage | None = None) -> str:
        made = ChatCompletionChunk(id=answer_id, created=created, model=name, choices=choices, usage=usage)
        return _event(made.model_dump(exclude=None if with_usage else {"usage"}))

    yield chunk([ChunkChoice(delta=Delta(role="assistant", content=""))])
    has_text = False
    try:
        async for event in events(job, deadline):
            text = event.text if isinstance(event, Piece | Finished) else ""
            if text:
                if not has_text:
                    has_text = True
                    counts.first_token(time.monotonic() - job.started)
                yield chunk([ChunkChoice(delta=Delta(content=text))])
            if isinstance(event, Finished):
                counts.answer(event.answer)
                yield chunk([ChunkChoice(delta=Delta(), finish_reason=finish_reason(event.answer))])
                if with_usage:
                    yield chunk([], usage_of([event.answer]))
    except Refusal as refusal:
        yield _event(refusal.body)
    yield "data: [DONE]\n\n"


class AnswerStream(StreamingResponse):
    """Server-sent events that end at a deadline even if the client does not read them."""

    def __init__(self, content: AsyncIterator[str], deadline: float, held: ExitStack) -> None:
        """Keep the events.

        Args:
            content: the events.
            deadline: by the event loop's clock.
            held: what the answer needs while it is written; closed at the end, however that comes.
        """
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._deadline = deadline
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer.

        Args:
            scope: of the connection.
            receive: says when the client goes.
            send: takes the events.
        """
        with self._held:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send the events, as long as there is time.

        Args:
            send: takes them.
        """
        try:
            async with asyncio.timeout_at(self._deadline + GRACE_SECONDS):
                await super().stream_response(send)
        except TimeoutError:
            return


def new_id() -> str:
    """A name for an answer."""
    return f"chatcmpl-{uuid.uuid4().hex}"


def finish_reason(answer: Answer) -> FinishReason:
    """OpenAI's word for how an answer ended."""
    return "length" if answer.ended_by == "length" else "stop"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
