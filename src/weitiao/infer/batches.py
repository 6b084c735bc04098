"""Which prompts are answered together: rendered once, sorted by length, cut to what memory holds; and what they all begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from transformers import PreTrainedConfig

from weitiao.errors import EngineError, RowError
from weitiao.seams import Picture, Renderer, Sample

MIN_PREFIX = 8
"""Fewest tokens of a common beginning that are worth a pass of their own."""

READ_TOKENS = {"cpu": 512}
"""Tokens of a pass over prompts, by device: enough to keep the arithmetic units busy, little enough for the caches and to show progress."""
READ_TOKENS_ELSEWHERE = 8192


@dataclass(frozen=True, slots=True)
class Prompt:
    """A sample's tokens, and its place among the samples of the call."""

    index: int
    sample: Sample
    token_ids: list[int]
    pictures: tuple[Picture, ...] = ()


def render_prompts(samples: Sequence[Sample], renderer: Renderer, max_prompt_tokens: int | None) -> list[Prompt]:
    """Tokens of each sample's prompt.

    Args:
        samples: conversations; an answer at their end is not part of the prompt.
        renderer: the run's renderer.
        max_prompt_tokens: longest prompt; the user's own text is shortened to fit. None: no limit.

    Returns:
        One prompt per sample, in the order given.

    Raises:
        RowError: a prompt cannot be shortened enough, an image cannot be read, or the model reads no images; named by its origin.
    """
    prompts = []
    for i, sample in enumerate(samples):
        try:
            rendered = renderer.prompt(sample.prompt, max_prompt_tokens)
        except RowError as error:
            raise RowError(error.what, where=sample.origin, hint=error.hint) from error
        prompts.append(Prompt(i, sample, rendered.input_ids, rendered.pictures))
    return prompts


def check_lengths(prompts: Sequence[Prompt], n_new_tokens: int, config: PreTrainedConfig) -> None:
    """Refuse prompts that leave no room for an answer.

    Args:
        prompts: rendered prompts.
        n_new_tokens: longest answer.
        config: the network's configuration; its ``max_position_embeddings`` is the limit.

    Raises:
        EngineError: a prompt with its answer is longer than the model's positions, or has no token.
    """
    limit = config.get_text_config().max_position_embeddings
    for prompt in prompts:
        n_tokens = len(prompt.token_ids)
        if n_tokens == 0:
            raise EngineError("the prompt is empty", where=prompt.sample.origin)
        if n_tokens + n_new_tokens > limit:
            raise EngineError(
                f"the prompt has {n_tokens} tokens and the answer may have {n_new_tokens}, but the model has {limit} positions",
                where=prompt.sample.origin,
                hint="lower encode.max_tokens or evaluate.max_new_tokens",
            )


def plan_batches(prompts: Sequence[Prompt], batch_size: int, n_new_tokens: int, cache_tokens: int, read_tokens: int) -> list[list[Prompt]]:
    """Group rows of like length that are read in one pass, longest first, so that what does not fit shows at once.

    Args:
        prompts: rendered prompts, or what is left of them after a common beginning.
        batch_size: most rows of a batch, >= 1.
        n_new_tokens: most tokens that a row adds to its prompt.
        cache_tokens: most tokens that the KV cache may hold at once.
        read_tokens: most tokens of a pass; a longer row has one of its own.

    Returns:
        Batches of at least one prompt each; every prompt is in one of them.

    Example: lengths 5, 9, 2 with ``batch_size=2`` give batches of lengths (9, 5) and (2,).
    """
    batches: list[list[Prompt]] = []
    n_rows = 0
    for prompt in sorted(prompts, key=lambda prompt: len(prompt.token_ids), reverse=True):
        if not batches or len(batches[-1]) == n_rows:
            longest = len(prompt.token_ids) + n_new_tokens
            n_rows = max(1, min(batch_size, cache_tokens // longest, read_tokens // longest))
            batches.append([])
        batches[-1].append(prompt)
    return batches


def shared_prefix(prompts: Sequence[Prompt]) -> list[int]:
    """Tokens that all prompts begin with, the last token of the shortest left out so that each has something to read.

    Args:
        prompts: rendered prompts.

    Returns:
        The common beginning; empty for a single prompt, or when it is shorter than ``MIN_PREFIX`` tokens.
    """
    if len(prompts) < 2:
        return []
    rows = [prompt.token_ids for prompt in prompts]
    # What the lexically smallest and largest rows share, all rows share.
    low = min(rows)
    n_shared = min(common_length(low, max(rows)), min(map(len, rows)) - 1)
    return low[:n_shared] if n_shared >= MIN_PREFIX else []


def common_length(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two rows begin with in common."""
    return next((i for i, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), min(len(some), len(others)))


def cache_tokens_that_fit(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens whose keys and values fill a quarter of the memory that is free now.

    Args:
        config: the network's configuration.
        dtype: of keys and values.
        device: where they lie.

    Returns:
        A number of tokens, at least 1.
    """
    return max(1, int(_free_bytes(device) // 4 // cached_bytes_per_token(config, dtype)))


def cached_bytes_per_token(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """What the keys and values of a token take in all layers.

    Args:
        config: the network's configuration.
        dtype: of keys and values.

    Returns:
        Bytes.
    """
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * dtype.itemsize)


def read_tokens(device: torch.device) -> int:
    """Most prompt tokens that a pass reads at once on a device."""
    return READ_TOKENS.get(device.type, READ_TOKENS_ELSEWHERE)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    # MPS shares the machine's memory.
    return int(psutil.virtual_memory().available)
