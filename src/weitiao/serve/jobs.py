"""What passes between requests and the model's thread: a job in, pieces of its answer and its end out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from weitiao.seams import Answer, Constraint, Sample, Sampling


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that was written since the last piece; the first one, empty, says that the prompt was taken in."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer, with the text since the last piece."""

    text: str
    answer: Answer
    """Its text is cut before a stop text."""


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no answer."""

    error: Exception
    is_ours: bool = False
    """Whether the model failed, not the request."""


Event = Piece | Finished | Failed


@dataclass(eq=False, slots=True)
class Job:
    """A prompt on its way to an answer."""

    sample: Sample
    sampling: Sampling | None
    """None: the sample's labels are scored instead."""
    constraint: Constraint | None = None
    stops: tuple[str, ...] = ()
    streams: bool = False
    """Whether pieces are wanted."""
    max_prompt_tokens: int | None = None
    """Longest prompt; what of it is shortenable is cut to fit."""
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    """Belongs to the event loop."""
    is_over: bool = False
    """Set by either side: nobody waits for it any more, or it has its answer."""
    started: float = field(default_factory=time.monotonic)
    """When its request had arrived."""
