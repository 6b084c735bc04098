"""An answer that is being written: what was asked, what there is of it, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from weitiao.errors import EngineError
from weitiao.infer.batches import Prompt
from weitiao.infer.constrain import AfterThoughts, Matcher
from weitiao.seams import Answer, EndedBy, Renderer, Sampling


@dataclass(slots=True, eq=False)
class Row:
    """One prompt and the answer to it so far."""

    ticket: int
    """Its number in the batch."""
    prompt: Prompt
    sampling: Sampling
    matcher: Matcher | AfterThoughts | None
    generator: torch.Generator | None
    slot: int = -1
    shift: int = 0
    """How far positions of the answer lie behind their columns; see ``Span``."""
    answer_ids: list[int] = field(default_factory=list)
    ended_by: EndedBy | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        return len(self.prompt.token_ids) + len(self.answer_ids)

    @property
    def n_most(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return len(self.prompt.token_ids) + self.sampling.max_new_tokens

    def unread(self, n_read: int) -> list[int]:
        """Tokens that the network has not read, of which ``n_read`` are read."""
        n_prompt = len(self.prompt.token_ids)
        return self.prompt.token_ids[n_read:] + self.answer_ids[max(0, n_read - n_prompt) :]

    def take(self, token: int, stop_ids: frozenset[int]) -> None:
        """Add a token to the answer, which may finish it; raises ``EngineError`` where a constraint cannot be followed."""
        self.answer_ids.append(token)
        if token in stop_ids:
            self.ended_by = "stop"
            return
        if self.matcher:
            if not self.matcher.take(token):
                raise EngineError(f"the answer left its constraint: {self.matcher.problem()}", where=self.prompt.sample.origin)
            if self.matcher.is_complete():
                self.ended_by = "constraint"
                return
        if len(self.answer_ids) >= self.sampling.max_new_tokens:
            self.ended_by = "length"

    def answer(self, renderer: Renderer) -> Answer:
        """The finished answer."""
        assert self.ended_by is not None, "the answer goes on"
        return Answer(renderer.decode(self.answer_ids), len(self.prompt.token_ids), len(self.answer_ids), self.ended_by)
