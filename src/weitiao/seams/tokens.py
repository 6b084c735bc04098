"""Tokens: a conversation rendered, a training row, the rows of an optimizer step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from weitiao.seams.data import Finding

IGNORED = -100
"""Label of a token that is not trained (the value that torch's cross entropy ignores)."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as a vision model takes it: which file, and the size it is brought to. Found out from the file's header alone."""

    path: Path
    height: int
    """In pixels, after resizing."""
    width: int
    grid: tuple[int, int, int]
    """Frames (always 1), patches down, patches across: the model's ``image_grid_thw``."""
    n_tokens: int
    """Placeholder tokens that stand for it in ``input_ids``."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One conversation as tokens. ``trained[i]`` says whether token ``i`` belongs to an answer (its stop token included)."""

    input_ids: list[int]
    trained: list[bool]
    pictures: tuple[Picture, ...] = ()
    """In the order of their placeholder tokens."""
    n_shortened: int = 0
    """Tokens taken out of the shortenable piece to fit; 0 where the row fitted."""

    @property
    def trained_end(self) -> int:
        """Tokens up to the last trained one: what follows cannot change the loss, and training leaves it out. 0 where none is trained."""
        return next((i for i in range(len(self.trained), 0, -1) if self.trained[i - 1]), 0)


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One training row, not shifted: ``labels[i]`` is ``input_ids[i]`` or -100."""

    input_ids: list[int]
    labels: list[int]
    segment_lengths: tuple[int, ...]
    """Tokens of each conversation in this row, without the shared prefix. A row that is not packed has one segment."""
    prefix_length: int = 0
    """Tokens at the start that every segment begins with; they stand once. ``prefix_length + sum(segment_lengths) == len(input_ids)``."""
    pictures: tuple[Picture, ...] = ()
    """In the order of their placeholder tokens."""


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """Token rows of the training part, and what encoding did to them."""

    rows: Sequence[EncodedRow]
    n_tokens: int
    n_supervised_tokens: int
    n_shortened: int
    dropped: Mapping[str, str]
    """Rows that cannot be encoded: sample id -> reason with origin."""
    lengths: Sequence[int]
    """Tokens per row."""
    max_prompt_tokens: int
    """Longest prompt of the run: training, evaluation and prediction shorten a text to it."""
    findings: tuple[Finding, ...] = ()
    """What is to be said of lengths: rows shortened, rows too long, the longest row, the one with most image tokens."""
    full_lengths: Mapping[str, Any] = field(default_factory=dict)
    """How the lengths of the samples in tokens are spread, before anything was cut; ``at``: origin of the longest."""
    image_tokens: Mapping[str, Any] = field(default_factory=dict)
    """The same of the tokens that stand for images, over samples with images; empty without."""


class Steps(Protocol):
    """The optimizer steps of an epoch, each a list of (packed) rows that are computed one after another."""

    @property
    def micro_batch_tokens(self) -> int:
        """Most tokens of one of these rows."""
        ...

    def __len__(self) -> int:
        """Steps per epoch, the same in each."""
        ...

    def step(self, epoch: int, index: int) -> list[EncodedRow]:
        """Rows of one step; depends on nothing but the arguments and the seed."""
        ...
