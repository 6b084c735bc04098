"""Which token comes next: greedy, or drawn by temperature, ``top_k`` and ``top_p`` from a source of chance of the row's own.

Shape letters: M positions, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from weitiao.errors import EngineError
from weitiao.seams import Sampling

LEAST_TEMPERATURE = 1e-6
"""What smaller ones count as: logits divided by less would overflow, and the likeliest token is drawn here already."""


def are_whole(logits_MV: Tensor) -> list[bool]:
    """Whether the largest logit of each position is a number; what a constraint forbids comes later."""
    return [bool(whole) for whole in torch.isfinite(logits_MV.amax(dim=-1)).tolist()]


def refuse_broken(whole: Sequence[bool], origin: str) -> None:
    """Raise ``EngineError`` where logits of a row are no numbers."""
    if not all(whole):
        hint = "the weights are damaged, or float16 overflows: use bfloat16 or float32"
        raise EngineError("the model's output is not finite", where=origin, hint=hint)


def source_of_chance(sampling: Sampling, name: str) -> torch.Generator | None:
    """A generator for one row, so that its answer does not depend on the rows beside it; None where the answer is greedy.

    Args:
        sampling: its seed, and whether there is a temperature.
        name: of the row; rows of one name and seed draw alike.

    Returns:
        A generator on the CPU.
    """
    if sampling.temperature == 0:
        return None
    digest = hashlib.sha256(f"{sampling.seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw a token.

    Args:
        logits_V: after one position, on the CPU.
        sampling: temperature above 0, ``top_k`` and ``top_p``.
        generator: moves on by one draw.

    Returns:
        Its number.
    """
    probs_V = _kept(logits_V / max(sampling.temperature, LEAST_TEMPERATURE), sampling).softmax(dim=-1)
    return int(torch.multinomial(probs_V, 1, generator=generator))


def _kept(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """Logits with everything outside ``top_k``, then outside ``top_p``, at minus infinity."""
    if 0 < sampling.top_k < logits_V.shape[-1]:
        smallest = logits_V.topk(sampling.top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < smallest, -torch.inf)
    if sampling.top_p < 1:
        sorted_V, order_V = logits_V.sort(descending=True)
        probs_V = sorted_V.softmax(dim=-1)
        # A token stays while the tokens before it hold less than top_p: the likeliest one always does.
        outside_V = probs_V.cumsum(dim=-1) - probs_V >= sampling.top_p
        logits_V = logits_V.masked_fill(outside_V.scatter(-1, order_V, outside_V), -torch.inf)
    return logits_V
