"""The bodies of requests; those of answers stand in ``replies.py``. What a field may be stands here, so the published OpenAPI says it too.

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
    name: str | None = None
    """Taken and without effect; so are the fields below, which clients send back empty with an answer."""
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    audio: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


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


# ---- /v1/tasks/predict ------------------------------------------------------------------------------------------------


class PredictRequest(Body):
    """Rows as the run's data has them."""

    rows: list[dict[str, Any]] = Field(min_length=1)
    """Objects with the columns of the training rows, the answer left out. Images are ``data:`` addresses."""
    model: str | None = None
    """The run's name, as ``/v1/models`` gives it."""
