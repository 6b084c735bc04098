"""Models: weights ready to answer, how they are given pictures, and the outcome of training them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from weitiao.seams.tokens import Picture

if TYPE_CHECKING:
    import torch


class Vision(Protocol):
    """How the language model of a vision model is given pictures; one object for training and answering."""

    placeholder_id: int
    """Token that stands for an image's tokens in ``input_ids``."""

    @property
    def needs_tower(self) -> bool:
        """Whether the network's vision tower is asked; False where all that is wanted lies in the feature store."""
        ...

    def positions(self, input_ids: Sequence[int], segment_lengths: Sequence[int], pictures: Sequence[Picture]) -> torch.Tensor:
        """(3, T) positions (time, height, width) by the model's own rule, beginning anew with each segment of the T tokens."""
        ...

    def encoder_outputs(self, pictures: Sequence[Picture]) -> dict[str, Any]:
        """The network's ``mm_encoder_outputs`` for the pictures of a batch, in the order of their tokens; empty without pictures."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A base model ready to answer: in eval mode, on its device, in its dtype."""

    network: Any
    """The ``transformers`` model (``PreTrainedModel``), or a PEFT model around it after tuning."""
    processor: Any
    """The tokenizer (``PreTrainedTokenizerBase``), or the processor of a vision model."""
    path: Path
    """The folder the weights were read from."""
    name: str
    """What the recipe called it."""
    dtype: torch.dtype
    """Of the arithmetic; weights that are trained are kept in float32 beside it."""
    is_vision: bool = False
    vision: Vision | None = None
    """What gives a run's network its pictures; None for text models, and where an engine asks the tower itself."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The outcome of training: the network as it stands after loading the best checkpoint, and where that lies."""

    model: LoadedModel
    checkpoint: Path
    """``RUN/best``."""
    best_step: int
    best_metric: float | None
    n_steps: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
