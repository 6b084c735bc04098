"""Answers to prompts that come and go: continuous batching, one step at a time.

A step reads some prompt tokens of rows that joined, then gives every row that is read its next token(s); finished rows leave, waiting
ones take their place. What rows begin with in common is read once. A row's answer does not depend on the rows beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from weitiao.infer.batches import MIN_PREFIX, Prompt, cache_tokens_that_fit, check_lengths, common_length, read_tokens, render_prompts
from weitiao.infer.cache import Prefix
from weitiao.infer.choose import draw, refuse_broken, source_of_chance
from weitiao.infer.constrain import Grammars
from weitiao.infer.network import Reader, read_prefix
from weitiao.infer.rows import Row
from weitiao.infer.spans import Span
from weitiao.infer.vision import before_pictures, prompt_span
from weitiao.seams import Answer, Constraint, Message, Renderer, Sample, Sampling, Vision

COLUMNS_AT_A_TIME = 64
"""Slots are made for a multiple of so many tokens, so that a slightly longer row needs no new ones."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A prompt that was taken in."""

    ticket: int
    """Its number in this batch, counted from 0."""
    n_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """How an answer went on in a step."""

    ticket: int
    token_ids: tuple[int, ...]
    """New ones, the stop token included."""
    answer: Answer | None
    """The whole answer, where it is finished by them; its row has left the batch."""


class StepBatch:
    """Rows at work and rows that wait. All methods are called from one thread."""

    def __init__(
        self,
        reader: Reader,
        renderer: Renderer,
        grammars: Grammars,
        vision: Vision | None,
        *,
        batch_size: int,
        patient: bool,
    ) -> None:
        """Begin without rows; see ``EmbeddedEngine.step_batch``.

        Args:
            reader: reads tokens.
            renderer: the run's renderer.
            grammars: compiles constraints.
            vision: of a vision model.
            batch_size: most rows at work at once, >= 1; fewer where memory is short.
            patient: whether rows may wait for others so that passes are wide (work of which all is known), or none may stop the others'
                streams (a server).
        """
        self._reader, self._renderer, self._grammars, self._vision = reader, renderer, grammars, vision
        self._batch_size, self._patient = batch_size, patient
        self._cache = reader.new_cache()
        self._cache_tokens = cache_tokens_that_fit(reader.config, self._cache.dtype, self._cache.device)
        self._read_tokens = read_tokens(self._cache.device)
        self._stop_ids = frozenset(renderer.stop_token_ids)
        self._tickets = count()
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []
        """At work; row ``i`` has slot ``i``."""
        self._prefix: Prefix | None = None
        self._last_prompt: list[int] = []

    @property
    def n_waiting(self) -> int:
        """Rows that have no slot yet."""
        return len(self._waiting)

    @property
    def n_working(self) -> int:
        """Rows that have a slot."""
        return len(self._rows)

    @property
    def n_columns(self) -> int:
        """Tokens of the longest row at work, as far as they are read."""
        return max(self._cache.lengths, default=0)

    def rows_done(self, n_expected: float) -> float:
        """How far the rows at work have come, together, in answers.

        Args:
            n_expected: tokens of an answer as it is expected.

        Returns:
            Less than 1 per row.
        """
        lengths = self._cache.lengths
        return sum(min(0.99, lengths[row.slot] / (len(row.prompt.token_ids) + n_expected)) for row in self._rows)

    @property
    def n_written(self) -> int:
        """Tokens of the longest answer at work."""
        return max((len(row.answer_ids) for row in self._rows), default=0)

    def join(
        self,
        asked: Sample | Sequence[Message],
        sampling: Sampling,
        constraint: Constraint | None = None,
        max_prompt_tokens: int | None = None,
    ) -> Joined:
        """Take a prompt in; a step to come reads it, where there is room.

        Args:
            asked: a sample (an answer at its end is left out), or a conversation.
            sampling: how tokens are chosen. With a temperature, an answer depends on seed and ``Sample.id``, not on the rows beside it.
            constraint: what the answer may be; None, or a constraint with nothing set, means anything.
            max_prompt_tokens: longest prompt; what may be shortened is, to fit. None: no limit but the model's positions.

        Returns:
            The ticket by which its tokens come.

        Raises:
            RowError: the prompt cannot be shortened enough, or an image cannot be read.
            EngineError: the prompt is too long for the model, or the constraint cannot be compiled.
        """
        sample = asked if isinstance(asked, Sample) else Sample("", "conversation", tuple(asked))
        (prompt,) = render_prompts([sample], self._renderer, max_prompt_tokens)
        check_lengths([prompt], sampling.max_new_tokens, self._reader.config)
        return Joined(self.join_prompt(prompt, sampling, constraint), len(prompt.token_ids))

    def join_prompt(self, prompt: Prompt, sampling: Sampling, constraint: Constraint | None = None) -> int:
        """Take a prompt in whose tokens are known and checked; its ticket. Arguments and errors as of ``join``."""
        matcher = self._grammars.matcher(constraint, prompt.sample.origin, sampling.max_new_tokens)
        row = Row(next(self._tickets), prompt, sampling, matcher, source_of_chance(sampling, prompt.sample.id))
        self._waiting.append(row)
        return row.ticket

    def leave(self, ticket: int) -> None:
        """Give an answer up; one that is not there any more is no error.

        Args:
            ticket: what ``join`` returned.
        """
        self._waiting = deque(row for row in self._waiting if row.ticket != ticket)
        for row in [row for row in self._rows if row.ticket == ticket]:
            self._drop(row)

    def share(self, token_ids: Sequence[int]) -> None:
        """Read what the prompts to come begin with, once.

        Args:
            token_ids: the common beginning; nothing is read where it is empty.
        """
        self._prefix = read_prefix(self._reader, token_ids)

    def step(self) -> list[Stepped]:
        """Do a little of the work: at most one pass over prompts, and one over answers.

        Returns:
            New tokens, once per row that got some; empty when there is nothing to do, or prompts are still being read.

        Raises:
            EngineError: the output is not finite, or a constraint cannot be followed.
        """
        self._admit()
        reading = [row for row in self._rows if not self._is_read(row)]
        writing = [row for row in self._rows if self._is_read(row)]
        steps = self._read_prompts(reading) if reading else []
        if writing and not (reading and self._patient):
            steps += self._write(writing)
        return steps

    def _is_read(self, row: Row) -> bool:
        return self._cache.lengths[row.slot] >= len(row.prompt.token_ids)

    # ---- rows join and leave ------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give waiting rows a slot while there is room."""
        n_free = self._batch_size - len(self._rows)
        if self._patient and self._rows and n_free < min(len(self._waiting), -(-self._batch_size // 8)):
            return
        n_columns = max((row.n_most for row in self._rows), default=0)
        while self._waiting and len(self._rows) < self._batch_size:
            row = self._waiting[0]
            n_columns = -(-max(n_columns, row.n_most) // COLUMNS_AT_A_TIME) * COLUMNS_AT_A_TIME
            n_slots = max(1, min(self._batch_size, self._cache_tokens // n_columns))
            if len(self._rows) >= n_slots:
                return
            self._cache.reserve(min(n_slots, len(self._rows) + len(self._waiting)) if self._patient else n_slots, n_columns)
            self._begin(self._waiting.popleft())

    def _begin(self, row: Row) -> None:
        shared = common_length(self._prefix.token_ids, row.prompt.token_ids[:-1]) if self._prefix else 0
        row.slot = self._cache.open(self._prefix, shared)
        self._rows.append(row)

    def _drop(self, row: Row) -> None:
        last = self._rows[self._cache.close(row.slot)]
        self._rows[row.slot] = last
        last.slot = row.slot
        self._rows.pop()

    # ---- passes -------------------------------------------------------------------------------------------------------

    def _read_prompts(self, reading: Sequence[Row]) -> list[Stepped]:
        """Read the next tokens of some prompts; rows that are read to the end choose their first token."""
        n_left = self._read_tokens
        rows: list[Row] = []
        spans: list[Span] = []
        for row in reading:
            span = self._next_of_prompt(row)
            if rows and len(span.token_ids) > n_left:
                break
            rows.append(row)
            spans.append(span)
            n_left -= len(span.token_ids)
        hidden_NH = self._reader.read(self._cache, spans)
        ends = torch.tensor([len(span.token_ids) for span in spans]).cumsum(0) - 1
        read = [i for i, row in enumerate(rows) if self._is_read(row)]
        if not read:
            return []
        if not self._patient:
            self._remember_beginning(rows[read[-1]])
        return self._choose([rows[i] for i in read], hidden_NH[ends[read].to(hidden_NH.device)])

    def _next_of_prompt(self, row: Row) -> Span:
        n_read = self._cache.lengths[row.slot]
        if row.prompt.pictures:
            span = prompt_span(self._vision, row.prompt, row.slot, n_read)
            row.shift = span.shift
            return span
        return Span(row.slot, n_read, row.prompt.token_ids[n_read : n_read + self._read_tokens])

    def _remember_beginning(self, row: Row) -> None:
        """Keep what this prompt and the one before begin with, for those to come."""
        prompt = before_pictures(self._vision, row.prompt.token_ids[:-1])
        n_same = common_length(self._last_prompt, prompt)
        if n_same >= MIN_PREFIX and (self._prefix is None or self._prefix.token_ids != tuple(prompt[:n_same])):
            self._prefix = self._cache.beginning(row.slot, prompt[:n_same])
        self._last_prompt = prompt

    def _write(self, writing: Sequence[Row]) -> list[Stepped]:
        """Read each row's last token and choose the next."""
        spans = [Span(row.slot, row.n_tokens - 1, row.answer_ids[-1:], shift=row.shift) for row in writing]
        return self._choose(writing, self._reader.read(self._cache, spans))

    def _choose(self, rows: Sequence[Row], hidden_MH: Tensor) -> list[Stepped]:
        logits_MV = self._reader.logits(hidden_MH)
        refuse_broken(logits_MV)
        for logits_V, row in zip(logits_MV, rows, strict=True):
            if row.matcher:
                logits_V.masked_fill_(~row.matcher.allowed().to(logits_V.device), -torch.inf)
        greedy = logits_MV.argmax(dim=-1).tolist()
        steps: list[Stepped] = []
        for i, row in enumerate(rows):
            token = draw(logits_MV[i].cpu(), row.sampling, row.generator) if row.generator else greedy[i]
            row.take(token, self._stop_ids)
            answer = row.answer(self._renderer) if row.ended_by else None
            if answer:
                self._drop(row)
            steps.append(Stepped(row.ticket, (token,), answer))
        return steps
