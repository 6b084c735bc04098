"""What a model is made of: its parameter tensors by name and size, equal ones of all layers in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LAYER = re.compile(r"\.\d+(?=\.|$)")


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Tensors of the same place in different layers."""

    name: str
    """As in the network, ``*`` for the number of the layer."""
    shape: tuple[int, ...]
    n_tensors: int
    n_parameters: int
    """In all of them together."""
    n_trainable: int


def parameter_groups(network: Any) -> list[ParameterGroup]:
    """The tensors of a network, tied ones once.

    Args:
        network: any module.

    Returns:
        Groups in the order of the network.
    """
    found: dict[tuple[str, tuple[int, ...]], list[tuple[int, bool]]] = {}
    for name, tensor in network.named_parameters():
        found.setdefault((LAYER.sub(".*", name), tuple(tensor.shape)), []).append((tensor.numel(), tensor.requires_grad))
    return [
        ParameterGroup(name, shape, len(sizes), sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained))
        for (name, shape), sizes in found.items()
    ]


def parameter_table(groups: Sequence[ParameterGroup], network: Any) -> list[str]:
    """The groups as lines to print: name, shape, how many such tensors, parameters, share of all, trained or not; the sums last.

    Args:
        groups: from ``parameter_groups``.
        network: the same network; says which tensors embed and un-embed.

    Returns:
        Lines of plain text.
    """
    total = sum(group.n_parameters for group in groups)
    width = max(len(group.name) for group in groups)
    lines = [f"{group.name:<{width}}  {_sizes(group)}  {100 * group.n_parameters / total:6.2f} %  {_fate(group)}" for group in groups]
    embedding, unembedding = network.get_input_embeddings().weight, network.get_output_embeddings().weight
    shares = f"embedding {_part(embedding.numel(), total)}, un-embedding "
    shares += "the same tensor" if unembedding is embedding else _part(unembedding.numel(), total)
    n_trained = sum(group.n_trainable for group in groups)
    return [*lines, f"{total / 1e6:,.2f} M parameters in all: {shares}; trained {_part(n_trained, total)}"]


def _sizes(group: ParameterGroup) -> str:
    shape = " x ".join(map(str, group.shape))
    return f"{shape:>15}  {group.n_tensors:>4} x {group.n_parameters // group.n_tensors:>11,}"


def _fate(group: ParameterGroup) -> str:
    return "trained" if group.n_trainable else "frozen"


def _part(count: int, total: int) -> str:
    return f"{count / 1e6:,.2f} M ({100 * count / total:.2f} %)"
