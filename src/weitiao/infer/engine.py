"""The embedded engine: ``seams.Engine`` on a transformers model, on CPU, CUDA or MPS alike."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch

from weitiao import log
from weitiao.chat import make_vision
from weitiao.errors import RowError
from weitiao.infer.batches import (
    Prompt,
    cache_tokens_that_fit,
    cached_bytes_per_token,
    check_lengths,
    plan_batches,
    read_tokens,
    render_prompts,
    shared_prefix,
)
from weitiao.infer.cache import SlotCache
from weitiao.infer.constrain import Grammars
from weitiao.infer.labels import LabelTokens, distinct_candidates, score_batch
from weitiao.infer.likelihood import joined, likelihood_batch
from weitiao.infer.network import PlainReader, Reader, plain_network, read_prefix
from weitiao.infer.packed import PackedReader, can_pack, packed_bytes
from weitiao.infer.speculation import Speculation, Tally
from weitiao.infer.steps import StepBatch
from weitiao.infer.vision import before_pictures
from weitiao.seams import Answer, Constraint, LoadedModel, Renderer, Sample, Sampling, Vision


def answering_bytes(network: Any, dtype: torch.dtype, device: torch.device, n_rows: int, n_tokens: int) -> int:
    """What answering takes beside the network.

    Args:
        network: a text or vision model; its weights may be on ``meta``.
        dtype: of the arithmetic.
        device: where it will be.
        n_rows: answered at once.
        n_tokens: of the longest of them, its answer included.

    Returns:
        Bytes of the weights laid out for the CPU, and of keys and values.
    """
    plain = plain_network(network)
    return packed_bytes(plain, dtype, device) + n_rows * n_tokens * cached_bytes_per_token(plain.config, dtype)


def make_engine(
    model: LoadedModel,
    renderer: Renderer,
    batch_size: int = 16,
    max_prompt_tokens: int | None = None,
    *,
    packed: bool = True,
    speculative: bool = True,
    hold: bool = False,
) -> EmbeddedEngine:
    """Make an engine that answers with a loaded model in this process.

    Args:
        model: a text or vision model, tuned or not. Its network is used as it is at each call.
        renderer: the run's renderer; the only one who turns text into tokens.
        batch_size: most rows that are answered at once, >= 1; fewer where memory is short.
        max_prompt_tokens: longest prompt; the user's own text is shortened to fit. None: no limit but the model's positions.
        packed: read through weights laid out for this CPU where that is faster; they are copied anew at each call, and dropped after it.
        speculative: guess tokens of greedy answers ahead and read those that are likely enough along; the answers stay the same.
        hold: keep that copy between calls, for weights that no longer change.

    Returns:
        An engine. Each call finds and leaves the network in the mode (train, eval) it is in.

    Raises:
        EngineError: the model is of a kind that this engine cannot answer with.
    """
    network = plain_network(model.network)
    tokenizer = getattr(model.processor, "tokenizer", model.processor)
    grammars = Grammars(tokenizer, network.get_output_embeddings().weight.shape[0], renderer)
    vision = model.vision or make_vision(network, renderer)

    def new_reader(packs: bool) -> Reader:
        return PackedReader(network, model.dtype) if packs else PlainReader(network, model.dtype, vision)

    reader = cache(new_reader) if hold else new_reader
    return EmbeddedEngine(
        # Asked at each call: an adapter that is switched off cannot be packed, and must not be answered for by a copy that holds it.
        lambda: reader(packed and can_pack(network, model.dtype)),
        renderer,
        grammars,
        vision,
        Speculation(network.device, is_on=speculative),
        batch_size=batch_size,
        max_prompt_tokens=max_prompt_tokens,
    )


def make_step_batch(model: LoadedModel, renderer: Renderer, batch_size: int) -> StepBatch:
    """Make an empty batch that prompts join and leave between two steps: ``EmbeddedEngine.step_batch`` where nothing else is asked.

    Args:
        model: a text or vision model, tuned or not.
        renderer: the run's renderer.
        batch_size: most answers that are written side by side, >= 1; fewer where memory is short.

    Returns:
        The batch; all of its methods are called from one thread.

    Raises:
        EngineError: the model is of a kind that cannot be answered with.
    """
    return make_engine(model, renderer, batch_size).step_batch()


class EmbeddedEngine:
    """Answers many rows at once; what all prompts of a call begin with is read once."""

    def __init__(
        self,
        open_reader: Callable[[], Reader],
        renderer: Renderer,
        grammars: Grammars,
        vision: Vision | None,
        speculation: Speculation,
        *,
        batch_size: int,
        max_prompt_tokens: int | None,
    ) -> None:
        """Keep the parts; see ``make_engine``."""
        self._open_reader = open_reader
        self._renderer = renderer
        self._grammars = grammars
        self._vision = vision
        self._speculation = speculation
        self._batch_size = batch_size
        self._max_prompt_tokens = max_prompt_tokens
        self._label_tokens = LabelTokens(renderer)

    @property
    def tally(self) -> Tally:
        """Passes over answers so far, and what became of the tokens that were guessed."""
        return self._speculation.tally

    def step_batch(self) -> StepBatch:
        """Start answering prompts that join and leave, as a server gets them; see ``StepBatch``.

        Returns:
            A batch without rows, in which no row waits for another's. It answers with the weights of now, also where they change later.
        """
        return self._step_batch(self._open_reader(), patient=False)

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        constraint: Callable[[Sample], Constraint | None] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Generate an answer to each sample's prompt.

        Args:
            samples: conversations; an answer at their end is left out.
            sampling: how tokens are chosen. With a temperature, an answer depends on seed and ``Sample.id``, not on the rows beside it.
            constraint: what a sample's answer may be; None, or a constraint with nothing set, means anything.

        Yields:
            ``(index, answer)`` as answers finish, longest prompts first at work. ``n_new_tokens`` counts the stop token where there is one.
            An answer that its constraint completes ends there, without a stop token, as ``constraint``.

        Raises:
            RowError: a prompt cannot be shortened enough.
            EngineError: a prompt is too long for the model, a constraint cannot be compiled, or the output is not finite.
        """
        if not samples:
            return
        reader = self._open_reader()
        prompts = self._prompts(reader, samples, sampling.max_new_tokens)
        rows = self._step_batch(reader, patient=True)
        rows.share(before_pictures(self._vision, shared_prefix(prompts)))
        index_of = {}
        for prompt in sorted(prompts, key=lambda prompt: len(prompt.token_ids), reverse=True):
            index_of[rows.join_prompt(prompt, sampling, constraint(prompt.sample) if constraint else None)] = prompt.index
        n_finished = n_new = 0
        while rows.n_waiting or rows.n_working:
            for stepped in rows.step():
                if stepped.answer:
                    n_finished, n_new = n_finished + 1, n_new + stepped.answer.n_new_tokens
                    yield index_of[stepped.ticket], stepped.answer
            read = f"{rows.n_read} prompts read" if rows.n_read < rows.n_working else ""
            words = f"{rows.n_working} at work, {read or f'{rows.n_written} of at most {sampling.max_new_tokens} tokens'}"
            # How long answers are is known once some are finished; before that a share would be a guess.
            log.at_work(rows.rows_done(n_new / n_finished) if n_finished else 0.0, words if rows.n_working else "")

    def score_labels(self, samples: Sequence[Sample], labels: Callable[[Sample], Sequence[str]]) -> Iterator[tuple[int, Answer]]:
        """Score each candidate as the whole answer; see ``labels.py`` for what the probability is.

        Args:
            samples: conversations; an answer at their end is left out.
            labels: the candidates of a sample, which may differ from row to row; repeated ones count once.

        Yields:
            ``(index, answer)`` batch by batch; ``text`` is the likeliest candidate, ``label_probabilities`` sums to 1.

        Raises:
            RowError: a prompt cannot be shortened enough.
            EngineError: a row has no candidate, or a prompt is too long for the model.
        """
        if not samples:
            return
        candidates = [distinct_candidates(sample, labels(sample)) for sample in samples]
        tokens = [[self._label_tokens.of(label, sample) for label in row] for row, sample in zip(candidates, samples, strict=True)]
        reader = self._open_reader()
        prompts = self._prompts(reader, samples, max(len(sequence) for row in tokens for sequence in row))
        prefix = read_prefix(reader, before_pictures(self._vision, shared_prefix(prompts)))
        slots = reader.new_cache()
        for batch in self._batches(slots, reader, prompts, max(sum(map(len, row)) for row in tokens)):
            offered = [candidates[prompt.index] for prompt in batch]
            sequences = [tokens[prompt.index] for prompt in batch]
            yield from score_batch(reader, slots, batch, prefix, self._vision, candidates=offered, sequences=sequences)

    def likelihood(self, samples: Sequence[Sample]) -> Iterator[tuple[int, Answer]]:
        """Score each sample's own answers, those that training would train.

        Args:
            samples: whole conversations, each with its answer. A document, one assistant message, is read in pieces of the longest
                prompt, as it is trained: each piece by itself, its first token not scored.

        Yields:
            ``(index, answer)`` as samples are done; ``nll`` in nats, summed over the ``n_new_tokens`` tokens that are scored.

        Raises:
            RowError: a sample has no answer, or cannot be shortened enough.
            EngineError: a conversation is too long for the model.
        """
        if not samples:
            return
        reader = self._open_reader()
        rows: list[Prompt] = []
        trained: list[Sequence[bool]] = []
        owners: list[int] = []
        for i, sample in enumerate(samples):
            try:
                rendered = self._renderer.conversation(sample.messages, self._max_prompt_tokens)
            except RowError as error:
                raise RowError(error.what, where=sample.origin, hint=error.hint) from error
            n_tokens = len(rendered.input_ids)
            width = self._piece(reader) if len(sample.messages) == 1 else n_tokens
            for start in range(0, max(1, n_tokens), max(1, width)):
                rows.append(Prompt(len(rows), sample, rendered.input_ids[start : start + width], rendered.pictures))
                trained.append(rendered.trained[start : start + width])
                owners.append(i)
        check_lengths(rows, 0, reader.config)
        slots = reader.new_cache()
        n_left, parts = Counter(owners), defaultdict[int, list[Answer]](list)
        for batch in self._batches(slots, reader, rows, 0):
            for place, answer in likelihood_batch(reader, slots, batch, [trained[row.index] for row in batch], self._vision):
                index = owners[place]
                parts[index].append(answer)
                if len(parts[index]) == n_left[index]:
                    yield index, joined(parts.pop(index))

    def _piece(self, reader: Reader) -> int:
        """Tokens of a piece of a document."""
        positions = int(reader.config.get_text_config().max_position_embeddings)
        return min(self._max_prompt_tokens or positions, positions)

    def _step_batch(self, reader: Reader, *, patient: bool) -> StepBatch:
        parts = (reader, self._renderer, self._grammars, self._vision, self._speculation)
        return StepBatch(*parts, batch_size=self._batch_size, patient=patient)

    def _prompts(self, reader: Reader, samples: Sequence[Sample], longest: int) -> list[Prompt]:
        """Rendered prompts that leave room for the longest answer."""
        prompts = render_prompts(samples, self._renderer, self._max_prompt_tokens)
        check_lengths(prompts, longest, reader.config)
        return prompts

    def _batches(self, slots: SlotCache, reader: Reader, rows: Sequence[Prompt], n_added: int) -> list[list[Prompt]]:
        n_cached = cache_tokens_that_fit(reader.config, slots.dtype, slots.device)
        return plan_batches(rows, self._batch_size, n_added, n_cached, read_tokens(slots.device))
