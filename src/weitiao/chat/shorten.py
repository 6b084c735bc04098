"""Which piece of a conversation may be shortened, and where a text is cut: between whole characters, at either end or in the middle.

As many tokens of the text stay as the prompt without it leaves room for, and fewer while the outcome is still too long. Prompts are
shortened together, on all cores; of a long text only so much is tokenised as can stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from weitiao.seams import Message, Part

Keep = Literal["head", "tail", "head_tail"]
Spans = Sequence[tuple[int, int]]
"""Of each token of a text: the characters that it stands for."""
ELLIPSIS = "…"
"""Stands where the middle of a text was taken out."""
N_UNSURE = 16
"""Tokens at the cut end of an excerpt that may be others than in the whole text."""


@dataclass(frozen=True)
class Excerpt:
    """A text's beginning or end, and the places at which it can be cut."""

    text: str
    spans: Spans

    @cached_property
    def _bounds(self) -> np.ndarray:
        return np.array(self.spans, np.int64).reshape(-1, 2)

    @cached_property
    def _cuts(self) -> np.ndarray:
        """Character positions between two tokens, never within a character (a character may be several tokens)."""
        ends, starts = self._bounds[:-1, 1], self._bounds[1:, 0]
        return np.concatenate([[0], ends[starts >= ends], [len(self.text)]])

    def head(self, n_tokens: int) -> str:
        """The characters of the first tokens, at most all of them."""
        end = self._bounds[n_tokens - 1, 1] if n_tokens else 0
        return self.text[: int(self._cuts[self._cuts <= end].max())]

    def tail(self, n_tokens: int) -> str:
        """The characters of the last tokens, at most all of them."""
        start = self._bounds[-n_tokens, 0] if n_tokens else len(self.text)
        return self.text[int(self._cuts[self._cuts >= start].min()) :]


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
    n_others = count(list(found), [with_text(prompts[i], found[i], "") for i in found])
    n_kept = {i: max_tokens - n for i, n in zip(found, n_others, strict=True) if n <= max_tokens}
    over = list(n_kept)
    token_characters = {i: len(texts[i]) / max(1, lengths[i] - n) for i, n in zip(found, n_others, strict=True)}
    ends = _ends({i: texts[i] for i in over}, n_kept, token_characters, keep, spans_of)
    for i in over:
        # The whole text is too long, whatever its tokens are where it stands alone.
        n_kept[i] = min([n_kept[i], *(len(end.spans) - 1 for end in ends[i] if end.text == texts[i])])
    while over:
        fitted = [with_text(prompts[i], found[i], _joined(*ends[i], *_shares(n_kept[i], keep))) for i in over]
        for i, length in zip(over, count(over, fitted), strict=True):
            lengths[i] = length
        over = [i for i in over if lengths[i] > max_tokens]
        for i in over:
            n_kept[i] -= lengths[i] - max_tokens
        over = [i for i in over if n_kept[i] >= 0]
    return lengths


def lost_text(prompt: Sequence[Message], shortened: Sequence[Message], answer: str) -> str | None:
    """A text that a JSON answer quotes and that was cut off with the prompt: learnt, it would be made up.

    Args:
        prompt: the turns before the answer.
        shortened: the same, one piece shortened.
        answer: anything; one that is no JSON object or list quotes nothing.

    Returns:
        The first text value of the answer that stands in the prompt and no longer in what is left of it; None where there is none.
    """
    if not answer.lstrip().startswith(("{", "[")):
        return None
    try:
        quoted = list(_texts_in(json.loads(answer)))
    except ValueError:
        return None
    before, after = ("\n".join(message.text for message in messages) for messages in (prompt, shortened))
    return next((text for text in quoted if text in before and text not in after), None)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(each)


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


def _shares(n_kept: int, keep: Keep) -> tuple[int, int]:
    """Tokens that stay at the beginning and at the end of a text."""
    if keep == "tail":
        return 0, n_kept
    if keep == "head" or n_kept < 3:
        return n_kept, 0
    n_head = (n_kept - 1) * 2 // 3
    return n_head, n_kept - 1 - n_head


def _joined(start: Excerpt, end: Excerpt, n_head: int, n_tail: int) -> str:
    return start.head(n_head) + (ELLIPSIS if n_head and n_tail else "") + end.tail(n_tail)


def _ends(
    texts: Mapping[int, str],
    n_kept: Mapping[int, int],
    token_characters: Mapping[int, float],
    keep: Keep,
    spans_of: Callable[[Sequence[str]], Sequence[Spans]],
) -> dict[int, tuple[Excerpt, Excerpt]]:
    """Of each text so much of its beginning and its end as holds the tokens that may stay there."""
    shares = {i: _shares(n_kept[i], keep) for i in texts}
    both = []
    for side, take in enumerate((_beginning, _ending)):
        n_characters = {i: int(1.1 * shares[i][side] * token_characters[i]) + 2 * N_UNSURE for i in texts}
        found = {i: Excerpt("", ()) for i in texts if not shares[i][side]}
        while left := [i for i in texts if i not in found]:
            pieces = [take(texts[i], n_characters[i]) for i in left]
            for i, piece, spans in zip(left, pieces, spans_of(pieces), strict=True):
                if piece == texts[i] or len(spans) >= shares[i][side] + N_UNSURE:
                    found[i] = Excerpt(piece, spans)
                n_characters[i] *= 2
        both.append(found)
    return {i: (both[0][i], both[1][i]) for i in texts}


def _beginning(text: str, n_characters: int) -> str:
    return text[:n_characters]


def _ending(text: str, n_characters: int) -> str:
    return text[max(0, len(text) - n_characters) :]
