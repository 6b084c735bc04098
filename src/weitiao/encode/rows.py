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

import numpy as np

from weitiao.encode.lengths import spread
from weitiao.encode.store import RowWriter
from weitiao.errors import RowError
from weitiao.log import progress
from weitiao.seams import Message, Rendered, Renderer, Sample

FACTS = "facts.json"
N_EXAMPLES = 3
WINDOW_ROWS, WINDOW_CHARACTERS = 1024, 500_000
"""Rows that are rendered together, as many as stay below both (of rows to be shortened, tokens count instead of characters)."""
FAILED = -2
"""Place of a sample that could not be rendered, and is listed with its reason already."""


class _Place(NamedTuple):
    """Where a sample's tokens lie, up to the last trained one: what follows that cannot change the loss."""

    start: int
    """In tokens; -1 where they were not kept, ``FAILED`` where there are none."""
    n_prompt: int
    """Tokens before the last answer; 0 for a document."""
    n_answer: int
    """Tokens of the last answer, its stop token included; all tokens of a document; 0 where the sample has no answer."""
    n_trained: int
    """Tokens of all answers."""
    picture_start: int
    """In bytes."""
    n_picture_bytes: int
    n_image_tokens: int
    """Tokens that stand for images."""


@dataclass(slots=True)
class _Tally:
    """What encoding did; the content of ``facts.json``."""

    max_prompt_tokens: int = 0
    n_supervised_tokens: int = 0
    n_shortened: int = 0
    n_dropped: int = 0
    dropped: dict[str, str] = field(default_factory=dict)
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    """(what, where, hint) of the first dropped samples."""
    shortened: list[str] = field(default_factory=list)
    """Origins of the first shortened samples."""
    lengths: dict[str, Any] = field(default_factory=dict)
    """Of the samples at full length in tokens: ``spread`` of them."""
    image_tokens: dict[str, Any] = field(default_factory=dict)
    """The same of the tokens that stand for images, in samples with images."""

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
    tally = _Tally()
    with RowWriter(folder) as writer:
        places = _render_all(samples, renderer, writer, max_tokens, tally)
        _describe_lengths(places, samples, tally)
        tally.max_prompt_tokens = _prompt_limit(places, max_tokens)
        with progress("shortening", sum(place.n_prompt > tally.max_prompt_tokens for place in _each(places))) as advance:
            for window, over in _windows_of_places(places, tally.max_prompt_tokens):
                lengths = [_place(places, index).n_prompt for index in over]
                rows = renderer.shortened([samples[index].messages for index in over], lengths, tally.max_prompt_tokens)
                fitted = dict(zip(over, rows, strict=True))
                for index in window:
                    _add(index, _place(places, index), fitted.get(index), samples, max_tokens, writer, tally)
                advance(len(over))
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


def _render_all(samples: Sequence[Sample], renderer: Renderer, writer: RowWriter, max_tokens: int, tally: _Tally) -> array:
    """Every conversation at full length; the places of their tokens, laid end to end."""
    places = array("q")
    with progress("tokenising", len(samples)) as advance:
        for window in _windows(samples):
            for sample, row in zip(window, _rendered(window, renderer), strict=True):
                if isinstance(row, RowError):
                    tally.drop(sample, row)
                    places.extend(_Place(FAILED, 0, 0, 0, 0, 0, 0))
                else:
                    # A prompt of max_tokens is over every limit: it is rendered again, whatever the limit turns out to be.
                    places.extend(_put(row, writer, below=max_tokens))
            advance(len(window))
    return places


def _rendered(window: Sequence[Sample], renderer: Renderer) -> list[Rendered | RowError]:
    """The conversations of a window, together; one by one where one of them cannot be rendered. A sample without answer has no tokens."""
    answered = [sample.messages for sample in window if sample.has_answer]
    rows: Iterator[Rendered | RowError]
    try:
        rows = iter(renderer.conversations(answered))
    except RowError:
        rows = (_rendered_alone(messages, renderer) for messages in answered)
    return [next(rows) if sample.has_answer else Rendered([], []) for sample in window]


def _rendered_alone(messages: Sequence[Message], renderer: Renderer) -> Rendered | RowError:
    try:
        return renderer.conversations([messages])[0]
    except RowError as error:
        return error


def _add(
    index: int,
    full: _Place,
    fitted: Rendered | RowError | None,
    samples: Sequence[Sample],
    max_tokens: int,
    writer: RowWriter,
    tally: _Tally,
) -> None:
    """Add the rows of a sample, or list it; ``fitted`` is its shortened form where it has one."""
    if full.start == FAILED:
        return
    try:
        if isinstance(fitted, RowError):
            raise fitted
        place = full if fitted is None else _put(fitted, writer)
        _refuse_what_does_not_fit(place, max_tokens)
    except RowError as error:
        tally.drop(samples[index], error)
        return
    if place.n_prompt < full.n_prompt:
        tally.n_shortened += 1
        if len(tally.shortened) < N_EXAMPLES:
            tally.shortened.append(samples[index].origin)
    tally.n_supervised_tokens += _add_rows(place, max_tokens, writer)


def _describe_lengths(places: array, samples: Sequence[Sample], tally: _Tally) -> None:
    """Note how long the samples are before anything is cut, and which is the longest."""
    table = np.frombuffer(places, np.int64).reshape(-1, len(_Place._fields))
    n_prompt, n_answer, n_image = (table[:, _Place._fields.index(name)] for name in ("n_prompt", "n_answer", "n_image_tokens"))
    for found, values in ((tally.lengths, n_prompt + n_answer), (tally.image_tokens, n_image)):
        if values.any():
            found.update(spread(values[values > 0]), at=samples[int(values.argmax())].origin)


def _place(places: array, index: int) -> _Place:
    width = len(_Place._fields)
    return _Place(*places[index * width : (index + 1) * width])


def _each(places: array) -> Iterator[_Place]:
    return (_place(places, index) for index in range(len(places) // len(_Place._fields)))


def _put(row: Rendered, writer: RowWriter, below: int | None = None) -> _Place:
    """Write a conversation's tokens, unless its prompt has ``below`` tokens or more."""
    end = row.trained_end
    n_prompt = next((i for i in range(end, 0, -1) if not row.trained[i - 1]), 0)
    counts = (n_prompt, end - n_prompt, sum(row.trained))
    n_image = sum(picture.n_tokens for picture in row.pictures)
    if below is not None and n_prompt >= below:
        return _Place(-1, *counts, 0, 0, n_image)
    return _Place(writer.put(row, end), *counts, *writer.put_pictures(row.pictures), n_image)


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


def _windows_of_places(places: array, limit: int) -> Iterator[tuple[range, list[int]]]:
    """Consecutive samples, and which of them have a prompt longer than ``limit``: those of a window are shortened together."""
    start = n_tokens = 0
    over: list[int] = []
    for index, place in enumerate(_each(places)):
        if place.n_prompt > limit:
            over.append(index)
            n_tokens += place.n_prompt
        if len(over) == WINDOW_ROWS or n_tokens >= WINDOW_CHARACTERS:
            yield range(start, index + 1), over
            start, n_tokens, over = index + 1, 0, []
    yield range(start, len(places) // len(_Place._fields)), over


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
