"""Where an answer differs from the truth, marked letter by letter or item by item."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape
from rapidfuzz.distance import Levenshtein

from weitiao.report.wording import as_text, label, number

MAX_COMPARED = 1500
"""Characters of a text that are compared; the rest is shown as it is, cut at ``MAX_SHOWN``."""
MAX_SHOWN = 2000
ALIKE = 0.3
"""Below this likeness a difference shown letter by letter would be noise: the whole answer is marked instead."""

Columns = tuple[str, Markup, Markup | None, Markup | None]


def compare_values(reference: Any, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Iterator[Columns]:
    """Put the truth and both answers next to each other.

    Args:
        reference: the truth in the task's own form.
        before: answers row of the base model, None where it has none.
        after: answers row of the tuned model, None where it has none.

    Yields:
        Name of the value, truth, base, tuned; one line per field where the truth is an object, otherwise a single line.
    """
    if isinstance(reference, Mapping):
        for name, wanted in reference.items():
            yield str(name), escape(_cut(as_text(wanted))), _field(wanted, name, before), _field(wanted, name, after)
    elif _is_entities(reference):
        yield "", _chips(reference, None, "wanted"), _entities(reference, before), _entities(reference, after)
    elif isinstance(reference, Sequence) and not isinstance(reference, str):
        shown = Markup("<br>").join(escape(as_text(item)) for item in reference)
        yield "", shown, _unmarked(before), _unmarked(after)
    else:
        wanted = as_text(reference)
        yield "", escape(_cut(wanted)), _marked(wanted, before), _marked(wanted, after)


def _unmarked(side: Mapping[str, Any] | None) -> Markup | None:
    return None if side is None else escape(_cut(_said(side)))


def _marked(wanted: str, side: Mapping[str, Any] | None) -> Markup | None:
    if side is None:
        return None
    return escape(_said(side)) if isinstance(side.get("prediction"), Mapping) else mark(wanted, _said(side))


def mark(wanted: str, got: str) -> Markup:
    """A text with what is surplus (``ins``) and what is missing (``del``) against the wanted one.

    Args:
        wanted: the truth.
        got: the answer.

    Returns:
        The answer as HTML; texts that have little in common are marked as a whole.
    """
    if wanted == got:
        return Markup('<span class="same">{}</span>').format(_cut(got))
    ours, theirs = _pieces(wanted[:MAX_COMPARED]), _pieces(got[:MAX_COMPARED])
    if Levenshtein.normalized_similarity(ours, theirs) < ALIKE:
        return Markup('<span class="other">{}</span>').format(_cut(got))
    parts = []
    for step in Levenshtein.opcodes(ours, theirs):
        missing = "".join(ours[step.src_start : step.src_end])
        surplus = "".join(theirs[step.dest_start : step.dest_end])
        if step.tag == "equal":
            parts.append(escape(surplus))
            continue
        if missing:
            parts.append(Markup("<del>{}</del>").format(missing))
        if surplus:
            parts.append(Markup("<ins>{}</ins>").format(surplus))
    return Markup("").join([*parts, escape(_cut(got[MAX_COMPARED:]))])


def _pieces(text: str) -> list[str]:
    """Words of Latin letters, numbers, commands, and single signs of everything else."""
    return re.findall(r"\\?[A-Za-z]+|[0-9]+|\s+|.", text, re.DOTALL)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} … ({len(text):,} characters)"


def _said(side: Mapping[str, Any]) -> str:
    """What was read from an answer, or the answer itself where nothing could be read."""
    value = side.get("prediction")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return as_text("\n".join(value))
    if isinstance(value, Mapping) and value and all(isinstance(item, (int, float)) for item in value.values()):
        return ", ".join(f"{label(name)} {number(item)}" for name, item in value.items())
    return as_text(side.get("answer") if value is None else value)


def _field(wanted: Any, name: str, side: Mapping[str, Any] | None) -> Markup | None:
    if side is None:
        return None
    value = side.get("prediction")
    if not isinstance(value, Mapping):
        return Markup('<span class="other">{}</span>').format(_cut(_said(side)))
    return mark(as_text(wanted), as_text(value.get(name)))


def _is_entities(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) and _surface(item) is not None for item in value)


def _surface(entity: Mapping[str, Any]) -> Any:
    return entity.get("text")


def _key(entity: Mapping[str, Any]) -> tuple[Any, ...]:
    return (entity.get("start"), entity.get("end"), _surface(entity), entity.get("label"))


def _entities(reference: Sequence[Mapping[str, Any]], side: Mapping[str, Any] | None) -> Markup | None:
    if side is None:
        return None
    found = side.get("prediction")
    if not isinstance(found, list) or not _is_entities(found):
        return Markup('<span class="other">{}</span>').format(_cut(_said(side)))
    wanted_keys, found_keys = {_key(item) for item in reference}, {_key(item) for item in found}
    surplus = _chips(found, wanted_keys, "surplus")
    return surplus + _chips([item for item in reference if _key(item) not in found_keys], None, "missed")


def _chips(entities: Sequence[Mapping[str, Any]], wanted: set[tuple[Any, ...]] | None, style: str) -> Markup:
    if not entities:
        return Markup('<span class="quiet">none</span>') if style != "missed" else Markup("")
    chips = []
    for entity in entities:
        *_, surface, kind = _key(entity)
        shown = "right" if wanted is not None and _key(entity) in wanted else style
        chips.append(Markup('<span class="chip {}">{} <small>{}</small></span> ').format(shown, as_text(surface), as_text(kind)))
    return Markup("").join(chips)
