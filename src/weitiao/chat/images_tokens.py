"""Images in a conversation's tokens: what the chat template gets of them, and the placeholders that stand for them.

The template writes one placeholder for an image, between ``<|vision_start|>`` and ``<|vision_end|>``; it stands as often as the image
has tokens. What users and answers write is never a placeholder: the renderer tokenises control tokens in their text as letters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from weitiao.errors import ModelError
from weitiao.seams import Message, Picture, Rendered

PLACEHOLDER = "<|image_pad|>"


def template_content(message: Message, guard: Callable[[str], str]) -> str | list[dict[str, str]]:
    """What the template gets of a message.

    Args:
        message: any.
        guard: marks control tokens in text.

    Returns:
        Text; for a message with images the list of pieces that the templates of vision models know.
    """
    if all(part.kind == "text" for part in message.parts):
        return guard(message.text)
    return [{"type": part.kind} | ({"text": guard(part.text)} if part.kind == "text" else {}) for part in message.parts]


def with_pictures(row: Rendered, pictures: tuple[Picture, ...], placeholder_id: int) -> Rendered:
    """Repeat each placeholder as often as its picture has tokens.

    Args:
        row: tokens with one placeholder per picture.
        pictures: in their order.
        placeholder_id: token of ``PLACEHOLDER``.

    Returns:
        The row with its pictures.

    Raises:
        ModelError: the template wrote another number of placeholders.
    """
    n_written = row.input_ids.count(placeholder_id)
    if n_written != len(pictures):
        raise ModelError(f"the chat template wrote {n_written} places for {len(pictures)} images", hint="use the model's own template")
    sizes = iter(pictures)
    counts = [next(sizes).n_tokens if token == placeholder_id else 1 for token in row.input_ids]
    input_ids = [token for token, count in zip(row.input_ids, counts, strict=True) for _ in range(count)]
    trained = [on for on, count in zip(row.trained, counts, strict=True) for _ in range(count)]
    return replace(row, input_ids=input_ids, trained=trained, pictures=pictures)


def tokens_of_images(pictures: Sequence[Picture]) -> str:
    """Words for an error: how many of a row's tokens are images'; nothing without images."""
    sizes = ", ".join(f"{picture.n_tokens} ({picture.path.name})" for picture in pictures)
    return f", of which images take {sizes}" if sizes else ""
