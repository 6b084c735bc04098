"""Finds the entities that an answer names in the text: offsets recovered, repeated mentions in the order of the text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weitiao.seams import Entity

NOTHING = "没有找到任何实体"
"""The answer for a text without entities."""
KEYS = {"entity_text": ("entity_text", "text", "entity", "name"), "entity_label": ("entity_label", "label", "type", "entity_type")}
"""Keys that are read, the trained one first."""

JSON_CHARACTER = r'(?:[^"\\\x00-\x1f]|\\["\\bfnrt]|\\u00[01][0-9a-f])'
"""A character inside a JSON string, written as ``json.dumps(text, ensure_ascii=False)`` writes it."""


def answer_pattern(labels: Sequence[str]) -> str:
    """What decoding may produce: one line per entity with a known label, or ``NOTHING``; every trained answer matches.

    Args:
        labels: the entity types; with none, any text is a label.

    Returns:
        A regular expression for the whole answer.
    """
    known = "|".join(re.escape(json.dumps(label, ensure_ascii=False)[1:-1]) for label in labels) or f"{JSON_CHARACTER}+"
    line = rf'\{{"entity_text": "{JSON_CHARACTER}+", "entity_label": "(?:{known})"\}}'
    return rf"{NOTHING}|{line}(?:\n{line})*"


def answer_lines(entities: Sequence[Mapping[str, Any]]) -> str:
    """The trained answer: one JSON object per entity and line, in the order of the text; ``NOTHING`` for none."""
    lines = [
        json.dumps({"entity_text": entity["text"], "entity_label": entity["label"]}, ensure_ascii=False)
        for entity in sorted(entities, key=lambda entity: (entity["start"], entity["end"]))
    ]
    return "\n".join(lines) or NOTHING


def as_reference(entities: Iterable[Entity]) -> list[dict[str, Any]]:
    """Entities in the form of a reference: each once, in the order of the text, without the white space around them (answers have none)."""
    spans = sorted({_trimmed(entity) for entity in entities if entity.surface.strip()})
    return [{"start": start, "end": end, "text": surface, "label": label} for start, end, surface, label in spans]


def _trimmed(entity: Entity) -> tuple[int, int, str, str]:
    start = entity.start + len(entity.surface) - len(entity.surface.lstrip())
    surface = entity.surface.strip()
    return start, start + len(surface), surface, entity.label


def mention(found: Mapping[str, Any]) -> tuple[str, str] | None:
    """Text and label of an answer's object; None where it has none."""
    surface = next((found[key] for key in KEYS["entity_text"] if key in found), None)
    label = next((found[key] for key in KEYS["entity_label"] if key in found), None)
    if not isinstance(surface, str) or not isinstance(label, str) or not surface.strip():
        return None
    return surface, label.strip()


@dataclass(frozen=True, slots=True)
class Located:
    """Mentions with their offsets, and what could not be placed."""

    spans: list[dict[str, Any]]
    """In the form of a reference, in the order of the text."""
    invented: list[str]
    """Texts that stand nowhere in the source."""
    repeated: list[str]
    """Texts that were named with one label oftener than they occur, once for each time too often."""


def locate(mentions: Sequence[tuple[str, str]], text: str) -> Located:
    """Give mentions their offsets.

    Answers go through the text from left to right, so a mention takes the first occurrence after the mention before it that no other
    mention covers (``中国`` is not sought inside ``中国银行`` when both are named); where there is none, any free one; where there is none,
    that of an earlier mention with another label.

    Args:
        mentions: (text, label) in the order of the answer.
        text: the source.

    Returns:
        The spans, and what was left over.
    """
    surfaces = [surface.strip() for surface, _ in mentions]
    occurrences = {surface: _occurrences(surface, text) for surface in surfaces}
    result = Located([], [], [])
    taken: dict[tuple[int, int], set[str]] = {}
    placed: set[str] = set()
    cursor = 0
    for surface, (_, label) in zip(surfaces, mentions, strict=True):
        longer = [span for other in occurrences if len(other) > len(surface) for span in occurrences[other]]
        clear = [span for span in occurrences[surface] if not _overlaps(span, [*taken, *longer])]
        # Inside another mention only where there is no other place for it; never for a text that was placed before.
        free = clear or ([span for span in occurrences[surface] if span not in taken] if surface not in placed else [])
        free = free or [span for span in occurrences[surface] if label not in taken.get(span, {label})]
        if not free:
            (result.repeated if occurrences[surface] else result.invented).append(surface)
            continue
        start, end = min(free, key=lambda span: (span[0] < cursor, span[0]))
        placed.add(surface)
        taken.setdefault((start, end), set()).add(label)
        cursor = start
        result.spans.append({"start": start, "end": end, "text": surface, "label": label})
    result.spans.sort(key=lambda entity: (entity["start"], entity["end"], entity["label"]))
    return result


def _overlaps(span: tuple[int, int], others: Iterable[tuple[int, int]]) -> bool:
    return any(start < span[1] and span[0] < end for start, end in others)


def _occurrences(surface: str, text: str) -> list[tuple[int, int]]:
    starts = []
    at = text.find(surface)
    while at != -1:
        starts.append((at, at + len(surface)))
        at = text.find(surface, at + 1)
    return starts
