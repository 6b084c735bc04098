"""The loss at the head: logits of trained tokens only, a chunk at a time; and the embedding whose weight is the head's.

Shape letters: N trained tokens, T tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from weitiao.train.linear import add_product

HEAD_CHUNK_ELEMENTS = 40_000_000
"""Logits held at once in the head's loss: 160 MB in float32, 80 MB in bfloat16."""
BLOCK_ELEMENTS = 2_000_000
"""Of those as many as become probabilities at once on a CPU: in float32 they stay in the processor's cache, and in memory once used."""


class _HeadLoss(torch.autograd.Function):
    """Summed cross entropy in chunks whose gradient is taken at once, so that no logits outlive their chunk."""

    @staticmethod
    def forward(ctx: Any, hidden_NC: torch.Tensor, weight_VC: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        n_rows = max(1, min(len(targets_N), HEAD_CHUNK_ELEMENTS // weight_VC.shape[0]))
        # Pages that are new cost more than what is written to them, so both are made once.
        all_logits_NV = hidden_NC.new_empty(n_rows, weight_VC.shape[0])
        wide_NV = _wide(all_logits_NV)
        loss = hidden_NC.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden_NC)
        grad_weight = None
        weight = weight_VC.to(hidden_NC.dtype)
        for start in range(0, len(targets_N), n_rows):
            hidden, targets = hidden_NC[start : start + n_rows], targets_N[start : start + n_rows]
            logits = torch.mm(hidden, weight.t(), out=all_logits_NV[: len(hidden)])
            for few, few_targets in zip(torch.split(logits, len(wide_NV)), torch.split(targets, len(wide_NV)), strict=True):
                loss += _to_gradients(few, few_targets, wide_NV[: len(few)])
            torch.mm(logits, weight, out=grad_hidden[start : start + n_rows])
            if ctx.needs_input_grad[1]:
                grad_weight = add_product(grad_weight, logits.t(), hidden)
        # Not saved for backward: what this function kept itself, autograd would copy instead of taking it over as the weight's gradient.
        ctx.gradients, ctx.weight_dtype = (grad_hidden, grad_weight), weight_VC.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        (grad_hidden, grad_weight), ctx.gradients = ctx.gradients, None
        scaled = None if grad_weight is None else grad_weight.mul_(grad_loss).to(ctx.weight_dtype)
        return grad_hidden * grad_loss.to(grad_hidden.dtype), scaled, None


def _wide(logits_NV: torch.Tensor) -> torch.Tensor:
    """Room for as many rows of logits in float32 as are in work at once."""
    n_rows, n_words = logits_NV.shape
    block = max(1, min(n_rows, BLOCK_ELEMENTS // n_words)) if logits_NV.device.type == "cpu" else n_rows
    return torch.empty(block, n_words, dtype=torch.float32, device=logits_NV.device)


def _to_gradients(logits_NV: torch.Tensor, targets_N: torch.Tensor, wide_NV: torch.Tensor) -> torch.Tensor:
    """The summed cross entropy of logits, which become its gradients in place; computed in float32, in ``wide_NV``."""
    targets_N1 = targets_N[:, None]
    wide_NV.copy_(logits_NV).sub_(wide_NV.amax(-1, keepdim=True))
    chosen_N1 = wide_NV.gather(-1, targets_N1)
    sums_N1 = wide_NV.exp_().sum(-1, keepdim=True)
    wide_NV.div_(sums_N1).scatter_add_(-1, targets_N1, torch.full_like(sums_N1, -1.0))
    logits_NV.copy_(wide_NV)
    return sums_N1.log_().sub_(chosen_N1).sum()


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


Pending = list[tuple[torch.Tensor, torch.Tensor]]
"""Tokens (T,) and gradients of their vectors (T, C) that are still to be added to an embedding's gradient."""


class _LookUp(torch.autograd.Function):
    """An embedding whose gradient is left as it comes: a dense one is as large as the vocabulary, and mostly nought."""

    @staticmethod
    def forward(ctx: Any, token_ids: torch.Tensor, weight_VC: torch.Tensor, padding_idx: int | None, pending: Pending) -> torch.Tensor:
        ctx.save_for_backward(token_ids)
        ctx.padding_idx, ctx.pending = padding_idx, pending
        return torch.nn.functional.embedding(token_ids, weight_VC)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, ...]:
        (token_ids,) = ctx.saved_tensors
        token_T, grad_TC = token_ids.flatten(), grad.flatten(0, -2)
        is_learnt_T = token_T != (-1 if ctx.padding_idx is None else ctx.padding_idx)
        ctx.pending.append((token_T[is_learnt_T], grad_TC[is_learnt_T]))
        return None, None, None, None


def looked_up(weight_VC: torch.Tensor, padding_idx: int | None, pending: Pending, token_ids: torch.Tensor) -> torch.Tensor:
    """Forward of an embedding.

    Args:
        weight_VC: trained; its gradient through this function goes to ``pending`` alone.
        padding_idx: token whose vector gets no gradient.
        pending: appended to in the backward pass.
        token_ids: (..., T).

    Returns:
        (..., T, C).
    """
    out: torch.Tensor = _LookUp.apply(token_ids, weight_VC, padding_idx, pending)  # type: ignore[no-untyped-call]
    return out
