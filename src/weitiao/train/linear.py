"""Linear layers, adapted or not, as plain arithmetic that the fused functions share: no graph, little kept.

Shape letters: T tokens, I and O inputs and outputs of a linear layer, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from weitiao.thin import is_linear

N_TENSORS = 4
"""Tensors of a projection, in the order of ``Projection.tensors``."""
BLOCK_ELEMENTS = 500_000
"""Of a gradient that are widened at once on a CPU, while they are in its cache."""


@dataclass(frozen=True, slots=True)
class Projection:
    """``x W' + b + scale * drop(x) A' B'``; without an adapter ``a`` and ``b`` are None."""

    weight: torch.Tensor
    """(O, I)."""
    bias: torch.Tensor | None
    """(O,)."""
    a: torch.Tensor | None
    """(R, I)."""
    b: torch.Tensor | None
    """(O, R)."""
    scale: float
    p: float
    """Share of the adapter's inputs that is zeroed; 0 outside training."""

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """What autograd has to know of."""
        return (self.weight, self.bias, self.a, self.b)

    def cast(self, dtype: torch.dtype) -> Projection:
        """Ready to compute with: in ``dtype``, scale and dropout's gain multiplied into the small matrices."""
        bias = None if self.bias is None else self.bias.to(dtype)
        a = None if self.a is None else (self.a / (1 - self.p)).to(dtype)
        b = None if self.b is None else (self.b * self.scale).to(dtype)
        return Projection(self.weight.to(dtype), bias, a, b, self.scale, self.p)


def read_projection(layer: Any) -> Projection:
    """What a layer of the network computes.

    Args:
        layer: ``nn.Linear``, or PEFT's LoRA layer around one with one active adapter.

    Returns:
        Its tensors as they are, and its numbers.
    """
    if is_linear(layer):
        return Projection(layer.weight, layer.bias, None, None, 1.0, 0.0)
    name, base = layer.active_adapters[0], layer.get_base_layer()
    dropout = layer.lora_dropout[name]
    p = dropout.p if isinstance(dropout, nn.Dropout) and layer.training else 0.0
    return Projection(base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name], p)


def is_plain(layer: Any) -> bool:
    """Whether a layer is a linear one, or ``W x + scale B A x`` around one, and nothing else.

    Args:
        layer: any module.

    Returns:
        True where ``read_projection`` says all that the layer does.
    """
    from peft.tuners.lora import Linear

    if not isinstance(layer, Linear):
        return is_linear(layer)
    names = layer.active_adapters
    return len(names) == 1 and is_linear(layer.get_base_layer()) and names[0] not in layer.lora_variant and not layer.merged


def arithmetic_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype in which a layer computes: autocast's where that is on, its inputs' elsewhere; frozen weights may be narrower."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


# ---- dropout ----------------------------------------------------------------------------------------------------------


def draw_kept(shape: torch.Size, p: float, device: torch.device) -> torch.Tensor | None:
    """Which positions dropout keeps, from torch's random state: 16 random bits each, which is 4 times cheaper than torch's own on a CPU.

    Args:
        shape: of the input.
        p: share that is zeroed.
        device: of the input.

    Returns:
        None where all are kept; on a CPU eight positions to a byte (see ``kept``), elsewhere booleans of the shape.
    """
    if not p:
        return None
    n = shape.numel()
    limit = round(p * 2**16) - 2**15
    if device.type not in ("cpu", "cuda"):
        return torch.rand(shape, device=device) >= p  # 64 random bits at once are not to be had everywhere
    if device.type == "cuda":
        draws = torch.empty((n + 3) // 4, dtype=torch.int64, device=device).random_(-(2**63), None)
        return (draws.view(torch.int16)[:n] >= limit).view(shape)
    bits = np.random.SFC64(int(torch.randint(2**62, ()))).random_raw((n + 3) // 4).view(np.int16)[:n]
    return torch.from_numpy(np.packbits(np.greater_equal(bits, np.int16(limit))))


def kept(mask: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Ones where ``draw_kept`` keeps a position, zeros elsewhere, ready to be multiplied by.

    Args:
        mask: from ``draw_kept``.
        shape: that it was drawn for.
        dtype: of the arithmetic.

    Returns:
        A tensor of that shape and dtype.
    """
    if mask.dtype == torch.bool:
        return mask.to(dtype)
    return torch.from_numpy(np.unpackbits(mask.numpy(), count=shape.numel())).view(shape).to(dtype)


# ---- forward and backward ---------------------------------------------------------------------------------------------


def project(x_TI: torch.Tensor, layer: Projection, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Outputs of a cast projection.

    Args:
        x_TI: inputs.
        layer: from ``Projection.cast``.
        mask: from ``draw_kept``.

    Returns:
        (T, O), and the adapter's (T, R) for the backward pass.
    """
    out_TO = functional.linear(x_TI, layer.weight, layer.bias)
    if layer.a is None or layer.b is None:
        return out_TO, None
    low_TR = functional.linear(x_TI if mask is None else x_TI * kept(mask, x_TI.shape, x_TI.dtype), layer.a)
    return out_TO.addmm_(low_TR, layer.b.t()), low_TR


@dataclass(slots=True)
class Gradients:
    """Sums of a projection's gradients over chunks of tokens, in the order of ``Projection.tensors``; None where not wanted."""

    wanted: tuple[bool, ...]
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    a: torch.Tensor | None = None
    b: torch.Tensor | None = None

    def finished(self, layer: Projection) -> tuple[torch.Tensor | None, ...]:
        """In the dtypes of the parameters, with scale and dropout's gain, for the uncast ``layer``."""
        a = None if self.a is None else self.a.div_(1 - layer.p)
        b = None if self.b is None else self.b.mul_(layer.scale)
        pairs = zip((self.weight, self.bias, a, b), layer.tensors, strict=True)
        return tuple(None if sums is None or tensor is None else sums.to(tensor.dtype) for sums, tensor in pairs)


def project_backward(
    grad_TO: torch.Tensor,
    x_TI: torch.Tensor,
    low_TR: torch.Tensor | None,
    layer: Projection,
    mask: torch.Tensor | None,
    sums: Gradients,
    grad_x_TI: torch.Tensor | None,
) -> None:
    """Add a projection's gradients to the sums, and to the gradient of its inputs.

    Args:
        grad_TO: of the outputs.
        x_TI: inputs.
        low_TR: from ``project``.
        layer: from ``Projection.cast``.
        mask: from ``draw_kept``.
        sums: added to.
        grad_x_TI: added to; None where it is not wanted.
    """
    weight, bias, *_ = sums.wanted
    if weight:
        sums.weight = add_product(sums.weight, grad_TO.t(), x_TI)
    if bias:
        summed_O = grad_TO.sum(0, dtype=sum_dtype(grad_TO))
        sums.bias = summed_O if sums.bias is None else sums.bias.add_(summed_O)
    if layer.a is not None and layer.b is not None and low_TR is not None:
        ones = None if mask is None else kept(mask, x_TI.shape, x_TI.dtype)
        grad_low_TR = grad_TO @ layer.b
        # (R, T) x (T, O) runs three times as fast as (O, T) x (T, R) in MKL.
        grad_b_RO = add_product(None if sums.b is None else sums.b.t(), low_TR.t(), grad_TO)
        sums.b = grad_b_RO.t()
        sums.a = add_product(sums.a, grad_low_TR.t(), x_TI if ones is None else x_TI * ones)
        if grad_x_TI is not None:
            through_TI = grad_low_TR @ layer.a
            grad_x_TI += through_TI if ones is None else through_TI.mul_(ones)
    if grad_x_TI is not None:
        grad_x_TI.addmm_(grad_TO, layer.weight)


def add_product(total_OI: torch.Tensor | None, left_OT: torch.Tensor, right_TI: torch.Tensor) -> torch.Tensor:
    """Add a matrix product to a sum that is kept in ``sum_dtype``.

    Products of shorter numbers go there some rows at a time: whole, they would be written to memory and read again, twice where added.

    Args:
        total_OI: the sum so far, changed in place; None where it begins.
        left_OT: of any dtype.
        right_TI: of the same.

    Returns:
        The sum.
    """
    if left_OT.dtype == sum_dtype(left_OT):
        return left_OT @ right_TI if total_OI is None else total_OI.addmm_(left_OT, right_TI)
    is_new = total_OI is None
    if total_OI is None:
        total_OI = torch.empty(len(left_OT), right_TI.shape[1], dtype=sum_dtype(left_OT), device=left_OT.device)
    n_rows = min(len(left_OT), max(1, BLOCK_ELEMENTS // right_TI.shape[1])) if left_OT.device.type == "cpu" else len(left_OT)
    room_OI = left_OT.new_empty(n_rows, right_TI.shape[1])
    for some_OI, some_OT in zip(torch.split(total_OI, n_rows), torch.split(left_OT, n_rows), strict=True):
        part_OI = torch.mm(some_OT, right_TI, out=room_OI[: len(some_OT)])
        some_OI.copy_(part_OI) if is_new else some_OI.add_(part_OI)
    return total_OI


def sum_dtype(values: torch.Tensor) -> torch.dtype:
    """In which sums over tokens are kept: float32 for what is shorter."""
    return torch.promote_types(values.dtype, torch.float32)


# ---- one layer --------------------------------------------------------------------------------------------------------


class _Linear(torch.autograd.Function):
    """A projection in one step; keeps its inputs, the adapter's low-rank values and the dropped positions."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float, p: float, *tensors: torch.Tensor) -> torch.Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        mask = draw_kept(x_TI.shape, p, x.device)
        weight, bias, a, b = tensors
        layer = Projection(weight, bias, a, b, scale, p)
        out_TO, low_TR = project(x_TI, layer.cast(x.dtype), mask)
        ctx.save_for_backward(x_TI, mask, low_TR, *tensors)
        ctx.numbers, ctx.shape = (scale, p), x.shape
        return out_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TI, mask, low_TR, *tensors = ctx.saved_tensors
        layer = Projection(*tensors, *ctx.numbers)
        sums = Gradients(ctx.needs_input_grad[3:])
        grad_x_TI = torch.zeros_like(x_TI) if ctx.needs_input_grad[0] else None
        project_backward(grad.reshape(-1, grad.shape[-1]), x_TI, low_TR, layer.cast(x_TI.dtype), mask, sums, grad_x_TI)
        return None if grad_x_TI is None else grad_x_TI.view(ctx.shape), None, None, *sums.finished(layer)


def lora_linear(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Forward of a PEFT LoRA layer around a linear one, computed in one step in the dtype of the arithmetic.

    Args:
        layer: for which ``is_plain`` holds.
        x: (..., I).

    Returns:
        (..., O), equal to the layer's own forward.
    """
    read = read_projection(layer)
    out: torch.Tensor = _Linear.apply(x.to(arithmetic_dtype(x)), read.scale, read.p, *read.tensors)  # type: ignore[no-untyped-call]
    return out
