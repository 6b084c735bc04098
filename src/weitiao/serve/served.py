"""What is served: one run's model with its task, handed over by whoever loaded it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.errors import RowError
from weitiao.infer import StepBatch
from weitiao.seams import Engine, Renderer, Sample, Sampling, Task

ReadRows = Callable[[Sequence[Mapping[str, Any]], Callable[[str], Path]], Sequence[Sample | RowError]]
"""From rows of the task, and from what keeps an image by its address, to samples or what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Served:
    """A run, loaded."""

    name: str
    """What clients call it."""
    base: str
    """What it started from."""
    created: int
    """When it was trained, in seconds since 1970."""
    engine: Engine
    new_batch: Callable[[], StepBatch]
    max_prompt_tokens: int
    """Of rows of the task: longer ones are shortened, as in training."""
    renderer: Renderer
    task: Task
    read_rows: ReadRows
    calibrated: Callable[[Mapping[str, float]], dict[str, float]]
    """From label probabilities to those at the temperature that was chosen on validation rows."""
    system: str | None
    """System message of the training rows; None where they have none or differ."""
    sampling: Sampling
    """How answers to rows are drawn, as in evaluation; a chat request has its ``max_new_tokens`` where it does not say."""
    batch_rows: int
    """Most answers that are written side by side."""
    constrained: bool
    """Whether answers to rows keep to the task's form."""
    is_vision: bool
