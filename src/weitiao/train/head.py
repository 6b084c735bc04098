"""The loss at the head: logits of trained tokens only, a chunk at a time.

Shape letters: N trained tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

HEAD_CHUNK_ELEMENTS = 40_000_000
"""Logits held at once in the head's loss: 160 MB in float32."""


class _HeadLoss(torch.autograd.Function):
    """Summed cross entropy in chunks whose gradient is taken at once, so that no logits outlive their chunk."""

    @staticmethod
    def forward(ctx: Any, hidden_NC: torch.Tensor, weight_VC: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        n_rows = max(1, HEAD_CHUNK_ELEMENTS // weight_VC.shape[0])
        loss = hidden_NC.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden_NC)
        grad_weight = torch.zeros_like(weight_VC, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        weight = weight_VC.to(hidden_NC.dtype)
        for start in range(0, len(targets_N), n_rows):
            hidden, targets = hidden_NC[start : start + n_rows], targets_N[start : start + n_rows]
            logits = functional.linear(hidden, weight).float()
            shift = logits.logsumexp(-1, keepdim=True)
            loss += (shift.squeeze(-1) - logits.gather(-1, targets[:, None]).squeeze(-1)).sum()
            probabilities = logits.sub_(shift).exp_()
            probabilities.scatter_add_(-1, targets[:, None], torch.full_like(shift, -1.0))
            grad_logits = probabilities.to(hidden.dtype)
            torch.mm(grad_logits, weight, out=grad_hidden[start : start + n_rows])
            if grad_weight is not None:
                grad_weight += grad_logits.t() @ hidden
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight_VC.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scaled = None if grad_weight is None else grad_weight.mul_(grad_loss).to(ctx.weight_dtype)
        return grad_hidden * grad_loss.to(grad_hidden.dtype), scaled, None


def chunked_head_loss(hidden_NC: torch.Tensor, weight_VC: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Summed cross entropy of the next tokens, in memory that does not grow with N times V.

    Its plain twin is ``cross_entropy`` over all logits.

    Args:
        hidden_NC: last hidden states at the places whose next token is trained.
        weight_VC: the un-embedding.
        targets_N: those next tokens.

    Returns:
        A scalar in float32, in nats.
    """
    if torch.is_autocast_enabled(hidden_NC.device.type):
        hidden_NC = hidden_NC.to(torch.get_autocast_dtype(hidden_NC.device.type))
    loss: torch.Tensor = _HeadLoss.apply(hidden_NC, weight_VC, targets_N)  # type: ignore[no-untyped-call]
    return loss
