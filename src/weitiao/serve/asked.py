"""What a chat request asks for, in the project's own words: messages, how tokens are drawn, what the answer may be."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from weitiao.seams import Constraint, Message, Part, Role, Sample, Sampling, text_message
from weitiao.serve.images import RequestImages
from weitiao.serve.limits import Limits
from weitiao.serve.refusal import Refusal
from weitiao.serve.schemas import ChatMessage, ChatRequest, ChoiceOutput, JsonFormat, SchemaFormat, TextPart

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
ANY_OBJECT = {"type": "object"}
LONGEST_TOKEN = 256
"""Characters; no vocabulary of the models here has a longer entry, so a text above this many per allowed token is too long unread."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A chat request, ready to be answered."""

    sample: Sample
    sampling: Sampling
    constraint: Constraint | None
    stops: tuple[str, ...]


def read_chat(request: ChatRequest, images: RequestImages, limits: Limits, *, system: str | None, max_new_tokens: int) -> Asked:
    """Read a chat request.

    Args:
        request: as it came.
        images: keeps the request's images.
        limits: of the server.
        system: the system message of the run's training rows, for conversations that bring none; None for none.
        max_new_tokens: of the answer where the request does not say.

    Returns:
        What is asked.

    Raises:
        Refusal: the turns are out of order, a limit is exceeded, or an image cannot be used.
    """
    _check_turns(request.messages)
    n_images = sum(part.type == "image_url" for turn in request.messages if isinstance(turn.content, list) for part in turn.content)
    if n_images > limits.max_images:
        raise Refusal(400, f"{n_images} images are more than the {limits.max_images} allowed", code="too_many_images", param="messages")
    _check_size(request.messages, limits)
    messages = tuple(Message(ROLES[turn.role], _parts(turn, images)) for turn in request.messages)
    is_document = messages[0].role == "assistant"
    if system is not None and messages[0].role != "system" and not is_document:
        messages = (text_message("system", system), *messages)
    # A document to be continued is all prompt: the empty answer after it is what will be written.
    spoken = (*messages, text_message("assistant", "")) if is_document else messages
    return Asked(Sample("request", "request", spoken), _sampling(request, limits, max_new_tokens), _constraint(request), _stops(request))


def _check_turns(turns: Sequence[ChatMessage]) -> None:
    roles = [ROLES[turn.role] for turn in turns]
    if roles == ["assistant"]:
        return
    after = roles[1:] if roles[0] == "system" else roles
    wanted = [("user", "assistant")[i % 2] for i in range(len(after))]
    if not after or after != wanted or after[-1] != "user":
        raise Refusal(
            400,
            "the turns go system (at most one, at the beginning), user, assistant, user, … and end with the user's; here they are "
            + ", ".join(roles[:8])
            + (", …" if len(roles) > 8 else ""),
            code="turns_out_of_order",
            param="messages",
        )


def _check_size(turns: Sequence[ChatMessage], limits: Limits) -> None:
    """Refuse what must be too long, before anybody tokenises it."""
    n_characters = sum(
        len(turn.content) if isinstance(turn.content, str) else sum(len(part.text) for part in turn.content if isinstance(part, TextPart))
        for turn in turns
    )
    if n_characters > limits.max_prompt_tokens * LONGEST_TOKEN:
        what = f"the messages have {n_characters:,} characters; the longest prompt here has {limits.max_prompt_tokens:,} tokens"
        raise Refusal(400, what, code="context_length_exceeded", param="messages")


def _parts(turn: ChatMessage, images: RequestImages) -> tuple[Part, ...]:
    if isinstance(turn.content, str):
        return (Part("text", turn.content),)
    if turn.role != "user" and not all(isinstance(part, TextPart) for part in turn.content):
        raise Refusal(400, f"an image stands in a message of the {turn.role}; only users show images", param="messages")
    return tuple(
        Part("text", part.text) if isinstance(part, TextPart) else Part("image", image=images.keep(part.image_url.url))
        for part in turn.content
    )


def _sampling(request: ChatRequest, limits: Limits, max_new_tokens: int) -> Sampling:
    wanted = request.max_completion_tokens or request.max_tokens
    if wanted is not None and wanted > limits.max_new_tokens:
        name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
        raise Refusal(
            400, f"{name} is {wanted:,}; this server writes at most {limits.max_new_tokens:,}", code="too_many_tokens", param=name
        )
    return Sampling(
        max_new_tokens=wanted or min(max_new_tokens, limits.max_new_tokens),
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=request.top_k or 0,
        seed=secrets.randbits(32) if request.seed is None else request.seed,
    )


def _constraint(request: ChatRequest) -> Constraint | None:
    form, wanted = request.response_format, request.structured_outputs
    if wanted is not None and isinstance(form, SchemaFormat | JsonFormat):
        what = f"an answer has one form: leave out either structured_outputs or the response_format {form.type}"
        raise Refusal(400, what, code="two_forms", param="structured_outputs")
    if isinstance(wanted, ChoiceOutput):
        return Constraint(choices=tuple(wanted.choice))
    if wanted is not None:
        return Constraint(regex=wanted.regex)
    if isinstance(form, SchemaFormat):
        return Constraint(json_schema=form.json_schema.schema_)
    return Constraint(json_schema=ANY_OBJECT) if isinstance(form, JsonFormat) else None


def _stops(request: ChatRequest) -> tuple[str, ...]:
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    if "" in stops:
        raise Refusal(400, "a stop text is empty", param="stop")
    if any(len(stop) > 1000 for stop in stops):
        raise Refusal(400, "a stop text is longer than 1000 characters", param="stop")
    return stops
