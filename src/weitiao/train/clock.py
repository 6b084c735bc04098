"""What training takes: steps timed, and summed over the processes that went on from each other's checkpoints."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

SPENT = "spent.json"
"""In a checkpoint: what training had taken."""


@dataclass(slots=True)
class Spent:
    """What training took so far, in all processes that went on from each other's checkpoints."""

    seconds: float = 0.0
    """From beginning to end, validation included."""
    compute_seconds: float = 0.0
    """Of the steps: forward, backward and optimizer."""
    n_tokens: int = 0

    @classmethod
    def read(cls, checkpoint: Path) -> Spent:
        """What had been spent when a checkpoint was saved.

        Args:
            checkpoint: its folder.

        Returns:
            What its file says; nothing where there is none.
        """
        path = checkpoint / SPENT
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()

    def write(self, checkpoint: Path) -> None:
        """Write it down beside a checkpoint.

        Args:
            checkpoint: its folder.
        """
        (checkpoint / SPENT).write_text(json.dumps(asdict(self)), encoding="utf-8")


class Clock(TrainerCallback):
    """Times steps from the first forward pass to the updated weights."""

    def __init__(self) -> None:
        self.spent = Spent()
        self.step_tokens = 0
        self._started = self._step_started = time.monotonic()

    def until_now(self) -> Spent:
        """What training took so far."""
        return replace(self.spent, seconds=self.spent.seconds + time.monotonic() - self._started)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """A step begins."""
        self._step_started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Its weights are updated."""
        self.spent.n_tokens += self.step_tokens
        self.spent.compute_seconds += time.monotonic() - self._step_started
