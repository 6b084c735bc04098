"""An answer that is being written: what was asked, what there is of it, how it goes on, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weitiao.errors import EngineError, WeitiaoError
from weitiao.infer.batches import Prompt
from weitiao.infer.choose import draw
from weitiao.infer.constrain import AfterThoughts, Matcher
from weitiao.infer.speculation import Text
from weitiao.seams import Answer, EndedBy, Renderer, Sampling


@dataclass(frozen=True, slots=True)
class Joined:
    """A prompt that was taken in."""

    ticket: int
    """Its number in this batch, counted from 0."""
    n_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """How an answer went on in a step."""

    ticket: int
    token_ids: tuple[int, ...]
    """New ones, the stop token included."""
    answer: Answer | None
    """The whole answer, where it is finished by them; its row has left the batch."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot go on, and has left the batch."""

    ticket: int
    error: WeitiaoError


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
    text: Text | None = None
    """What guesses are looked up in; None where nothing is guessed."""
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

    def choose(self, logits_NV: Tensor, likeliest: Sequence[int], draft: Sequence[int], stop_ids: frozenset[int]) -> tuple[int, ...]:
        """Choose the next token, and while it is the one that was guessed, the one behind it.

        Args:
            logits_NV: after the row's last token and after each token of the draft; changed where a constraint forbids tokens.
            likeliest: token of each of these places.
            draft: guessed tokens, one less than there are places.
            stop_ids: tokens that end an answer.

        Returns:
            At least one token; the answer holds them.

        Raises:
            EngineError: a constraint cannot be followed.
        """
        chosen: list[int] = []
        for logits_V, token, guessed in zip(logits_NV, likeliest, [*draft, None], strict=True):
            chosen.append(self._next(logits_V, token))
            self.take(chosen[-1], stop_ids)
            if self.ended_by or chosen[-1] != guessed:
                break
        return tuple(chosen)

    def _next(self, logits_V: Tensor, likeliest: int) -> int:
        if self.matcher:
            logits_V.masked_fill_(~self.matcher.allowed().to(logits_V.device), -torch.inf)
        if self.generator:
            token = draw(logits_V.cpu(), self.sampling, self.generator)
        else:
            token = int(logits_V.argmax()) if self.matcher else likeliest
        return self.matcher.in_time(token, self.sampling.max_new_tokens - len(self.answer_ids)) if self.matcher else token

    def take(self, token: int, stop_ids: frozenset[int]) -> None:
        """Add a token to the answer, which may finish it; raises ``EngineError`` where a constraint cannot be followed."""
        self.answer_ids.append(token)
        if token in stop_ids:
            self.ended_by = "stop"
        elif self.matcher and not self.matcher.take(token):
            raise EngineError(f"the answer left its constraint: {self.matcher.problem()}", where=self.prompt.sample.origin)
        elif self.matcher and self.matcher.is_complete():
            self.ended_by = "constraint"
        elif len(self.answer_ids) >= self.sampling.max_new_tokens:
            self.ended_by = "length"
        if self.ended_by and self.matcher and self.matcher.was_closed():
            self.ended_by = "length"

    def answer(self, renderer: Renderer) -> Answer:
        """The finished answer."""
        assert self.ended_by is not None, "the answer goes on"
        return Answer(renderer.decode(self.answer_ids), len(self.prompt.token_ids), len(self.answer_ids), self.ended_by)
