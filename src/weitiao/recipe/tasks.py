"""The recipe's ``task`` section: one model per kind of work. What a kind does is in the room ``tasks/``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _TaskSection(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    prompt: str | None = None
    """Wording of the user's turn, with ``{text}`` and the row's other fields in braces; the task's own wording when not given.
    Not of ``chat`` and ``text``."""


class FieldSpec(BaseModel):
    """What a field of an extraction holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    type: Literal["string", "number", "date", "enum", "list"] = "string"
    """``date`` is a string that a calendar date can be read from; ``list`` is a list of strings."""
    values: list[str] | None = None
    """The values of an ``enum``."""
    optional: bool = False
    """Whether the field may be missing or null."""
    copied: bool = True
    """Whether a value must stand in the text; one that does not is flagged in the answer. Numbers count by value, dates by day."""

    @model_validator(mode="after")
    def values_belong_to_enum(self) -> Self:
        """An enum needs its values, and nothing else has any."""
        if (self.type == "enum") != bool(self.values):
            raise ValueError("`values` goes with `type: enum`, and an enum needs at least one")
        return self


class Extraction(_TaskSection):
    """A text in, a JSON object of named fields out."""

    kind: Literal["extraction"]
    fields: list[str] | dict[str, FieldSpec] = Field(min_length=1)
    """Names of the fields (all strings), or a mapping of name to ``{type, values, optional, copied}``."""


class Classification(_TaskSection):
    """A text in, one of a set of labels out."""

    kind: Literal["classification"]
    labels: list[str] | None = Field(None, min_length=2)
    """The labels; taken from the training rows, or from each row's candidates, when not given."""
    multi_label: bool = False
    """Whether a row can have several labels, or none."""


class Ner(_TaskSection):
    """A text in, its named entities out."""

    kind: Literal["ner"]
    labels: list[str] | None = Field(None, min_length=1)
    """The entity types; taken from the training rows when not given."""


class Ocr(_TaskSection):
    """A picture of a formula in, its LaTeX out."""

    kind: Literal["ocr"]


class Caption(_TaskSection):
    """A photo in, a sentence out."""

    kind: Literal["caption"]


class Conversation(_TaskSection):
    """Instruction data: a conversation in, the assistant's answer out."""

    kind: Literal["chat"]
    questions: list[str] = Field(default_factory=list)
    """Questions that base and tuned model answer side by side in the report."""


class Text(_TaskSection):
    """Plain documents: continued pre-training on every token."""

    kind: Literal["text"]
    questions: list[str] = Field(default_factory=list)
    """Beginnings that base and tuned model continue side by side in the report."""


TaskSection = Annotated[Extraction | Classification | Ner | Ocr | Caption | Conversation | Text, Field(discriminator="kind")]
