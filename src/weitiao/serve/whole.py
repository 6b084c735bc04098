"""Answers side by side by ``Engine.generate``: those that wait together are answered together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from weitiao.seams import Answer, Constraint, Engine, Sample, Sampling


class WholeBatcher:
    """Takes prompts in and answers all that ask for the same sampling in one step."""

    def __init__(self, engine: Engine) -> None:
        """Keep the engine."""
        self._engine = engine
        self._numbers = count()
        self._joined: dict[int, tuple[Sample, Sampling, Constraint | None]] = {}

    def join(self, sample: Sample, sampling: Sampling, constraint: Constraint | None) -> int:
        """Take a prompt in."""
        ticket = next(self._numbers)
        self._joined[ticket] = (sample, sampling, constraint)
        return ticket

    def leave(self, ticket: int) -> None:
        """Give an answer up."""
        self._joined.pop(ticket, None)

    def step(self) -> Sequence[tuple[int, Sequence[int], Answer | None]]:
        """Answer all with the sampling of the one that waits longest."""
        first = next(iter(self._joined.values()))[1]
        tickets = [ticket for ticket, (_, sampling, _) in self._joined.items() if sampling == first]
        asked = [self._joined.pop(ticket) for ticket in tickets]
        constraints = {id(sample): constraint for sample, _, constraint in asked}
        answers = self._engine.generate([sample for sample, _, _ in asked], first, lambda sample: constraints[id(sample)])
        return [(tickets[i], (), answer) for i, answer in answers]
