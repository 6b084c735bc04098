"""The bodies of requests and answers. What a field may be stands here, so the published OpenAPI says it too.

Names are OpenAI's. A field that would change the answer and that this server cannot honour is refused, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Before a strict int: what JSON Schema calls an integer, 5 and 5.0, but neither true nor a text."""


class Body(BaseModel):
    """A part of a request: no field is unknown, no number is infinite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=())


class Reply(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


# ---- /v1/chat/completions ---------------------------------------------------------------------------------------------


class TextPart(Body):
    """Text."""

    type: Literal["text"]
    text: str


class ImageUrl(Body):
    """Where an image is."""

    url: str
    """A ``data:image/…;base64,`` address; a web address where the server allows it."""
    detail: Literal["auto", "low", "high"] | None = None
    """Taken and without effect: a run reads images as it did in training."""


class ImagePart(Body):
    """An image; for runs of vision models."""

    type: Literal["image_url"]
    image_url: ImageUrl


Content = str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class ChatMessage(Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    refusal: None = None


class JsonSchema(Body):
    """A named JSON schema."""

    name: str = Field(max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: StrictBool | None = None
    """Taken and without effect: answers always keep to the schema."""


class TextFormat(Body):
    """Free text."""

    type: Literal["text"]


class JsonFormat(Body):
    """A JSON object of any kind."""

    type: Literal["json_object"]


class SchemaFormat(Body):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class ChoiceOutput(Body):
    """One of some texts."""

    choice: list[Annotated[str, Field(max_length=1000)]] = Field(min_length=1, max_length=1000)


class PatternOutput(Body):
    """Text that a pattern matches as a whole."""

    regex: str = Field(min_length=1, max_length=100_000)
    """Literals, classes, groups, ``|``, ``?``, ``*`` and ``+``; no look-around."""


class StreamOptions(Body):
    """What a stream holds besides the answer."""

    include_usage: StrictBool = False
    """Whether the last event counts the tokens."""


def _refuse(value: Any, neutral: tuple[Any, ...], why: str) -> Any:
    if not any(value is one or (value == one and type(value) in (type(one), float)) for one in neutral):
        raise ValueError(why)
    return value


def _no_logprobs(value: Any) -> Any:
    return _refuse(value, (None, False), "log probabilities of tokens are not given; /v1/tasks/predict gives probabilities of labels")


def _one_answer(value: Any) -> Any:
    return _refuse(value, (None, 1), "one answer is given per request; ask again with another seed")


def _no_penalty(value: Any) -> Any:
    return _refuse(value, (None, 0, 0.0), "penalties are not applied here; leave the field out")


class ChatRequest(Body):
    """OpenAI's chat completion, with ``top_k`` and ``structured_outputs`` besides."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    """The last one is the user's. A run on plain documents continues a document: a single message of the assistant's."""
    model: str | None = None
    """The run's name, as ``/v1/models`` gives it."""
    stream: StrictBool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1), WHOLE] | None = None
    """Most tokens of the answer; the run's ``evaluate.max_new_tokens`` when not given."""
    max_completion_tokens: Annotated[StrictInt, Field(ge=1), WHOLE] | None = None
    """The newer name of ``max_tokens``."""
    temperature: Annotated[StrictFloat, Field(ge=0, le=2)] | None = None
    """0 where it is not given: the likeliest answer, the one that the run's figures were measured with."""
    top_p: Annotated[StrictFloat, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=0, le=2**31 - 1), WHOLE] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1), WHOLE] | None = None
    """The same seed gives the same answer, whatever else is being answered."""
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    """Up to four texts; the answer ends before the first of them."""
    response_format: Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")] | None = None
    structured_outputs: ChoiceOutput | PatternOutput | None = None
    """vLLM's name for what an answer may be besides JSON; not together with a JSON ``response_format``."""
    n: Annotated[Literal[1] | None, BeforeValidator(_one_answer)] = None
    logprobs: Annotated[Literal[False] | None, BeforeValidator(_no_logprobs)] = None
    top_logprobs: None = None
    presence_penalty: Annotated[Literal[0] | None, BeforeValidator(_no_penalty)] = None
    frequency_penalty: Annotated[Literal[0] | None, BeforeValidator(_no_penalty)] = None
    user: str | None = None
    """Taken and without effect."""
    metadata: dict[str, str] | None = None
    """Taken and without effect."""


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


class PredictRequest(Body):
    """Rows as the run's data has them."""

    rows: list[dict[str, Any]] = Field(min_length=1)
    """Objects with the columns of the training rows, the answer left out. Images are ``data:`` addresses."""
    model: str | None = None
    """The run's name, as ``/v1/models`` gives it."""


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
