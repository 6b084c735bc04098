"""The one thread that drives the model.

Requests put prompts into a bounded queue; after every step of the model those that wait join the batch, and those that are done or whose
client is gone leave it.

Only this thread touches network, tokenizer and renderer, so nothing in them needs a lock. What it has to say goes to the event loop in
one call per step.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from weitiao.errors import WeitiaoError
from weitiao.infer import StepBatch, Stepped
from weitiao.log import logger
from weitiao.seams import Answer, Engine, Sample, Sampling
from weitiao.serve.jobs import Event, Failed, Finished, Job, Piece
from weitiao.serve.refusal import Refusal
from weitiao.serve.writing import Writing

SCORED_AT_ONCE = 16
"""Rows whose labels are scored in one go: answers that are being written wait that long."""


@dataclass(frozen=True, slots=True)
class _Running:
    """An answer that is being written."""

    job: Job
    writing: Writing | None
    """None where nobody asks for its text before it is whole."""
    n_prompt_tokens: int

    def ended(self, text: str, answer: Answer) -> Finished:
        """The end as the model made it, or the stop text that its last tokens brought."""
        if self.writing is None:
            return Finished("", answer)
        rest = self.writing.end(answer.text)
        ended_by = "stop" if self.writing.stopped else answer.ended_by
        return Finished(text + rest, replace(answer, text=self.writing.said, n_new_tokens=self.writing.n_tokens, ended_by=ended_by))

    def stopped(self, text: str) -> Finished:
        """The end that a stop text made, before the model's own."""
        assert self.writing is not None
        return Finished(text, Answer(self.writing.said, self.n_prompt_tokens, self.writing.n_tokens, "stop"))


class Worker:
    """Owns the thread; every method but ``run`` is called from the event loop."""

    def __init__(
        self,
        engine: Engine,
        new_batch: Callable[[], StepBatch],
        decode: Callable[[Sequence[int]], str],
        labels: Callable[[Sample], Sequence[str]],
        wrote: Callable[[int], None],
        *,
        batch_rows: int,
        max_waiting: int,
    ) -> None:
        """Keep the parts.

        Args:
            engine: scores labels.
            new_batch: makes an empty batch.
            decode: text of an answer's tokens.
            labels: what a sample's answer is chosen from.
            wrote: gets the number of tokens that a step wrote.
            batch_rows: most answers that are written side by side.
            max_waiting: most prompts that wait.
        """
        self._engine = engine
        self._new_batch = new_batch
        self._batch = new_batch()
        self._decode = decode
        self._labels = labels
        self._wrote = wrote
        self._batch_rows = batch_rows
        self._max_waiting = max_waiting
        self._waiting: deque[Job] = deque()
        self._running: dict[int, _Running] = {}
        self._outbox: list[tuple[Job, Event]] = []
        self._changed = threading.Condition()
        self._is_stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="weitiao-model", daemon=True)
        self._seconds_per_answer = 1.0
        self.refuses = False
        """Whether no new work is taken."""

    # ---- from the event loop ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; called in the event loop that gets the events."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread once it has nothing left to do, and wait for that."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let jobs wait for their turn.

        Args:
            jobs: of one request; all are taken or none.

        Raises:
            Refusal: the queue is full, or no work is taken any more.
        """
        if self.refuses:
            raise Refusal(503, "the server is stopping", code="stopping", retry_after=5)
        if not self._thread.is_alive():
            raise Refusal(503, "the model's thread has ended; restart the server", code="failed", retry_after=60)
        with self._changed:
            n_waiting = len(self._waiting)
            if n_waiting + len(jobs) > self._max_waiting:
                wait = min(60, max(1, round(n_waiting * self._seconds_per_answer)))
                what = f"{n_waiting} prompts are waiting already, and at most {self._max_waiting} may; try again in {wait} s"
                raise Refusal(503, what, code="overloaded", retry_after=wait)
            self._waiting.extend(jobs)
            self._changed.notify()

    def give_up(self, jobs: Sequence[Job]) -> None:
        """Forget jobs whose client is gone or whose time is up; finished ones are not touched."""
        with self._changed:
            for job in jobs:
                if not job.is_over:
                    job.is_over = True
            self._waiting = deque(job for job in self._waiting if not job.is_over)
            self._changed.notify()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        """Prompts without a place in the batch."""
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        """Answers that are being written."""
        return len(self._running)

    # ---- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._has_work():
            try:
                self._drop()
                self._admit()
                self._step()
            except Exception as error:
                logger.exception("the model could not go on; %d answers are lost", len(self._running))
                self._fail_running(error)
            self._post()

    def _has_work(self) -> bool:
        with self._changed:
            while not (self._waiting or self._running):
                if self._is_stopping:
                    return False
                self._changed.wait()
        return True

    def _drop(self) -> None:
        for ticket in [ticket for ticket, running in self._running.items() if running.job.is_over]:
            del self._running[ticket]
            self._batch.leave(ticket)

    def _admit(self) -> None:
        """Take those in that wait longest, as many as there are places; labels are scored at once."""
        scored: list[Job] = []
        while len(self._running) + len(scored) < self._batch_rows and len(scored) < SCORED_AT_ONCE:
            with self._changed:
                job = self._waiting.popleft() if self._waiting else None
            if job is None:
                break
            if job.sampling is None:
                scored.append(job)
            else:
                self._join(job, job.sampling)
        if scored:
            self._score(scored)

    def _join(self, job: Job, sampling: Sampling) -> None:
        try:
            joined = self._batch.join(job.sample, sampling, job.constraint, job.max_prompt_tokens)
        except Exception as error:
            self._tell_failure(job, error)
            return
        writing = Writing(self._decode, job.stops) if job.streams or job.stops else None
        self._running[joined.ticket] = _Running(job, writing, joined.n_prompt_tokens)
        if job.streams:
            self._tell(job, Piece(""))

    def _score(self, jobs: Sequence[Job]) -> None:
        try:
            answers = dict(self._engine.score_labels([job.sample for job in jobs], self._labels))
            ends = [Finished(answers[i].text, answers[i]) for i in range(len(jobs))]
        except Exception as error:
            if len(jobs) == 1:
                self._tell_failure(jobs[0], error)
                return
            # One row's mistake is not the others': each by itself.
            for job in jobs:
                self._score([job])
            return
        for job, end in zip(jobs, ends, strict=True):
            self._finish(job, end)

    def _step(self) -> None:
        if not self._running:
            return
        stepped = self._batch.step()
        self._wrote(sum(len(step.token_ids) for step in stepped))
        for step in stepped:
            try:
                self._take(step)
            except Exception as error:
                self._give_back(step.ticket, error)
        for refused in self._batch.refused():
            self._give_back(refused.ticket, refused.error)

    def _take(self, step: Stepped) -> None:
        """Pass on what an answer got in a step."""
        running = self._running[step.ticket]
        text = running.writing.take(step.token_ids) if running.writing else ""
        if step.answer is not None:
            self._finish(running.job, running.ended(text, step.answer))
            del self._running[step.ticket]
        elif running.writing and running.writing.stopped:
            self._finish(running.job, running.stopped(text))
            self._batch.leave(step.ticket)
            del self._running[step.ticket]
        elif text and running.job.streams:
            self._tell(running.job, Piece(text))

    def _give_back(self, ticket: int, error: Exception) -> None:
        """End one answer; the others go on."""
        self._tell_failure(self._running.pop(ticket).job, error)
        self._batch.leave(ticket)

    def _finish(self, job: Job, event: Finished) -> None:
        seconds = (time.monotonic() - job.started) / max(1, self._batch_rows)
        self._seconds_per_answer = 0.9 * self._seconds_per_answer + 0.1 * seconds
        self._tell(job, event)

    def _fail_running(self, error: Exception) -> None:
        for running in self._running.values():
            self._tell(running.job, Failed(error, is_ours=True))
        self._running.clear()
        self._post()  # a new batch may fail too
        self._batch = self._new_batch()

    def _tell_failure(self, job: Job, error: Exception) -> None:
        """An error that a sentence explains is the request's, any other one ours."""
        is_ours = not isinstance(error, WeitiaoError)
        if is_ours:
            logger.error("an answer failed in a way that was not foreseen", exc_info=error)
        self._tell(job, Failed(error, is_ours=is_ours))

    def _tell(self, job: Job, event: Event) -> None:
        self._outbox.append((job, event))
        if not isinstance(event, Piece):
            job.is_over = True

    def _post(self) -> None:
        if not self._outbox:
            return
        assert self._loop is not None
        sent, self._outbox = self._outbox, []
        try:
            self._loop.call_soon_threadsafe(_deliver, sent)
        except RuntimeError:
            # The loop is closed: the process is being ended by force.
            logger.debug("%d answers came too late", len(sent))


def _deliver(sent: Sequence[tuple[Job, Event]]) -> None:
    for job, event in sent:
        job.events.put_nowait(event)
