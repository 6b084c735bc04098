"""Rows that are conversations: OpenAI ``messages`` and ShareGPT ``conversations``, with images in every form that tutorials use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from weitiao.data.rows import RejectedRowError
from weitiao.data.values import parsed
from weitiao.seams import Message, Part, Role, text_message

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
"""What the roles are called in the wild."""

IMAGE_SPAN = re.compile(r"<\|vision_start\|>(.*?)<\|vision_end\|>", re.DOTALL)
IMAGE_PLACE = "<image>"
IMAGE_PATH = re.compile(r"[^\n<>|]{1,400}\.(?:png|jpe?g|webp|bmp|gif|tiff?)", re.IGNORECASE)

FindImage = Callable[[Any], Path]
"""From a cell that names or holds an image to its path; raises ``RejectedRowError``."""


def read_messages(value: Any, origin: str, find_image: FindImage, images: tuple[Path, ...] = ()) -> tuple[Message, ...]:
    """Turn a list of turns into messages.

    Args:
        value: the turns, ``{role, content}``, ``{from, value}`` or ``{role, value}`` each, or that list as JSON text.
        origin: of the row.
        find_image: for images that a turn names.
        images: of the row's own image column; they take the places marked ``<image>``, else they stand before the first user text.

    Returns:
        At least one message; roles alternate, beginning with ``system`` or ``user``.

    Raises:
        RejectedRowError: it is no conversation.
    """
    turns = parsed(value)
    if not isinstance(turns, list) or not turns:
        raise RejectedRowError(
            "the conversation is empty" if turns in ([], None, "") else "the conversation is not a list of turns", where=origin
        )
    left = list(images)
    messages = []
    for number, turn in enumerate(turns):
        where = f"{origin}, message {number}"
        if not isinstance(turn, Mapping):
            raise RejectedRowError("a turn is not an object with role and content", where=where)
        role = _role(turn, where)
        messages.append(Message(role, _parts(_content(turn, role, where), role, where, find_image, left)))
    if left:
        messages = _with_images_first(messages, left)
    _refuse_missing_images(messages, origin)
    _refuse_disorder(messages, origin)
    return _mark_longest(messages)


def _role(turn: Mapping[str, Any], where: str) -> Role:
    named = turn.get("role", turn.get("from"))
    role = ROLES.get(named.strip().lower()) if isinstance(named, str) else None
    if role is None:
        hint = f"known roles are {', '.join(ROLES)}"
        raise RejectedRowError("unknown role in a turn", where=where, detail=repr(named), hint=hint)
    return role


def _content(turn: Mapping[str, Any], role: Role, where: str) -> Any:
    """What a turn says, its reasoning before it as Qwen's templates write it."""
    if turn.get("tool_calls") or turn.get("function_call"):
        hint = "leave the row out, or write the call into the turn's content"
        raise RejectedRowError("a turn calls a tool, which cannot be trained", where=where, hint=hint)
    content, thought = turn.get("content", turn.get("value")), turn.get("reasoning_content")
    if role == "assistant" and isinstance(thought, str) and thought.strip() and isinstance(content, str):
        return f"<think>\n{thought.strip()}\n</think>\n\n{content}"
    return content


def _refuse_missing_images(messages: list[Message], origin: str) -> None:
    """A mark at the edge of a question stands for an image; inside a text it may be spoken of."""
    if any(part.image for message in messages for part in message.parts):
        return
    texts = [message.text.strip() for message in messages if message.role == "user"]
    if any(text.startswith(IMAGE_PLACE) or text.endswith(IMAGE_PLACE) for text in texts):
        hint = "name the column that holds it: data.columns: {image: COLUMN}"
        raise RejectedRowError(f"the conversation marks an image ({IMAGE_PLACE}) and has none", where=origin, hint=hint)


def _parts(content: Any, role: Role, where: str, find_image: FindImage, left: list[Path]) -> tuple[Part, ...]:
    if content is None:
        return (Part("text", ""),)
    if isinstance(content, str):
        return tuple(_text_parts(content, role, find_image, left))
    if isinstance(content, list):
        return tuple(part for item in content for part in _content_part(item, role, where, find_image, left))
    raise RejectedRowError("a turn's content is neither text nor a list of parts", where=where, detail=type(content).__name__)


def _content_part(item: Any, role: Role, where: str, find_image: FindImage, left: list[Path]) -> list[Part]:
    if isinstance(item, str):
        return [Part("text", item)]
    kind = item.get("type") if isinstance(item, Mapping) else None
    if kind in ("text", "input_text", "output_text") and isinstance(item.get("text"), str):
        return [Part("text", item["text"])]
    if kind in ("image", "image_url", "input_image"):
        named = item.get("image", item.get("image_url", item.get("url", item.get("path"))))
        named = named.get("url") if isinstance(named, Mapping) and "url" in named else named
        if named is None and left:
            return [Part("image", image=left.pop(0))]
        return [Part("image", image=find_image(named))]
    raise RejectedRowError(f"a part of the {role}'s content is neither text nor an image", where=where, detail=repr(kind))


def _text_parts(text: str, role: Role, find_image: FindImage, left: list[Path]) -> list[Part]:
    """Text with the images it names: ``<|vision_start|>PATH<|vision_end|>``, a path alone, or ``<image>`` for one of the row's own."""
    if role != "user":
        return [Part("text", text)]
    if IMAGE_SPAN.search(text):
        parts = []
        for number, piece in enumerate(IMAGE_SPAN.split(text)):
            if number % 2:
                parts.append(Part("image", image=find_image(piece.strip())))
            elif piece:
                parts.append(Part("text", piece))
        return parts
    if IMAGE_PATH.fullmatch(text.strip()):
        try:
            return [Part("image", image=find_image(text.strip()))]
        except RejectedRowError:
            if " " not in text.strip():
                raise
            return [Part("text", text)]  # a question that ends in a file's name
    if IMAGE_PLACE in text and left:
        parts = []
        for number, piece in enumerate(text.split(IMAGE_PLACE)):
            if number:
                parts.append(Part("image", image=left.pop(0)) if left else Part("text", IMAGE_PLACE))
            if piece:
                parts.append(Part("text", piece))
        return parts
    return [Part("text", text)]


def _with_images_first(messages: list[Message], images: list[Path]) -> list[Message]:
    first = next((i for i, message in enumerate(messages) if message.role == "user"), None)
    if first is None:
        return messages
    parts = tuple(Part("image", image=path) for path in images) + messages[first].parts
    return [*messages[:first], Message("user", parts), *messages[first + 1 :]]


def _refuse_disorder(messages: list[Message], origin: str) -> None:
    wanted = "user"
    for number, message in enumerate(messages):
        where = f"{origin}, message {number}"
        if message.role == "system":
            if number:
                raise RejectedRowError("a system message stands after the first turn", where=where)
            continue
        if message.role != wanted:
            what = "the assistant speaks first" if wanted == "user" and number < 2 else f"the {message.role} speaks twice in a row"
            hint = "start with a user message, or use task.kind: text for plain text" if wanted == "user" else "join the two turns into one"
            raise RejectedRowError(what, where=where, hint=hint)
        if message.role == "user" and not message.text.strip() and not any(part.image for part in message.parts):
            raise RejectedRowError("a user's turn is empty", where=where)
        wanted = "assistant" if wanted == "user" else "user"
    if all(message.role == "system" for message in messages):
        raise RejectedRowError("the conversation has no user's turn", where=origin)


def _mark_longest(messages: list[Message]) -> tuple[Message, ...]:
    """Mark the user's longest text as the piece that may be shortened."""
    lengths = [
        (len(part.text), i, k) for i, message in enumerate(messages) if message.role == "user" for k, part in enumerate(message.parts)
    ]
    length, i, k = max(lengths)
    if not length:
        return tuple(messages)
    parts = list(messages[i].parts)
    parts[k] = Part("text", parts[k].text, shortenable=True)
    messages[i] = Message("user", tuple(parts))
    return tuple(messages)


def from_history(
    history: Any, system: str, question: str, answer: str | None, origin: str, find_image: FindImage, images: tuple[Path, ...] = ()
) -> tuple[Message, ...]:
    """A conversation from alpaca's ``history`` of (question, answer) pairs and the row's own question.

    Args:
        history: pairs of earlier turns, or None.
        system: the row's system message; none where empty.
        question: the last question.
        answer: the last answer, or None.
        origin: of the row.
        find_image: as ``read_messages`` takes it; for rows with images.
        images: of the row's own image column; without any, texts name none either.

    Returns:
        The conversation, the user's longest text marked as shortenable.

    Raises:
        RejectedRowError: the history is no list of pairs.
    """
    pairs = parsed(history) or []
    is_list = isinstance(pairs, list) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)
    if not is_list or not all(isinstance(text, str) for pair in pairs for text in pair):
        raise RejectedRowError("the history is not a list of [question, answer] pairs", where=origin)
    messages = [text_message("system", system)] if system else []
    for earlier, reply in pairs:
        messages += [text_message("user", earlier), text_message("assistant", reply)]
    messages.append(text_message("user", question))
    if answer is not None:
        messages.append(text_message("assistant", answer))
    if images:
        return read_messages([{"role": message.role, "content": message.text} for message in messages], origin, find_image, images)
    _refuse_disorder(messages, origin)
    return _mark_longest(messages)
