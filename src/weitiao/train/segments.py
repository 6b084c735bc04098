"""A packed row as tensors, and attention within its segments: exact on every device, without a mask of the whole row.

Shape letters: T tokens of the packed row, N trained tokens in it, H heads, G key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from weitiao.seams import IGNORED, EncodedRow, Vision

ATTENTION = "weitiao_segments"
"""Name under which transformers finds ``segment_attention``."""
WIDE_TOKENS = 512
"""Up to so many tokens a CPU attends faster in float32 than in 16 bits: up to twice at 100, equal at 400 (bench/NOTES.md)."""


@dataclass(frozen=True, slots=True)
class Segments:
    """How a packed row divides, with the masks its attention needs; one object serves all layers."""

    prefix_length: int
    lengths: tuple[int, ...]
    masks: tuple[torch.Tensor | None, ...]
    """Per segment after a prefix: additive mask of shape (length, prefix_length + length). None: plain causal attention."""
    sources: torch.Tensor | None
    """(N,): the only places whose last hidden states are wanted; None: all of them."""
    dtype: torch.dtype
    """In which attention is computed; of the masks."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward and backward pass takes."""

    input_ids: torch.Tensor
    """(1, T)."""
    position_ids: torch.Tensor
    """(1, T): positions within the own conversation; (3, 1, T) where it holds pictures."""
    segments: Segments
    sources: torch.Tensor
    """(N,): places whose next token is trained."""
    targets: torch.Tensor
    """(N,): those next tokens."""


def micro_batch(
    row: EncodedRow, device: torch.device, dtype: torch.dtype, *, answers_only: bool = False, vision: Vision | None = None
) -> MicroBatch:
    """Lay out a row for the network.

    Args:
        row: single or packed.
        device: where the tensors go.
        dtype: of the arithmetic.
        answers_only: whether the last layer's outputs are wanted at ``sources`` only.
        vision: of a vision model, which has its own positions for pictures.

    Returns:
        Tensors of T tokens; a segment's first token is no target unless a prefix stands before it.
    """
    prefix, lengths = row.prefix_length, row.segment_lengths
    starts = [prefix + end - length for end, length in zip(accumulate(lengths), lengths, strict=True)]
    positions = [*range(prefix)]
    sources: list[int] = []
    targets: list[int] = []
    for start, length in zip(starts, lengths, strict=True):
        positions += range(prefix, prefix + length)
        for place in range(start + 1, start + length):
            if row.labels[place] != IGNORED:
                sources.append(place - 1)
                targets.append(row.labels[place])
    dtype = attention_dtype(dtype, device, prefix + max(lengths))
    masks = tuple(_mask(prefix, length, device, dtype) if prefix else None for length in lengths)
    places = torch.tensor(sources, device=device)
    positions_1T = torch.tensor([positions], device=device)
    if row.pictures:
        assert vision is not None, "only rows for a vision model hold pictures"
        assert not prefix, "rows with pictures share no beginning"
        positions_1T = vision.positions(row.input_ids, lengths, row.pictures).to(device)[:, None]
    return MicroBatch(
        torch.tensor([row.input_ids], device=device),
        positions_1T,
        Segments(prefix, lengths, masks, places if answers_only else None, dtype),
        places,
        torch.tensor(targets, device=device),
    )


def attention_dtype(dtype: torch.dtype, device: torch.device, longest: int) -> torch.dtype:
    """In which attention over so many tokens is computed.

    Args:
        dtype: of the arithmetic.
        device: where it is done.
        longest: tokens that a token may see.

    Returns:
        float32 for short segments on a CPU, ``dtype`` elsewhere.
    """
    return torch.promote_types(dtype, torch.float32) if device.type == "cpu" and longest <= WIDE_TOKENS else dtype


def segment_attention(
    module: Any,  # noqa: ARG001 - part of transformers' signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention in which a token sees its own segment and the shared prefix, nothing else.

    Args:
        module: the attention layer; not used.
        query: (1, H, T, D).
        key: (1, G, T, D).
        value: (1, G, T, D).
        attention_mask: None; the segments say all.
        scaling: factor of the scores.
        dropout: share of attention weights that is zeroed.
        segments: how the T tokens divide.

    Returns:
        (1, T, H, D), and no weights.
    """
    assert segments is not None, "training passes segments"
    assert attention_mask is None, "segments replace the mask"
    outer, query, key, value = query.dtype, *(whole.to(segments.dtype) for whole in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    in_place = query.device.type == "cpu"  # Elsewhere the fast kernels do not group heads under a mask.
    if groups > 1 and not in_place:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    attend = partial(scaled_dot_product_attention, scale=scaling, dropout_p=dropout, enable_gqa=groups > 1 and in_place)
    sizes = [segments.prefix_length, *segments.lengths] if segments.prefix_length else list(segments.lengths)
    parts = list(zip(*(torch.split(whole, sizes, 2) for whole in (query, key, value)), strict=True))
    outputs = []
    prefix_key = prefix_value = None
    with torch.autocast(query.device.type, enabled=False):  # it would narrow what is wide here on purpose
        if segments.prefix_length:
            prefix_query, prefix_key, prefix_value = parts.pop(0)
            outputs.append(attend(prefix_query, prefix_key, prefix_value, is_causal=True))
        for (q, k, v), mask in zip(parts, segments.masks, strict=True):
            if prefix_key is not None and prefix_value is not None:
                k, v = torch.cat([prefix_key, k], 2), torch.cat([prefix_value, v], 2)  # noqa: PLW2901
            outputs.append(attend(q, k, v, attn_mask=mask, is_causal=mask is None))
    return torch.cat(outputs, 2).transpose(1, 2).to(outer), None


@contextmanager
def segmented(network: Any) -> Iterator[None]:
    """Let a network attend by segments while the context lasts; afterwards it attends as before.

    Args:
        network: a transformers model, or a PEFT model around one.

    Yields:
        Nothing.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, segment_attention)
    inner = network.get_base_model() if hasattr(network, "peft_config") else network
    before = inner.config.get_text_config()._attn_implementation
    _set_attention(inner, ATTENTION)
    try:
        yield
    finally:
        _set_attention(inner, before)


def _set_attention(inner: Any, name: str) -> None:
    """Of the language model alone: pictures do not come in segments."""
    inner.set_attn_implementation({"text_config": name} if inner.config.get_text_config() is not inner.config else name)


def _mask(prefix: int, length: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Zeros where a token may look (the prefix, itself and what stands before it), minus infinity elsewhere."""
    mask = torch.full((length, prefix + length), float("-inf"), device=device, dtype=dtype)
    return mask.triu(prefix + 1)
