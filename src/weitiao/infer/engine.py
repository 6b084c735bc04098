"""The embedded engine: ``seams.Engine`` on a transformers model, on CPU, CUDA or MPS alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from weitiao.chat import make_vision
from weitiao.errors import RowError
from weitiao.infer.batches import Prompt, cache_tokens_that_fit, check_lengths, plan_batches, render_prompts, shared_prefix
from weitiao.infer.cache import RoomyCache
from weitiao.infer.constrain import Grammars, Matcher
from weitiao.infer.decode import decode_batch
from weitiao.infer.labels import LabelTokens, distinct_candidates, score_batch
from weitiao.infer.likelihood import likelihood_batch
from weitiao.infer.network import Network, answering, plain_network, read_prefix
from weitiao.infer.vision import before_pictures, see_batch
from weitiao.seams import Answer, Constraint, Engine, LoadedModel, Renderer, Sample, Sampling, Vision


def make_engine(model: LoadedModel, renderer: Renderer, batch_size: int = 16, max_prompt_tokens: int | None = None) -> Engine:
    """Make an engine that answers with a loaded model in this process.

    Args:
        model: a text or vision model, tuned or not. Its network is used as it is then: weights that change later change the answers.
        renderer: the run's renderer; the only one who turns text into tokens.
        batch_size: most rows that are answered at once, >= 1; fewer where memory is short.
        max_prompt_tokens: longest prompt; the user's own text is shortened to fit. None: no limit but the model's positions.

    Returns:
        An engine. Each call finds and leaves the network in the mode (train, eval) it is in.

    Raises:
        EngineError: the model is of a kind that this engine cannot answer with.
    """
    network = plain_network(model.network)
    tokenizer = getattr(model.processor, "tokenizer", model.processor)
    grammars = Grammars(tokenizer, network.get_output_embeddings().weight.shape[0], renderer.stop_token_ids)
    vision = model.vision or make_vision(network, renderer)
    return EmbeddedEngine(network, model.dtype, renderer, grammars, vision, batch_size=batch_size, max_prompt_tokens=max_prompt_tokens)


class EmbeddedEngine:
    """Answers in batches of like length; what all prompts of a call begin with is read once."""

    def __init__(
        self,
        network: Network,
        dtype: torch.dtype,
        renderer: Renderer,
        grammars: Grammars,
        vision: Vision | None,
        *,
        batch_size: int,
        max_prompt_tokens: int | None,
    ) -> None:
        """Keep the parts; see ``make_engine``."""
        self._network = network
        self._dtype = dtype
        self._renderer = renderer
        self._grammars = grammars
        self._vision = vision
        self._batch_size = batch_size
        self._max_prompt_tokens = max_prompt_tokens
        self._label_tokens = LabelTokens(renderer)

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
            ``(index, answer)`` batch by batch, longest prompts first. ``n_new_tokens`` counts the stop token where there is one. An
            answer that its constraint completes ends there, without a stop token, as ``constraint``.

        Raises:
            RowError: a prompt cannot be shortened enough.
            EngineError: a prompt is too long for the model or does not fit, a constraint cannot be compiled, or the output is not finite.
        """
        for batch, prefix in self._batches(samples, sampling.max_new_tokens, sampling.max_new_tokens):
            asked = [constraint(prompt.sample) if constraint else None for prompt in batch]
            matchers = [self._grammars.matcher(wish, prompt.sample.origin) for wish, prompt in zip(asked, batch, strict=True)]
            with answering(self._network, self._dtype):
                answers = list(self._decode(batch, prefix, sampling, matchers))
            yield from answers

    def score_labels(self, samples: Sequence[Sample], labels: Callable[[Sample], Sequence[str]]) -> Iterator[tuple[int, Answer]]:
        """Score each candidate as the whole answer; see ``labels.py`` for what the probability is.

        Args:
            samples: conversations; an answer at their end is left out.
            labels: the candidates of a sample, which may differ from row to row; repeated ones count once.

        Yields:
            ``(index, answer)`` batch by batch; ``text`` is the likeliest candidate, ``label_probabilities`` sums to 1.

        Raises:
            RowError: a prompt cannot be shortened enough.
            EngineError: a row has no candidate, or a prompt is too long for the model or holds an image.
        """
        candidates = [distinct_candidates(sample, labels(sample)) for sample in samples]
        tokens = [[self._label_tokens.of(label, sample) for label in row] for row, sample in zip(candidates, samples, strict=True)]
        longest = max((len(sequence) for row in tokens for sequence in row), default=0)
        largest_tree = max((sum(map(len, row)) for row in tokens), default=0)
        for batch, prefix in self._batches(samples, longest, largest_tree):
            offered = [candidates[prompt.index] for prompt in batch]
            sequences = [tokens[prompt.index] for prompt in batch]
            with answering(self._network, self._dtype):
                seen = see_batch(self._vision, batch, prefix.get_seq_length() if prefix else 0)
                answers = score_batch(self._network, self._renderer, batch, prefix, seen, candidates=offered, sequences=sequences)
            yield from answers

    def likelihood(self, samples: Sequence[Sample]) -> Iterator[tuple[int, Answer]]:
        """Score each sample's own answers, those that training would train.

        Args:
            samples: whole conversations, each with its answer.

        Yields:
            ``(index, answer)`` batch by batch; ``nll`` in nats, summed over the ``n_new_tokens`` tokens that are scored.

        Raises:
            RowError: a sample has no answer, or cannot be shortened enough.
            EngineError: a conversation is too long for the model or holds an image.
        """
        rows, trained = [], []
        for i, sample in enumerate(samples):
            try:
                rendered = self._renderer.conversation(sample.messages, self._max_prompt_tokens)
            except RowError as error:
                raise RowError(error.what, where=sample.origin, hint=error.hint) from error
            rows.append(Prompt(i, sample, rendered.input_ids, rendered.pictures))
            trained.append(rendered.trained)
        check_lengths(rows, 0, self._network.config)
        for batch in plan_batches(rows, self._batch_size, 0, self._cache_tokens()):
            with answering(self._network, self._dtype):
                flags = [trained[row.index] for row in batch]
                answers = likelihood_batch(self._network, batch, flags, self._renderer.pad_token_id, see_batch(self._vision, batch))
            yield from answers

    def _decode(
        self, batch: Sequence[Prompt], prefix: RoomyCache | None, sampling: Sampling, matchers: Sequence[Matcher | None]
    ) -> Iterator[tuple[int, Answer]]:
        seen = see_batch(self._vision, batch, prefix.get_seq_length() if prefix else 0)
        return decode_batch(self._network, self._renderer, batch, prefix, seen, sampling=sampling, matchers=matchers)

    def _batches(self, samples: Sequence[Sample], longest: int, n_cached: int) -> Iterator[tuple[list[Prompt], RoomyCache | None]]:
        """Batches of rendered prompts, each with the keys and values of what all prompts of the call begin with.

        ``longest`` is the longest answer in tokens, ``n_cached`` the most tokens that a row adds to the cache.
        """
        prompts = render_prompts(samples, self._renderer, self._max_prompt_tokens)
        check_lengths(prompts, longest, self._network.config)
        shared = shared_prefix(prompts)
        shared = shared[: before_pictures(self._vision, prompts, len(shared))]
        prefix = None
        if shared:
            with answering(self._network, self._dtype):
                prefix = read_prefix(self._network, shared)
        for batch in plan_batches(prompts, self._batch_size, n_cached, self._cache_tokens()):
            yield batch, prefix

    def _cache_tokens(self) -> int:
        return cache_tokens_that_fit(self._network.config, self._dtype, self._network.device)
