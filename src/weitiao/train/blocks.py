"""Parts of a decoder layer as one autograd function each: norm with q, k, v; rotary; norm with the gated MLP.

What these keep for the backward pass is the layer's inputs and what only a matrix product could bring back; norms, activations and dropped
positions are computed again. The MLP goes through the tokens in chunks that stay in the processor's cache.

Shape letters: T tokens, C hidden size, I inner size of the MLP, H heads, D head size.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional

from weitiao.train.linear import (
    N_TENSORS,
    Gradients,
    Projection,
    arithmetic_dtype,
    draw_kept,
    project,
    project_backward,
    read_projection,
    sum_dtype,
)

CHUNK_TOKENS = 512
"""Tokens of the MLP that are in work at once on a CPU: matrix products run at full rate, and what lies between them stays in cache."""
TRAINED_CHUNK_TOKENS = 4096
"""The same where its weights are trained: each chunk gives a gradient as large as they are, which has to be added up."""


# ---- RMSNorm ----------------------------------------------------------------------------------------------------------


def normed(x_TC: torch.Tensor, weight_C: torch.Tensor, eps: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """RMSNorm without a graph.

    Args:
        x_TC: inputs.
        weight_C: of the norm.
        eps: added to the mean square.
        dtype: of the outputs.

    Returns:
        (T, C) in ``dtype``, and the reciprocal root mean squares (T, 1) in float32.
    """
    rstd_T1 = torch.linalg.vector_norm(x_TC, dim=-1, keepdim=True, dtype=sum_dtype(x_TC)).square_().div_(x_TC.shape[-1]).add_(eps).rsqrt_()
    return (x_TC * rstd_T1).to(x_TC.dtype).mul(weight_C).to(dtype), rstd_T1


def normed_again(x_TC: torch.Tensor, rstd_T1: torch.Tensor, weight_C: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The outputs of ``normed`` from its inputs and what it returned."""
    return (x_TC * rstd_T1).to(x_TC.dtype).mul(weight_C).to(dtype)


def norm_backward(
    grad_TC: torch.Tensor, x_TC: torch.Tensor, rstd_T1: torch.Tensor, weight_C: torch.Tensor, *, wants_weight: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradients of RMSNorm.

    Args:
        grad_TC: of the outputs.
        x_TC: inputs.
        rstd_T1: from ``normed``.
        weight_C: of the norm.
        wants_weight: whether the norm is trained.

    Returns:
        Of the inputs, in their dtype, and of the weight in float32; None where it is not wanted.
    """
    grad_TC = grad_TC.to(rstd_T1.dtype)
    unit_TC = x_TC * rstd_T1
    grad_weight_C = (grad_TC * unit_TC).sum(0) if wants_weight else None
    scaled_TC = grad_TC * weight_C
    mean_T1 = torch.linalg.vecdot(scaled_TC, unit_TC).unsqueeze(-1).div_(x_TC.shape[-1])
    return scaled_TC.addcmul_(unit_TC, mean_T1, value=-1).mul_(rstd_T1).to(x_TC.dtype), grad_weight_C


class _Norm(torch.autograd.Function):
    """RMSNorm that keeps its inputs and one number for each of them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight_C: torch.Tensor, eps: float) -> torch.Tensor:
        x_TC = x.reshape(-1, x.shape[-1])
        out_TC, rstd_T1 = normed(x_TC, weight_C, eps, torch.promote_types(x.dtype, weight_C.dtype))
        ctx.save_for_backward(x_TC, rstd_T1, weight_C)
        return out_TC.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TC, rstd_T1, weight_C = ctx.saved_tensors
        grad_x, grad_weight = norm_backward(grad.reshape(x_TC.shape), x_TC, rstd_T1, weight_C, wants_weight=ctx.needs_input_grad[1])
        return grad_x.view(grad.shape), _as(grad_weight, weight_C), None


def rms_norm(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """Forward of a Llama-like RMSNorm.

    Args:
        norm: with ``weight`` and ``variance_epsilon``.
        x: (..., C).

    Returns:
        (..., C), equal to the norm's own forward.
    """
    out: torch.Tensor = _Norm.apply(x, norm.weight, norm.variance_epsilon)  # type: ignore[no-untyped-call]
    return out


# ---- norm, then q, k and v --------------------------------------------------------------------------------------------


class _NormProject(torch.autograd.Function):
    """RMSNorm and the projections of its output; keeps the norm's inputs, not its outputs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, norm_C: torch.Tensor, eps: float, dtype: torch.dtype, numbers: Any, *tensors: Any) -> Any:
        x_TC = x.reshape(-1, x.shape[-1])
        h_TC, rstd_T1 = normed(x_TC, norm_C, eps, dtype)
        masks = [draw_kept(h_TC.shape, p, x.device) for _, p in numbers]
        done = [project(h_TC, layer.cast(dtype), mask) for layer, mask in zip(_layers(tensors, numbers), masks, strict=True)]
        ctx.save_for_backward(x_TC, rstd_T1, norm_C, *masks, *(low for _, low in done), *tensors)
        ctx.numbers, ctx.dtype, ctx.shape = numbers, dtype, x.shape
        return tuple(out.view(*x.shape[:-1], -1) for out, _ in done)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TC, rstd_T1, norm_C, *rest = ctx.saved_tensors
        n = len(ctx.numbers)
        masks, lows, tensors = rest[:n], rest[n : 2 * n], rest[2 * n :]
        h_TC = normed_again(x_TC, rstd_T1, norm_C, ctx.dtype)
        grad_h_TC = torch.zeros_like(h_TC) if ctx.needs_input_grad[0] or ctx.needs_input_grad[1] else None
        finished: list[torch.Tensor | None] = []
        for i, (layer, grad) in enumerate(zip(_layers(tensors, ctx.numbers), grads, strict=True)):
            sums = Gradients(ctx.needs_input_grad[5 + N_TENSORS * i : 5 + N_TENSORS * (i + 1)])
            project_backward(grad.reshape(len(x_TC), -1), h_TC, lows[i], layer.cast(ctx.dtype), masks[i], sums, grad_h_TC)
            finished += sums.finished(layer)
        grad_x = grad_norm = None
        if grad_h_TC is not None:
            grad_x, grad_norm = norm_backward(grad_h_TC, x_TC, rstd_T1, norm_C, wants_weight=ctx.needs_input_grad[1])
            grad_x, grad_norm = grad_x.view(ctx.shape), _as(grad_norm, norm_C)
        return grad_x, grad_norm, None, None, None, *finished


def _as(gradient: torch.Tensor | None, parameter: torch.Tensor) -> torch.Tensor | None:
    return None if gradient is None else gradient.to(parameter.dtype)


def _layers(tensors: Any, numbers: Any) -> list[Projection]:
    return [Projection(*tensors[N_TENSORS * i : N_TENSORS * (i + 1)], *pair) for i, pair in enumerate(numbers)]


def norm_project(norm: Any, layers: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """RMSNorm and the linear layers that follow it.

    Args:
        norm: with ``weight`` and ``variance_epsilon``.
        layers: for each of which ``is_plain`` holds.
        x: (..., C).

    Returns:
        The output of each layer, (..., O).
    """
    reads = [read_projection(layer) for layer in layers]
    numbers = tuple((read.scale, read.p) for read in reads)
    flat = [tensor for read in reads for tensor in read.tensors]
    dtype = arithmetic_dtype(x)
    outs: tuple[torch.Tensor, ...] = _NormProject.apply(x, norm.weight, norm.variance_epsilon, dtype, numbers, *flat)  # type: ignore[no-untyped-call]
    return outs


# ---- rotary -----------------------------------------------------------------------------------------------------------


class _Rotate(torch.autograd.Function):
    """Rotary position embedding; turning back is its gradient, so that it keeps nothing of its inputs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin), None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding in the layout of Llama-like models.

    Args:
        x: (1, T, H, D).
        cos: (1, T, D), its two halves equal.
        sin: (1, T, D), its two halves equal.

    Returns:
        (1, T, H, D).
    """
    out: torch.Tensor = _Rotate.apply(x, cos.unsqueeze(2).to(x.dtype), sin.unsqueeze(2).to(x.dtype))  # type: ignore[no-untyped-call]
    return out


# ---- norm, then the gated MLP -----------------------------------------------------------------------------------------


class _NormMlp(torch.autograd.Function):
    """RMSNorm and ``down(silu(gate(h)) * up(h))``, chunk by chunk; keeps the inputs and, unless they are recomputed, gate and up."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, norm_C: torch.Tensor, eps: float, dtype: torch.dtype, recompute: bool, numbers: Any, *tensors: Any
    ) -> torch.Tensor:
        x_TC = x.reshape(-1, x.shape[-1])
        cast = [layer.cast(dtype) for layer in _layers(tensors, numbers)]
        out_TC, chunks = torch.empty(len(x_TC), cast[2].weight.shape[0], dtype=dtype, device=x.device), []
        ctx.plan = _chunks(x_TC, TRAINED_CHUNK_TOKENS if any(ctx.needs_input_grad[6::N_TENSORS]) else CHUNK_TOKENS)
        for start, end in ctx.plan:
            x_tC = x_TC[start:end]
            h_tC, rstd_t1 = normed(x_tC, norm_C, eps, dtype)
            inner = torch.Size((len(x_tC), cast[0].weight.shape[0]))
            masks = [draw_kept(shape, p, x.device) for shape, (_, p) in zip((h_tC.shape, h_tC.shape, inner), numbers, strict=True)]
            (gate, low_gate), (up, low_up) = project(h_tC, cast[0], masks[0]), project(h_tC, cast[1], masks[1])
            out_tC, low_down = project(functional.silu(gate).mul_(up), cast[2], masks[2])
            out_TC[start:end] = out_tC
            chunks += [rstd_t1, *masks, low_gate, low_up, low_down, None if recompute else gate, None if recompute else up]
        ctx.save_for_backward(x_TC, norm_C, *tensors, *chunks)
        ctx.numbers, ctx.dtype, ctx.shape = numbers, dtype, x.shape
        return out_TC.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TC, norm_C, *rest = ctx.saved_tensors
        tensors, chunks = rest[: 3 * N_TENSORS], rest[3 * N_TENSORS :]
        layers = _layers(tensors, ctx.numbers)
        cast = [layer.cast(ctx.dtype) for layer in layers]
        sums = [Gradients(ctx.needs_input_grad[6 + N_TENSORS * i : 6 + N_TENSORS * (i + 1)]) for i in range(3)]
        grad_TC, grad_x_TC = grad.reshape(len(x_TC), -1), torch.empty_like(x_TC)
        grad_norm = torch.zeros_like(norm_C, dtype=sum_dtype(x_TC)) if ctx.needs_input_grad[1] else None
        size = len(chunks) // len(ctx.plan)
        for number, (start, end) in enumerate(ctx.plan):
            rstd_t1, *kept_tensors = chunks[size * number : size * (number + 1)]
            h_tC = normed_again(x_TC[start:end], rstd_t1, norm_C, ctx.dtype)
            grad_h_tC = _mlp_backward(grad_TC[start:end].to(ctx.dtype), h_tC, cast, sums, kept_tensors)
            grad_x_TC[start:end], grad_chunk = norm_backward(
                grad_h_tC, x_TC[start:end], rstd_t1, norm_C, wants_weight=grad_norm is not None
            )
            if grad_norm is not None and grad_chunk is not None:
                grad_norm += grad_chunk
        finished = [gradient for layer, total in zip(layers, sums, strict=True) for gradient in total.finished(layer)]
        return grad_x_TC.view(ctx.shape), _as(grad_norm, norm_C), None, None, None, None, *finished


def _chunks(x_TC: torch.Tensor, most: int) -> list[tuple[int, int]]:
    """From where to where each chunk of ``most`` tokens or fewer goes; all of one size: a short last one is slow. Off the CPU one chunk."""
    n_tokens = len(x_TC)
    n_chunks = max(1, -(-n_tokens // most)) if x_TC.device.type == "cpu" else 1
    ends = [n_tokens * i // n_chunks for i in range(n_chunks + 1)]
    return list(pairwise(ends))


def _mlp_backward(
    grad_tC: torch.Tensor, h_tC: torch.Tensor, cast: list[Projection], sums: list[Gradients], kept_tensors: list[torch.Tensor | None]
) -> torch.Tensor:
    """Gradient of the normed inputs of a chunk; those of the weights go into the sums."""
    mask_gate, mask_up, mask_down, low_gate, low_up, low_down, gate, up = kept_tensors
    if gate is None or up is None:
        gate, up = _output(h_tC, cast[0], low_gate), _output(h_tC, cast[1], low_up)
    silu = functional.silu(gate)
    grad_inner = torch.zeros_like(gate)
    project_backward(grad_tC, silu * up, low_down, cast[2], mask_down, sums[2], grad_inner)
    grad_up = silu.mul_(grad_inner)
    grad_gate = torch.ops.aten.silu_backward(grad_inner.mul_(up), gate)
    grad_h_tC = torch.zeros_like(h_tC)
    project_backward(grad_gate, h_tC, low_gate, cast[0], mask_gate, sums[0], grad_h_tC)
    project_backward(grad_up, h_tC, low_up, cast[1], mask_up, sums[1], grad_h_tC)
    return grad_h_tC


def _output(x_TI: torch.Tensor, layer: Projection, low_TR: torch.Tensor | None) -> torch.Tensor:
    """``project`` once more, the adapter's low-rank values being known."""
    out_TO = functional.linear(x_TI, layer.weight, layer.bias)
    return out_TO if low_TR is None or layer.b is None else out_TO.addmm_(low_TR, layer.b.t())


def norm_mlp(norm: Any, mlp: Any, recompute: bool, x: torch.Tensor) -> torch.Tensor:
    """RMSNorm and the gated MLP behind it.

    Args:
        norm: with ``weight`` and ``variance_epsilon``.
        mlp: with ``gate_proj``, ``up_proj`` and ``down_proj``, for each of which ``is_plain`` holds, and SiLU.
        recompute: compute gate and up again in the backward pass instead of keeping them.
        x: (..., C).

    Returns:
        (..., C).
    """
    reads = [read_projection(layer) for layer in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
    numbers = tuple((read.scale, read.p) for read in reads)
    flat = [tensor for read in reads for tensor in read.tensors]
    dtype = arithmetic_dtype(x)
    out: torch.Tensor = _NormMlp.apply(x, norm.weight, norm.variance_epsilon, dtype, recompute, numbers, *flat)  # type: ignore[no-untyped-call]
    return out
