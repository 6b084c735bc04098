"""Fast paths of the training step. Each has a plain twin and a test that loss and gradients are the same.

Shape letters: T tokens, N trained tokens, C hidden size, I and O inputs and outputs of a linear layer, R rank, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, get_args

import torch
from torch import nn
from torch.nn import functional

from weitiao.recipe.sections import FastName, Train

HEAD_CHUNK_ELEMENTS = 40_000_000
"""Logits held at once in the head's loss: 160 MB in float32."""


def fast_paths(section: Train) -> frozenset[str]:
    """The fast paths that a recipe asks for.

    Args:
        section: the recipe's ``train``.

    Returns:
        Names of ``FastName``.
    """
    names = {"all": get_args(FastName), "none": ()}.get(section.fast, section.fast) if isinstance(section.fast, str) else section.fast
    return frozenset(names)


# ---- the head ---------------------------------------------------------------------------------------------------------


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


# ---- adapted linear layers --------------------------------------------------------------------------------------------


class _LoraLinear(torch.autograd.Function):
    """``x W' + b + scale * drop(x) A' B'`` in one step; keeps x and the dropped positions, computes in the dtype of x."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scale: float, p: float
    ) -> torch.Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        kept = _kept(x_TI, p) if p else None
        a_RI, b_OR = a.to(x.dtype), (b * scale).to(x.dtype)
        low_TR = functional.linear(x_TI if kept is None else (x_TI * kept).mul_(1 / (1 - p)), a_RI)
        out_TO = functional.linear(x_TI, weight, bias).addmm_(low_TR, b_OR.t())
        ctx.save_for_backward(x_TI, kept, low_TR, weight, a_RI, b_OR)
        ctx.scale, ctx.p, ctx.shape, ctx.dtypes = scale, p, x.shape, (a.dtype, b.dtype)
        return out_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TI, kept, low_TR, weight, a_RI, b_OR = ctx.saved_tensors
        grad_TO = grad.reshape(-1, grad.shape[-1])
        grad_low_TR = grad_TO @ b_OR
        grad_b = (grad_TO.t() @ low_TR).to(ctx.dtypes[1]).mul_(ctx.scale)
        grad_a = grad_low_TR.t() @ (x_TI if kept is None else (x_TI * kept).mul_(1 / (1 - ctx.p)))
        grad_x = None
        if ctx.needs_input_grad[0]:
            if kept is None:
                grad_x = (grad_TO @ weight).addmm_(grad_low_TR, a_RI)
            else:
                through = (grad_low_TR @ a_RI).mul_(1 / (1 - ctx.p)).mul_(kept)
                grad_x = through.addmm_(grad_TO, weight)
            grad_x = grad_x.view(ctx.shape)
        return grad_x, None, None, grad_a.to(ctx.dtypes[0]), grad_b, None, None


def _kept(x_TI: torch.Tensor, p: float) -> torch.Tensor:
    """Which positions dropout keeps, four 16-bit draws to a random number: drawing them singly is an eighth of a step on a CPU."""
    draws = torch.empty((x_TI.numel() + 3) // 4, dtype=torch.int64, device=x_TI.device).random_(-(2**63), None)
    return (draws.view(torch.int16)[: x_TI.numel()] >= round(p * 2**16) - 2**15).view(x_TI.shape)


def lora_linear(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Forward of a PEFT LoRA layer around a linear one, computed in one step in the dtype of the arithmetic.

    Args:
        layer: ``peft.tuners.lora.Linear`` with one active adapter.
        x: (..., I).

    Returns:
        (..., O), equal to the layer's own forward.
    """
    name = layer.active_adapters[0]
    base = layer.get_base_layer()
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else base.weight.dtype
    dropout = layer.lora_dropout[name]
    p = dropout.p if isinstance(dropout, nn.Dropout) and layer.training else 0.0
    out: torch.Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
        x.to(dtype),
        base.weight.to(dtype),
        None if base.bias is None else base.bias.to(dtype),
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
        p,
    )
    return out


@contextmanager
def fast_layers(network: Any, names: frozenset[str]) -> Iterator[None]:
    """Use the fast forward of adapted linear layers while the context lasts.

    Args:
        network: the tuned network.
        names: fast paths in use.

    Yields:
        Nothing.
    """
    from peft.tuners.lora import Linear

    with ExitStack() as stack:
        if "lora_linear" in names:
            for module in network.modules():
                if isinstance(module, Linear) and _is_plain_lora(module):
                    vars(module)["forward"] = partial(lora_linear, module)
                    stack.callback(vars(module).pop, "forward")
        yield


def _is_plain_lora(layer: Any) -> bool:
    """Whether the layer is ``W x + scale B A x`` around a linear layer and nothing else."""
    names = layer.active_adapters
    return len(names) == 1 and isinstance(layer.get_base_layer(), nn.Linear) and names[0] not in layer.lora_variant and not layer.merged
