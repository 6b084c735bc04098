"""Which piece of a conversation may be shortened, and where a text is cut: between whole characters, at either end or in the middle.

Prompts are shortened together, so that each text is tokenised once for its places to cut at, and on all cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from weitiao.seams import Message, Part

Keep = Literal["head", "tail", "head_tail"]
Spans = Sequence[tuple[int, int]]
"""Of each token of a text: the characters that it stands for."""
ELLIPSIS = "…"
"""Stands where the middle of a text was taken out."""


def fit_prompts(
    prompts: Sequence[Sequence[Message]],
    lengths: Sequence[int],
    max_tokens: int,
    keep: Keep,
    spans_of: Callable[[Sequence[str]], Sequence[Spans]],
    count: Callable[[Sequence[int], Sequence[Sequence[Message]]], Sequence[int]],
) -> list[int]:
    """Shorten the longest shortenable piece of each prompt until the prompt fits.

    Args:
        prompts: the turns before an answer.
        lengths: tokens of each.
        max_tokens: longest allowed prompt.
        keep: which end of a text stays.
        spans_of: the tokens of texts, each text by itself.
        count: takes shortened prompts with their numbers and tells their tokens; what it was given last of a prompt is the outcome.

    Returns:
        Tokens of each: more than ``max_tokens`` where too much of a prompt may not be shortened.
    """
    lengths = list(lengths)
    places = {i: longest_shortenable(prompts[i]) for i in range(len(prompts)) if lengths[i] > max_tokens}
    found = {i: place for i, place in places.items() if place is not None}
    texts = {i: prompts[i][message].parts[part].text for i, (message, part) in found.items()}
    spans = dict(zip(texts, spans_of(list(texts.values())), strict=True))
    n_kept = {i: len(spans[i]) for i in spans}
    over = list(spans)
    while over:
        for i in over:
            n_kept[i] -= lengths[i] - max_tokens
        over = [i for i in over if n_kept[i] >= 0]
        fitted = [with_text(prompts[i], found[i], shortened(texts[i], spans[i], n_kept[i], keep)) for i in over]
        for i, length in zip(over, count(over, fitted), strict=True):
            lengths[i] = length
        over = [i for i in over if lengths[i] > max_tokens]
    return lengths


def longest_shortenable(messages: Sequence[Message]) -> tuple[int, int] | None:
    """Place of the longest shortenable piece as (message, part); None where nothing may be shortened."""
    places = [(i, j) for i, message in enumerate(messages) for j, part in enumerate(message.parts) if part.shortenable and part.text]
    return max(places, key=lambda place: len(messages[place[0]].parts[place[1]].text), default=None)


def with_text(messages: Sequence[Message], place: tuple[int, int], text: str) -> list[Message]:
    """The messages with another text at ``place``."""
    i, j = place
    parts: list[Part] = list(messages[i].parts)
    parts[j] = replace(parts[j], text=text)
    return [*messages[:i], replace(messages[i], parts=tuple(parts)), *messages[i + 1 :]]


def shortened(text: str, spans: Spans, n_kept: int, keep: Keep) -> str:
    """``n_kept`` of the text's tokens by character spans; never half a character (a character may be several tokens)."""
    bounds = np.array(spans, np.int64).reshape(-1, 2)
    ends, starts = bounds[:-1, 1], bounds[1:, 0]
    cuts = np.concatenate([[0], ends[starts >= ends], [len(text)]])
    """Character positions at which the text can be cut between two tokens."""

    def head(n: int) -> str:
        return text[: int(cuts[cuts <= (bounds[n - 1, 1] if n else 0)].max())]

    def tail(n: int) -> str:
        return text[int(cuts[cuts >= (bounds[-n, 0] if n else len(text))].min()) :]

    if keep == "head":
        return head(n_kept)
    if keep == "tail":
        return tail(n_kept)
    n_head = (n_kept - 1) * 2 // 3
    if n_kept < 3:
        return head(n_kept)
    return head(n_head) + ELLIPSIS + tail(n_kept - 1 - n_head)
