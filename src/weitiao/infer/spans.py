"""What a pass reads: some tokens of some rows, each row's on top of what its slot holds; and which of them may see which.

Shape letters: N tokens of a span, T columns that they see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weitiao.seams import Picture

ROOT = -1
"""Parent of a tree's first tokens: the last token before the tree."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one row that are read in one pass."""

    slot: int
    start: int
    """Column of the first token: how much the slot holds before."""
    token_ids: Sequence[int]
    parents: Sequence[int] = ()
    """Of the last tokens, where those form a tree: per token its parent's place within the tree, or ``ROOT``. Parents come first."""
    shift: int = 0
    """How far a token's position lies behind its column: images take up more columns than positions."""
    positions: Tensor | None = None
    """(3, N) time, height and width of the tokens before the tree, of a row with images; None where columns say it."""
    pictures: tuple[Picture, ...] = ()
    """Images whose placeholders are among the tokens."""

    @property
    def stop(self) -> int:
        """Column after the last token."""
        return self.start + len(self.token_ids)


def positions(span: Span) -> Tensor:
    """Positions of a span's tokens, (3, N): their columns, or within a tree, the depth below the token before the tree."""
    n_chain = len(span.token_ids) - len(span.parents)
    first = span.start + span.shift
    below: list[int] = []
    for parent in span.parents:
        below.append(first + n_chain if parent == ROOT else below[parent] + 1)
    chain_3N = torch.arange(first, first + n_chain).expand(3, -1) if span.positions is None else span.positions
    return torch.cat([chain_3N, torch.tensor(below, dtype=torch.long).expand(3, -1)], dim=1)


def visible(span: Span) -> Tensor:
    """What each token of a span sees, (N, T), bool: all tokens before it; within a tree, its ancestors and what stands before the tree."""
    n_tokens, n_nodes = len(span.token_ids), len(span.parents)
    sees_NT = torch.ones(n_tokens, span.stop, dtype=torch.bool).tril_(span.start)
    if n_nodes:
        sees_nodes = torch.eye(n_nodes, dtype=torch.bool)
        for node, parent in enumerate(span.parents):
            if parent != ROOT:
                sees_nodes[node] |= sees_nodes[parent]
        sees_NT[-n_nodes:, -n_nodes:] = sees_nodes
    return sees_NT
