"""What reading prompts with images needs besides their tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from weitiao.infer.batches import Prompt
from weitiao.infer.spans import Span
from weitiao.seams import Vision


def prompt_span(
    vision: Vision | None, prompt: Prompt, slot: int, n_read: int, tree: Sequence[int] = (), parents: Sequence[int] = ()
) -> Span:
    """A row's whole prompt as a span, after what is read already.

    Args:
        vision: of the model; None for a text model.
        prompt: with or without images.
        slot: of the row.
        n_read: tokens at the start that were read before; they hold no image.
        tree: tokens that hang below the prompt.
        parents: theirs; see ``Span``.

    Returns:
        The span.
    """
    token_ids = [*prompt.token_ids[n_read:], *tree]
    if vision is None or not prompt.pictures:
        return Span(slot, n_read, token_ids, parents)
    places_3N, shift = prompt_positions(vision, prompt)
    return Span(slot, n_read, token_ids, parents, shift, places_3N[:, n_read:], prompt.pictures)


def prompt_positions(vision: Vision, prompt: Prompt) -> tuple[Tensor, int]:
    """Positions of a prompt with images, (3, N), and how far those of its answer lie behind their columns."""
    places_3N = vision.positions(prompt.token_ids, (len(prompt.token_ids),), prompt.pictures)
    return places_3N, int(places_3N.max()) + 1 - len(prompt.token_ids)


def before_pictures(vision: Vision | None, token_ids: Sequence[int]) -> list[int]:
    """What of a shared beginning holds no image: equal placeholders may stand for different ones.

    Args:
        vision: of the model; None for a text model.
        token_ids: the beginning.

    Returns:
        Its tokens before the first placeholder.
    """
    kept = list(token_ids)
    return kept if vision is None or vision.placeholder_id not in kept else kept[: kept.index(vision.placeholder_id)]
