"""Entities of a text: offsets as people write them, and BIO tags beside tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weitiao.data.rows import RejectedRowError
from weitiao.data.values import parsed
from weitiao.seams import Entity

STARTS = ("start_idx", "start", "start_offset", "begin")
ENDS = ("end_idx", "end", "end_offset")
LABELS = ("entity_label", "label", "type", "entity_type", "entity", "tag")
SURFACES = ("entity_text", "text", "word", "surface", "value")


def read_entities(value: Any, text: str, origin: str, *, ends_inclusive: bool) -> tuple[Entity, ...]:
    """Entities with offsets into a text.

    Args:
        value: a list of objects with start, end and label, or of ``[start, end, label]``, or that list as JSON text.
        text: the row's text.
        origin: of the row.
        ends_inclusive: whether this file's ends name the last character instead of the one after it.

    Returns:
        The entities in the order of the file.

    Raises:
        RejectedRowError: an item is no entity, or its offsets do not fit the text.
    """
    items = parsed(value)
    if items is None or items == "":
        return ()
    if not isinstance(items, list | tuple):
        raise RejectedRowError("the entities are not a list", where=origin)
    return tuple(_entity(item, text, origin, ends_inclusive) for item in items)


def has_inclusive_ends(rows: Sequence[tuple[Any, str]]) -> bool:
    """Whether every entity that names its surface fits only when its end counts as the last character.

    Args:
        rows: (entities, text) of the first rows.

    Returns:
        False where nothing tells, or where any entity fits with its end exclusive.
    """
    n_inclusive = 0
    for value, text in rows:
        items = parsed(value)
        for item in items if isinstance(items, list) else ():
            fields = _fields(item)
            if fields is None or not fields[2]:
                continue
            start, end, surface, _ = fields
            if text[start:end] == surface:
                return False
            n_inclusive += text[start : end + 1] == surface
    return n_inclusive > 0


def _fields(item: Any) -> tuple[int, int, str, str] | None:
    if isinstance(item, list | tuple) and len(item) >= 3:
        start, end, label = item[:3]
        surface = ""
    elif isinstance(item, Mapping):
        start, end, label = (next((item[key] for key in keys if item.get(key) is not None), None) for keys in (STARTS, ENDS, LABELS))
        surface = next((item[key] for key in SURFACES if isinstance(item.get(key), str)), "")
    else:
        return None
    if isinstance(start, float) and start.is_integer() and isinstance(end, float) and end.is_integer():
        start, end = int(start), int(end)
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if not isinstance(start, int) or not isinstance(end, int) or not isinstance(label, str) or not label.strip():
        return None
    return start, end, surface, label.strip()


def _entity(item: Any, text: str, origin: str, ends_inclusive: bool) -> Entity:
    fields = _fields(item)
    if fields is None:
        hint = "an entity is {start_idx, end_idx, entity_text, entity_label} or [start, end, label]"
        raise RejectedRowError("an entity lacks start, end or label", where=origin, detail=repr(item)[:80], hint=hint)
    start, end, surface, label = fields
    end += ends_inclusive
    if not 0 <= start < end <= len(text):
        raise RejectedRowError("entity offsets lie outside the text", where=origin, detail=f"{start} to {end} of {len(text)} characters")
    found = text[start:end]
    if surface and surface != found:
        where_it_is = text.find(surface)
        hint = f"the text has it at {where_it_is}" if where_it_is >= 0 else "it stands nowhere in the text"
        detail = f"`{found}` stands at {start} to {end}, not `{surface}`"
        raise RejectedRowError("entity offsets do not match the text", where=origin, detail=detail, hint=hint)
    return Entity(start, end, found, label)


def read_bio(tokens: Sequence[str], tags: Sequence[str], origin: str) -> tuple[str, tuple[Entity, ...]]:
    """A text and its entities from tokens with BIO, BIOES or BMES tags.

    Args:
        tokens: at least one.
        tags: as many; ``O``, or a prefix, a hyphen or underscore, and the type.
        origin: of the row.

    Returns:
        The tokens joined, with a blank only between two that are written with one, and the entities.

    Raises:
        RejectedRowError: tokens and tags differ in number, or a tag has no known prefix.
    """
    if len(tokens) != len(tags):
        raise RejectedRowError("tokens and tags differ in number", where=origin, detail=f"{len(tokens)} tokens, {len(tags)} tags")
    text, starts = "", []
    for token in tokens:
        if text and _needs_blank(text[-1], token[:1]):
            text += " "
        starts.append(len(text))
        text += token
    entities: list[Entity] = []
    opened: tuple[int, str] | None = None
    end = 0
    for token, tag, start in zip(tokens, tags, starts, strict=True):
        prefix, label = _split_tag(tag, origin)
        continues = opened is not None and prefix in "IMEL" and label == opened[1]
        if opened is not None and not continues:
            entities.append(Entity(opened[0], end, text[opened[0] : end], opened[1]))
            opened = None
        if prefix != "O" and not continues:
            opened = (start, label)
        end = start + len(token)
        if opened is not None and prefix in "ESLU":
            entities.append(Entity(opened[0], end, text[opened[0] : end], opened[1]))
            opened = None
    if opened is not None:
        entities.append(Entity(opened[0], end, text[opened[0] : end], opened[1]))
    return text, tuple(entities)


def _split_tag(tag: str, origin: str) -> tuple[str, str]:
    if tag in ("O", "o", "0"):
        return "O", ""
    prefix, mark, label = tag[:1].upper(), tag[1:2], tag[2:]
    if prefix not in "BIESMLU" or mark not in ("-", "_") or not label:
        raise RejectedRowError("a tag is not in BIO form", where=origin, detail=f"`{tag}`", hint="tags are O, B-TYPE and I-TYPE")
    return prefix, label


def _needs_blank(before: str, after: str) -> bool:
    """Blanks stand between words of letters and digits of scripts that use them."""
    return before < "\u2e80" and after < "\u2e80" and (before.isalnum() or before in ",.;:!?)") and (after.isalnum() or after in "(")
