"""Which piece of a conversation may be shortened, and where a text is cut: between whole characters, at either end or in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from weitiao.seams import Message, Part

Keep = Literal["head", "tail", "head_tail"]
ELLIPSIS = "…"
"""Stands where the middle of a text was taken out."""


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


def shortened(text: str, spans: Sequence[tuple[int, int]], n_kept: int, keep: Keep) -> str:
    """``n_kept`` of the text's tokens by character spans; never half a character (a character may be several tokens)."""
    whole = [0, *(a[1] for a, b in pairwise(spans) if b[0] >= a[1]), len(text)]
    """Character positions at which the text can be cut between two tokens."""

    def head(n: int) -> str:
        return text[: max(cut for cut in whole if cut <= (spans[n - 1][1] if n else 0))]

    def tail(n: int) -> str:
        return text[min(cut for cut in whole if cut >= (spans[-n][0] if n else len(text))) :]

    if keep == "head":
        return head(n_kept)
    if keep == "tail":
        return tail(n_kept)
    n_head = (n_kept - 1) * 2 // 3
    if n_kept < 3:
        return head(n_kept)
    return head(n_head) + ELLIPSIS + tail(n_kept - 1 - n_head)
