"""Samples to labelled rows. Every sample becomes a row, or is listed with the reason why not.

The prompt may take ``max_tokens`` less what the longest answer needs. That limit belongs to the run: evaluation and prediction shorten a
text by it too, so a text is cut at the same place whether its answer is known or not. The longest answer is known only when all rows
were rendered; so there are two passes, and only rows whose prompt exceeds the limit are rendered again.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from weitiao.encode.store import RowWriter
from weitiao.errors import RowError
from weitiao.log import progress
from weitiao.seams import Rendered, Renderer, Sample

FACTS = "facts.json"
N_EXAMPLES = 3
WINDOW_ROWS, WINDOW_CHARACTERS = 1024, 500_000
"""Rows that are rendered together, as many as stay below both."""


class _Place(NamedTuple):
    """Where a sample's tokens lie, up to the last trained one: what follows that cannot change the loss."""

    start: int
    """In tokens; -1 where they were not kept."""
    n_prompt: int
    """Tokens before the last answer; 0 for a document."""
    n_answer: int
    """Tokens of the last answer, its stop token included; all tokens of a document; 0 where the sample has no answer."""
    n_trained: int
    """Tokens of all answers."""
    picture_start: int
    """In bytes."""
    n_picture_bytes: int


@dataclass(slots=True)
class _Tally:
    """What encoding did; the content of ``facts.json``."""

    max_prompt_tokens: int
    n_supervised_tokens: int = 0
    n_shortened: int = 0
    n_dropped: int = 0
    dropped: dict[str, str] = field(default_factory=dict)
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    """(what, where, hint) of the first dropped samples."""

    def drop(self, sample: Sample, error: RowError) -> None:
        self.n_dropped += 1
        self.dropped[sample.id] = f"{sample.origin}: {error.what}"
        if len(self.examples) < N_EXAMPLES:
            self.examples.append((error.what, sample.origin, error.hint))


def write_rows(samples: Sequence[Sample], renderer: Renderer, max_tokens: int, folder: Path) -> None:
    """Render samples and write their rows and ``facts.json`` into a folder, in memory that hardly grows with their number.

    Args:
        samples: a sample that is one assistant message is a document, cut into rows of ``max_tokens``.
        renderer: makes the tokens.
        max_tokens: longest row.
        folder: an empty one.
    """
    with RowWriter(folder) as writer:
        places = _render_all(samples, renderer, writer, max_tokens)
        tally = _Tally(_prompt_limit(places, max_tokens))
        with progress("shortening", sum(place.n_prompt > tally.max_prompt_tokens for place in _each(places))) as advance:
            for index, full in enumerate(_each(places)):
                try:
                    place = full
                    if full.n_prompt > tally.max_prompt_tokens:
                        advance(1)
                        place = _put(renderer.conversation(samples[index].messages, tally.max_prompt_tokens), writer)
                    _refuse_what_does_not_fit(place, max_tokens)
                except RowError as error:
                    tally.drop(samples[index], error)
                else:
                    tally.n_shortened += place.n_prompt < full.n_prompt
                    tally.n_supervised_tokens += _add_rows(place, max_tokens, writer)
    facts = {name: getattr(tally, name) for name in _Tally.__slots__}
    (folder / FACTS).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """What ``write_rows`` did.

    Args:
        folder: that it wrote.

    Returns:
        Its counts, the dropped samples, and the first of them in full.
    """
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return facts


def _render_all(samples: Sequence[Sample], renderer: Renderer, writer: RowWriter, max_tokens: int) -> array:
    """Every conversation at full length; the places of their tokens, laid end to end."""
    places = array("q")
    with progress("tokenising", len(samples)) as advance:
        for window in _windows(samples):
            rendered = iter(renderer.conversations([sample.messages for sample in window if sample.has_answer]))
            for sample in window:
                row = next(rendered) if sample.has_answer else Rendered([], [])
                # A prompt of max_tokens is over every limit: it is rendered again, whatever the limit turns out to be.
                places.extend(_put(row, writer, below=max_tokens))
            advance(len(window))
    return places


def _each(places: array) -> Iterator[_Place]:
    width = len(_Place._fields)
    return (_Place(*places[i : i + width]) for i in range(0, len(places), width))


def _put(row: Rendered, writer: RowWriter, below: int | None = None) -> _Place:
    """Write a conversation's tokens, unless its prompt has ``below`` tokens or more."""
    end = next((i for i in range(len(row.trained), 0, -1) if row.trained[i - 1]), 0)
    n_prompt = next((i for i in range(end, 0, -1) if not row.trained[i - 1]), 0)
    counts = (n_prompt, end - n_prompt, sum(row.trained))
    if below is not None and n_prompt >= below:
        return _Place(-1, *counts, 0, 0)
    return _Place(writer.put(row, end), *counts, *writer.put_pictures(row.pictures))


def _windows(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    window: list[Sample] = []
    n_characters = 0
    for sample in samples:
        window.append(sample)
        n_characters += sum(len(part.text) for message in sample.messages for part in message.parts)
        if len(window) == WINDOW_ROWS or n_characters >= WINDOW_CHARACTERS:
            yield window
            window, n_characters = [], 0
    if window:
        yield window


def _prompt_limit(places: array, max_tokens: int) -> int:
    """``max_tokens`` less the longest answer, but never less than half of it; documents have no prompt and do not count."""
    longest = max((place.n_answer for place in _each(places) if place.n_prompt), default=0)
    return max_tokens - min(longest, max_tokens // 2)


def _refuse_what_does_not_fit(place: _Place, max_tokens: int) -> None:
    if not place.n_answer:
        raise RowError("the row has no answer to learn from", hint="give it one, or leave it out")
    if place.n_prompt and place.n_prompt + place.n_answer > max_tokens:
        raise RowError(
            f"the answer has {place.n_answer} tokens and the shortened prompt {place.n_prompt}, more than the {max_tokens} allowed",
            hint="raise encode.max_tokens",
        )


def _add_rows(place: _Place, max_tokens: int, writer: RowWriter) -> int:
    """One row for a conversation, several for a long document; returns the trained tokens in them."""
    pictures = (place.picture_start, place.n_picture_bytes)
    if place.n_prompt:
        writer.add_row(place.start, place.n_prompt + place.n_answer, pictures)
        return place.n_trained
    lengths = [min(max_tokens, place.n_answer - start) for start in range(0, place.n_answer, max_tokens)]
    for number, length in enumerate(lengths):
        if length > 1:
            writer.add_row(place.start + number * max_tokens, length, pictures)
    return sum(length for length in lengths if length > 1)
