"""What reading a batch of prompts with pictures needs besides their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weitiao.infer.batches import Prompt
from weitiao.seams import Vision


@dataclass(frozen=True, slots=True)
class Seen:
    """Pictures and positions of a batch; shape letters as in ``network.py``."""

    encoder_outputs: dict[str, Any]
    """The network's ``mm_encoder_outputs`` for all rows."""
    positions: Tensor
    """(3, B, N): time, height and width of each token; zero where a row is filled up."""
    next_positions: Tensor
    """(B,): position of the token after each row's last one."""


def see_batch(vision: Vision | None, prompts: Sequence[Prompt], n_prefix: int = 0) -> Seen | None:
    """Look at the pictures of a batch.

    Args:
        vision: of the model; None for a text model.
        prompts: the batch.
        n_prefix: tokens at the start that were read before; they hold no picture.

    Returns:
        None where no prompt holds a picture.
    """
    if vision is None or not any(prompt.pictures for prompt in prompts):
        return None
    rows = [vision.positions(prompt.token_ids, (len(prompt.token_ids),), prompt.pictures) for prompt in prompts]
    positions_3BN = torch.zeros(3, len(rows), max(row.shape[1] for row in rows) - n_prefix, dtype=torch.long)
    for i, row in enumerate(rows):
        positions_3BN[:, i, : row.shape[1] - n_prefix] = row[:, n_prefix:]
    next_B = torch.stack([row.max() + 1 for row in rows])
    return Seen(vision.encoder_outputs([picture for prompt in prompts for picture in prompt.pictures]), positions_3BN, next_B)


def vision_inputs(seen: Seen | None, device: torch.device) -> dict[str, Any]:
    """The network's arguments for a batch's pictures; none where there are no pictures."""
    if seen is None:
        return {}
    return {"position_ids": seen.positions.to(device), "mm_encoder_outputs": seen.encoder_outputs}


def before_pictures(vision: Vision | None, prompts: Sequence[Prompt], n_shared: int) -> int:
    """How much of a shared beginning holds no picture.

    Args:
        vision: of the model; None for a text model.
        prompts: whose first ``n_shared`` tokens are the same.
        n_shared: tokens.

    Returns:
        At most ``n_shared``: equal placeholders may stand for different pictures.
    """
    if vision is None or not prompts or vision.placeholder_id not in prompts[0].token_ids[:n_shared]:
        return n_shared
    return prompts[0].token_ids.index(vision.placeholder_id)
