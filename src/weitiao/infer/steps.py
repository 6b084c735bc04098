"""A batch that prompts join and leave between two steps: what a server answers with, so that nobody waits for another's long answer.

A step reads the prompts that have joined, in one pass, and one more token of each answer that is being written. Rows are kept flush
right: each uses the last columns of the cache, which therefore is as wide as its longest row and no wider, whoever joined when.

Shape letters: B rows still answering, T columns of the KV cache, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from weitiao.chat import make_vision
from weitiao.infer.batches import READ_TOKENS, Prompt, cache_tokens_that_fit, check_lengths, render_prompts, shared_prefix
from weitiao.infer.cache import RoomyCache
from weitiao.infer.constrain import Grammars
from weitiao.infer.decode import Row, answer_of, choose, new_row, take
from weitiao.infer.network import Network, Reading, add_rows, keep_rows, next_logits, plain_network, read_batch, read_next, read_prefix
from weitiao.infer.vision import before_pictures, see_batch
from weitiao.seams import Answer, Constraint, LoadedModel, Renderer, Sample, Sampling, Vision

WORTH_READING = 32
"""Tokens by which a common beginning must be longer than the one that is kept to be read in its place."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A prompt that was taken in."""

    ticket: int
    """Its number in this batch."""
    n_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """How an answer went on in a step."""

    ticket: int
    token_ids: tuple[int, ...]
    """New ones, the stop token included."""
    answer: Answer | None
    """The whole answer, where it is finished by them; its row has left the batch."""


def make_step_batch(model: LoadedModel, renderer: Renderer, batch_size: int) -> StepBatch:
    """Make an empty batch.

    Args:
        model: a text or vision model, tuned or not; its network is put into eval mode and must stay in it.
        renderer: the run's renderer.
        batch_size: most answers that are written side by side, >= 1; fewer where memory is short.

    Returns:
        The batch. It may be used by one thread at a time.

    Raises:
        EngineError: the model is of a kind that cannot be answered with.
    """
    network = plain_network(model.network)
    network.eval()
    tokenizer = getattr(model.processor, "tokenizer", model.processor)
    grammars = Grammars(tokenizer, network.get_output_embeddings().weight.shape[0], renderer.stop_token_ids)
    return StepBatch(network, model.dtype, renderer, grammars, model.vision or make_vision(network, renderer), batch_size)


class StepBatch:
    """Answers that are being written side by side, each with its own sampling and constraint."""

    def __init__(
        self, network: Network, dtype: torch.dtype, renderer: Renderer, grammars: Grammars, vision: Vision | None, batch_size: int
    ) -> None:
        """Keep the parts; see ``make_step_batch``."""
        self._network = network
        self._dtype = dtype
        self._renderer = renderer
        self._grammars = grammars
        self._vision = vision
        self._batch_size = batch_size
        self._stop_ids = frozenset(renderer.stop_token_ids)
        self._tickets = count()
        self._joining: deque[Row] = deque()
        self._rows: list[Row] = []
        self._reading: Reading | None = None
        self._prefix: tuple[list[int], RoomyCache] | None = None
        self._last: list[int] = []

    def join(
        self, sample: Sample, sampling: Sampling, constraint: Constraint | None = None, max_prompt_tokens: int | None = None
    ) -> Joined:
        """Take a prompt in; the next step reads it, where there is room.

        Args:
            sample: a conversation; an answer at its end is left out.
            sampling: how tokens are chosen. With a temperature, an answer depends on seed and ``Sample.id``, not on the rows beside it.
            constraint: what the answer may be; None means anything.
            max_prompt_tokens: longest prompt; what may be shortened is, to fit. None: no limit but the model's positions.

        Returns:
            The ticket by which its tokens come.

        Raises:
            RowError: the prompt cannot be shortened enough, or its image cannot be read.
            EngineError: the prompt is too long for the model, or the constraint cannot be compiled.
        """
        (rendered,) = render_prompts([sample], self._renderer, max_prompt_tokens)
        prompt = Prompt(next(self._tickets), sample, rendered.token_ids, rendered.pictures)
        check_lengths([prompt], sampling.max_new_tokens, self._network.config)
        self._joining.append(new_row(prompt, self._grammars.matcher(constraint, sample.origin), sampling))
        return Joined(prompt.index, len(prompt.token_ids))

    def leave(self, ticket: int) -> None:
        """Give an answer up; nothing more is heard of it.

        Args:
            ticket: of an answer that is not finished.
        """
        self._joining = deque(row for row in self._joining if row.prompt.index != ticket)
        self._keep([i for i, row in enumerate(self._rows) if row.prompt.index != ticket])

    def step(self) -> list[Stepped]:
        """Go on by a token in each answer.

        Returns:
            One entry per answer that is being written, those that have just joined included; empty where there is none.

        Raises:
            EngineError: the model's output is not finite, or an answer left its constraint. The batch cannot be used any more.
        """
        with torch.no_grad(), torch.autocast(self._network.device.type, self._dtype, enabled=self._dtype != self._network.dtype):
            stepped = self._write() if self._rows else []
            new = self._next_to_read()
            return stepped + self._read(new) if new else stepped

    @property
    def n_columns(self) -> int:
        """Columns of the cache that are in use."""
        return 0 if self._reading is None else self._reading.mask.shape[1]

    def _write(self) -> list[Stepped]:
        """A token more of each answer in the batch."""
        assert self._reading is not None
        last = torch.tensor([row.token_ids[-1] for row in self._rows], device=self._network.device)
        read_next(self._network, self._reading, last)
        stepped, running = self._chosen(self._rows, self._reading.hidden)
        self._keep(running)
        return stepped

    def _read(self, new: list[Row]) -> list[Stepped]:
        """The first token of each answer to new prompts, which then are rows of the batch."""
        prompts = [row.prompt for row in new]
        prefix = self._shared(prompts)
        n_prefix = prefix.get_seq_length() if prefix else 0
        seen = see_batch(self._vision, prompts, n_prefix)
        rest = [prompt.token_ids[n_prefix:] for prompt in prompts]
        reading = read_batch(self._network, rest, prefix, self._renderer.pad_token_id, seen)
        stepped, running = self._chosen(new, reading.hidden)
        if running:
            if len(running) < len(new):
                keep_rows(reading, running)
            self._reading = reading if self._reading is None else add_rows(self._reading, reading)
            self._rows += [new[i] for i in running]
        return stepped

    def _chosen(self, rows: Sequence[Row], hidden_BH: Tensor) -> tuple[list[Stepped], list[int]]:
        """What each row says next, and the numbers of the rows that go on."""
        logits_BV = next_logits(self._network, hidden_BH)
        stepped: list[Stepped | None] = [None] * len(rows)
        running = []
        for sampling in dict.fromkeys(row.sampling for row in rows):
            places = [i for i, row in enumerate(rows) if row.sampling == sampling]
            for i, token in zip(places, choose(logits_BV[places], [rows[i] for i in places], sampling), strict=True):
                is_over = take(rows[i], token, self._stop_ids)
                stepped[i] = Stepped(rows[i].prompt.index, (token,), answer_of(rows[i], self._renderer) if is_over else None)
                if not is_over:
                    running.append(i)
        return [step for step in stepped if step is not None], sorted(running)

    def _keep(self, places: Sequence[int]) -> None:
        if len(places) == len(self._rows):
            return
        self._rows = [self._rows[i] for i in places]
        if not self._rows:
            self._reading = None
        elif self._reading is not None:
            keep_rows(self._reading, places)

    def _next_to_read(self) -> list[Row]:
        """Those that wait longest, as many as there is room for: in the batch, in memory and in one pass."""
        if not self._joining:
            return []
        fitting = cache_tokens_that_fit(self._network.config, self._dtype, self._network.device)
        widest = max((_n_columns(row) for row in self._rows), default=0)
        longest = 0
        new: list[Row] = []
        while self._joining:
            row = self._joining[0]
            n_rows = len(self._rows) + len(new) + 1
            widest, longest = max(widest, _n_columns(row)), max(longest, len(row.prompt.token_ids))
            is_alone = n_rows == 1
            if not is_alone and (
                n_rows > self._batch_size or n_rows * widest > fitting or (new and (len(new) + 1) * longest > READ_TOKENS)
            ):
                break
            new.append(self._joining.popleft())
        return new

    def _shared(self, prompts: Sequence[Prompt]) -> RoomyCache | None:
        """Keys and values of what the prompts and the one read before them begin with: a run's system message is read once."""
        known = [*prompts, Prompt(-1, prompts[0].sample, self._last)] if self._last else list(prompts)
        self._last = prompts[-1].token_ids
        ids = shared_prefix(known)
        ids = ids[: before_pictures(self._vision, prompts, len(ids))]
        if (
            self._prefix
            and len(self._prefix[0]) + WORTH_READING >= len(ids)
            and all(_begins(prompt, self._prefix[0]) for prompt in prompts)
        ):
            return self._prefix[1]
        self._prefix = (ids, read_prefix(self._network, ids)) if ids else None
        return self._prefix[1] if self._prefix else None


def _begins(prompt: Prompt, ids: Sequence[int]) -> bool:
    return len(prompt.token_ids) > len(ids) and prompt.token_ids[: len(ids)] == ids


def _n_columns(row: Row) -> int:
    """Columns of the cache that a row may come to use."""
    return len(row.prompt.token_ids) + row.sampling.max_new_tokens
