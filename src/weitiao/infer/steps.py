"""Answers to prompts that come and go: continuous batching, one step at a time.

A step reads some prompt tokens of rows that joined, then gives every row that is read its next token(s); finished rows leave, waiting
ones take their place. What rows begin with in common is read once. A row's answer does not depend on the rows beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from weitiao.errors import EngineError, RowError, WeitiaoError
from weitiao.infer.batches import MIN_PREFIX, Prompt, cache_tokens_that_fit, check_lengths, common_length, read_tokens, render_prompts
from weitiao.infer.cache import Prefix
from weitiao.infer.choose import are_whole, refuse_broken, source_of_chance
from weitiao.infer.constrain import Grammars
from weitiao.infer.network import HEAD_POSITIONS, Reader, read_prefix
from weitiao.infer.rows import Joined, Refused, Row, Stepped
from weitiao.infer.spans import ROOT, Span
from weitiao.infer.speculation import Guess, Speculation
from weitiao.infer.vision import before_pictures, prompt_span
from weitiao.seams import Constraint, Message, Renderer, Sample, Sampling, Vision

COLUMNS_AT_A_TIME = 64
"""Slots are made for a multiple of so many tokens, so that a slightly longer row needs no new ones."""


class StepBatch:
    """Rows at work and rows that wait. All methods are called from one thread."""

    def __init__(
        self,
        reader: Reader,
        renderer: Renderer,
        grammars: Grammars,
        vision: Vision | None,
        speculation: Speculation,
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
            speculation: guesses tokens.
            batch_size: most rows at work at once, >= 1; fewer where memory is short.
            patient: whether rows may wait for others so that passes are wide (work of which all is known), or none may stop the others'
                streams (a server).
        """
        self._reader, self._renderer, self._grammars, self._vision = reader, renderer, grammars, vision
        self._speculation = speculation
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
        self._refused: list[Refused] = []

    @property
    def n_waiting(self) -> int:
        """Rows that have no slot yet."""
        return len(self._waiting)

    @property
    def n_working(self) -> int:
        """Rows that have a slot."""
        return len(self._rows)

    @property
    def n_read(self) -> int:
        """Rows at work whose prompts are read."""
        return sum(map(self._is_read, self._rows))

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
            EngineError: in a patient batch, the output is not finite, or a constraint cannot be followed.
            RowError: in a patient batch, an image cannot be read.
        """
        self._admit()
        reading = [row for row in self._rows if not self._is_read(row)]
        writing = [row for row in self._rows if self._is_read(row)]
        steps = self._read_prompts(reading) if reading else []
        if writing and not (reading and self._patient):
            steps += self._write(writing)
        return steps

    def refused(self) -> list[Refused]:
        """Rows that could not go on since this was last asked; the others did. None in a patient batch, whose ``step`` raises instead."""
        refused, self._refused = self._refused, []
        return refused

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
        row.text = self._speculation.text_of(row)
        self._rows.append(row)

    def _drop(self, row: Row) -> None:
        last = self._rows[self._cache.close(row.slot)]
        self._rows[row.slot] = last
        last.slot = row.slot
        self._rows.pop()

    def _refuse(self, row: Row, error: WeitiaoError) -> None:
        if self._patient:
            raise error
        self._cache.erase(row.slot)
        self._drop(row)
        self._refused.append(Refused(row.ticket, error))

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
        read = [i for i, (row, span) in enumerate(zip(rows, spans, strict=True)) if span.stop >= len(row.prompt.token_ids)]
        guesses = self._speculation.guesses([rows[i] for i in read], len(self._rows), fills_up=self._reader.fills_up)
        for i, guess in zip(read, guesses, strict=True):
            spans[i] = replace(spans[i], token_ids=[*spans[i].token_ids, *guess.draft], parents=range(ROOT, ROOT + guess.n_read))
        try:
            hidden_NH = self._reader.read(self._cache, spans)
        except RowError as error:
            if len(rows) == 1:
                self._refuse(rows[0], error)
                return []
            return [step for row in rows for step in self._read_prompts([row])]  # by itself: shows whose image went away
        if not read:
            return []
        if not self._patient:
            self._remember_beginning(rows[read[-1]])
        ends = torch.tensor([len(span.token_ids) for span in spans]).cumsum(0).tolist()
        places = [place for i, guess in zip(read, guesses, strict=True) for place in range(ends[i] - 1 - guess.n_read, ends[i])]
        return self._choose([rows[i] for i in read], guesses, hidden_NH[torch.tensor(places, device=hidden_NH.device)])

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
        """Read each row's last token, and what may follow it, and choose the next."""
        guesses = self._speculation.guesses(writing, len(writing), fills_up=self._reader.fills_up)
        spans = [
            Span(row.slot, row.n_tokens - 1, [row.answer_ids[-1], *guess.draft], shift=row.shift)
            for row, guess in zip(writing, guesses, strict=True)
        ]
        self._speculation.tally.n_passes += 1
        return self._choose(writing, guesses, self._reader.read(self._cache, spans))

    def _choose(self, rows: Sequence[Row], guesses: Sequence[Guess], hidden_MH: Tensor) -> list[Stepped]:
        """Choose tokens by what was read of each row: its last token and its draft."""
        steps: list[Stepped] = []
        for some, hidden_NH in _few_at_a_time(list(zip(rows, guesses, strict=True)), hidden_MH):
            logits_NV = self._reader.logits(hidden_NH)
            whole = are_whole(logits_NV)
            likeliest = logits_NV.argmax(dim=-1).tolist()
            n_before = 0
            for row, guess in some:
                own = slice(n_before, n_before + 1 + guess.n_read)
                n_before = own.stop
                try:
                    refuse_broken(whole[own], row.prompt.sample.origin)
                    chosen = row.choose(logits_NV[own], likeliest[own], guess.draft, self._stop_ids)
                except EngineError as error:
                    self._refuse(row, error)
                    continue
                self._speculation.learn(row, guess, chosen)
                self._cache.forget(row.slot, row.n_tokens - 1)
                answer = row.answer(self._renderer) if row.ended_by else None
                if answer:
                    self._drop(row)
                steps.append(Stepped(row.ticket, chosen, answer))
        return steps


def _few_at_a_time(rows: Sequence[tuple[Row, Guess]], hidden_MH: Tensor) -> Iterator[tuple[list[tuple[Row, Guess]], Tensor]]:
    """Rows in groups of at most ``HEAD_POSITIONS`` places, with their hidden states, so that few logits exist at the same time."""
    group: list[tuple[Row, Guess]] = []
    start = stop = 0
    for row, guess in rows:
        if stop + 1 + guess.n_read - start > HEAD_POSITIONS:
            yield group, hidden_MH[start:stop]
            group, start = [], stop
        group.append((row, guess))
        stop += 1 + guess.n_read
    yield group, hidden_MH[start:stop]
