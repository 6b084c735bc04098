"""Frozen weights kept in their file's 16 bits and widened where they are used: the arithmetic of float32 where memory is short.

Every bfloat16 or float16 number is a float32 number, so nothing is rounded: loss and gradients are those of weights that were widened at
loading. A widened matrix lives as long as one product. (Only an adapter's first numbers differ: PEFT rounds them to the weights' dtype.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class _Widened(torch.autograd.Function):
    """``x W' + b`` of frozen W and b; keeps W as it is for the backward pass, where autograd's own product would keep the widened one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return functional.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return grad @ weight.to(grad.dtype), None, None


class ThinLinear(nn.Linear):
    """A frozen linear layer whose weight is narrower than its inputs."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Compute in the dtype of the inputs.

        Args:
            input: (..., in_features).

        Returns:
            (..., out_features), in the inputs' dtype.
        """
        out: torch.Tensor = _Widened.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


def is_linear(module: Any) -> bool:
    """Whether a module is a linear layer and nothing more.

    Args:
        module: any module.

    Returns:
        True for ``nn.Linear`` and ``ThinLinear`` themselves, not for what else is derived from them.
    """
    return type(module) in (nn.Linear, ThinLinear)


def keep_thin(network: Any, dtype: torch.dtype) -> None:
    """Leave the matrices of the layers as they are and make everything else ``dtype``; for layers that stay frozen.

    Embedding and un-embedding are widened too: in small models they are one matrix, and the whole of it is read for every answer token.

    Args:
        network: a text model in 16 bits; changed in place.
        dtype: of the arithmetic.
    """
    head = network.get_output_embeddings()
    kept = set()
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and child is not head:
                # A copy, for the file stays mapped, and counts, as long as one tensor looks into it.
                child.weight.data = child.weight.data.clone()
                setattr(parent, name, _thin(child))
                kept.add(id(child.weight))
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point() and id(tensor) not in kept:
            tensor.data = tensor.data.to(dtype)


def _thin(linear: nn.Linear) -> ThinLinear:
    thin = ThinLinear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    thin.weight, thin.bias = linear.weight, linear.bias
    thin.requires_grad_(False)
    return thin.train(linear.training)
