"""Data: a row as read (``Record``), the conversation made of it (``Sample``), and what the audit found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]

NO_LABEL = "无"
"""The answer of a row that may have several labels and has none."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A span of a text: ``text[start:end]`` is ``surface``; offsets count characters and ``end`` is exclusive."""

    start: int
    end: int
    surface: str
    label: str


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message: text, or an image by path."""

    kind: Literal["text", "image"]
    text: str = ""
    image: Path | None = None
    shortenable: bool = False
    """Whether this piece is the user's own long text, the only thing that may be shortened to fit ``max_tokens``."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All text pieces joined; images leave nothing."""
        return "".join(part.text for part in self.parts if part.kind == "text")


def text_message(role: Role, text: str) -> Message:
    """A message of one text piece.

    Args:
        role: who speaks.
        text: what is said.

    Returns:
        The message.
    """
    return Message(role, (Part("text", text),))


@dataclass(frozen=True, slots=True)
class Record:
    """A row as read, in the project's own words, whatever shape the file had. Fields that the row lacks are empty."""

    origin: str
    """``file:row``; rows count from 1 as an editor or spreadsheet shows them."""
    id: str
    """The row's own id, or a content hash of 16 hexadecimal digits. Unique within a data set."""
    text: str = ""
    """The user's own text: article, complaint, sentence, or the user's question in instruction data."""
    instruction: str = ""
    """A per-row task description that stands before ``text`` (alpaca's ``instruction`` beside ``input``)."""
    system: str = ""
    answer: str | None = None
    """The wanted answer as text, exactly as in the file; None where the row has none."""
    labels: tuple[str, ...] = ()
    """The right label, or labels for multi-label rows."""
    candidates: tuple[str, ...] = ()
    """Labels to choose from in this row."""
    entities: tuple[Entity, ...] | None = None
    messages: tuple[Message, ...] = ()
    """A whole conversation where the row is one, the last assistant turn being the answer."""
    images: tuple[Path, ...] = ()
    captions: tuple[str, ...] = ()
    group: str = ""
    """Value of the grouping column; rows of one group never land in two splits."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A checked conversation. The last message is the assistant's (the answer that is trained), unless the row has no answer."""

    id: str
    origin: str
    messages: tuple[Message, ...]
    reference: Any = None
    """The truth in the task's own form, JSON-able: a dict of fields, a label, a list of entities, a text."""
    group: str = ""
    candidates: tuple[str, ...] = ()

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Every message before the answer."""
        return self.messages[:-1] if self.has_answer else self.messages

    @property
    def has_answer(self) -> bool:
        """Whether the last message is the assistant's."""
        return bool(self.messages) and self.messages[-1].role == "assistant"


Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the audit found."""

    code: str
    """Stable name in kebab case, e.g. ``duplicate-rows``."""
    severity: Severity
    count: int
    message: str
    origins: tuple[str, ...]
    """Up to three ``file:row`` examples."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was read and what became of it; the content of ``data.json``."""

    shape: str
    """Name of the recognised row shape, and the columns it took, as one sentence."""
    n_read: int
    n_kept: int
    rejected: Mapping[str, int]
    """Rows left out, by reason; ``n_read == n_kept + sum(rejected.values())``."""
    rejected_examples: Mapping[str, tuple[str, ...]]
    findings: tuple[Finding, ...]
    split: Mapping[str, int]
    fingerprint: str
    """SHA-256 over the kept rows and their split."""
    statistics: Mapping[str, Any] = field(default_factory=dict)
    """Histograms and counts for the report: label balance, character lengths, image sizes."""
    tokens: Mapping[str, Any] = field(default_factory=dict)
    """Lengths of the training rows in tokens and what was cut; ``not_counted`` says why there are none."""


@dataclass(frozen=True, slots=True)
class SampleSet:
    """Checked samples in three disjoint parts."""

    train: Sequence[Sample]
    valid: Sequence[Sample]
    test: Sequence[Sample]
    report: DataReport


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What a task says of a record it can still use, or cannot (severity ``error``)."""

    code: str
    severity: Severity
    message: str
    hint: str = ""
