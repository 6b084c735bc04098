"""The bodies of answers; those of requests stand in ``schemas.py``. Names are OpenAI's."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Reply(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


# ---- /v1/chat/completions ---------------------------------------------------------------------------------------------


class Usage(Reply):
    """Tokens, stop token and image tokens included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


FinishReason = Literal["stop", "length"]


class AnswerMessage(Reply):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(Reply):
    """The only choice."""

    index: Literal[0] = 0
    message: AnswerMessage
    finish_reason: FinishReason
    """``length``: the answer ran into ``max_tokens`` and is not whole."""
    logprobs: None = None


class ChatCompletion(Reply):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


def _is_none(value: Any) -> bool:
    return value is None


class Delta(Reply):
    """What a chunk adds to the answer; a field that it does not add to is not there."""

    role: Literal["assistant"] | None = Field(default=None, exclude_if=_is_none)
    content: str | None = Field(default=None, exclude_if=_is_none)


class ChunkChoice(Reply):
    """The only choice of a chunk."""

    index: Literal[0] = 0
    delta: Delta
    logprobs: None = None
    finish_reason: FinishReason | None = None
    """Null but in the last one."""


class ChatCompletionChunk(Reply):
    """A piece of an answer that is sent as it is written."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    """Empty in the chunk that counts the tokens."""
    usage: Usage | None = None
    """There with ``stream_options.include_usage``; null but in the last chunk."""


# ---- /v1/tasks/predict ------------------------------------------------------------------------------------------------


class RowError(Reply):
    """Why a row has no answer."""

    message: str
    hint: str | None = None


class PredictedRow(Reply):
    """A row's answer, or why there is none."""

    index: int
    """Place among the rows of the request, from 0."""
    id: str | None = None
    """The row's own id, or a hash of its content."""
    answer: str | None = None
    """What the model said."""
    prediction: Any = None
    """The answer as the task reads it: a label, a dict of fields, a list of entities, a text. Null where it could not be read."""
    is_valid: bool | None = None
    """Whether the answer had the task's form."""
    ended_by: Literal["stop", "length", "constraint"] | None = None
    probabilities: dict[str, float] | None = None
    """Each label's probability, calibrated on validation rows where the run has some, summing to 1; for classification with one label."""
    flags: list[str] | None = None
    """Warnings for the reader, e.g. a value that is not in the text."""
    error: RowError | None = None


class PredictResponse(Reply):
    """One entry per row, in their order."""

    object: Literal["list"] = "list"
    model: str
    rows: list[PredictedRow]
    usage: Usage


# ---- the rest ---------------------------------------------------------------------------------------------------------


class ModelCard(Reply):
    """The run that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["weitiao"] = "weitiao"
    base: str
    """What the run started from."""
    task: str
    """The kind of work."""
    max_model_len: int
    """Longest prompt in tokens."""


class ModelList(Reply):
    """All models here: one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(Reply):
    """Whether the server can answer."""

    status: Literal["ok", "stopping", "failed"]
    waiting: int
    """Prompts that wait for a place in the batch."""
    running: int
    """Answers that are being written."""


class ErrorBody(Reply):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Reply):
    """OpenAI's error form."""

    error: ErrorBody
