"""Row shapes: which columns a shape needs, how it is told from the first rows, and what is said when none fits.

A new shape goes into ``SHAPES`` and into the kinds of work that can use it in ``SHAPES_OF_KIND``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from weitiao.data.conversations import IMAGE_PATH
from weitiao.data.values import is_missing, parsed
from weitiao.errors import DataError
from weitiao.recipe import nearest_name
from weitiao.recipe.sections import TruthColumn

Columns = Mapping[str, tuple[str, ...]]
"""Field -> names that its column may have, most usual first."""

TEXTS = ("text", "content", "sentence", "document", "article", "body", "review", "title")
ANSWERS = ("answer", "output", "completion", "response", "target", "json", "result")
IMAGE_NAMES = ("image", "image_path", "img", "image_file", "file_name", "image_name", "picture", "img_path")
TRUTHS = frozenset(get_args(TruthColumn))
"""Fields that rows may lack when they are only to be answered."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A way in which people lay out rows."""

    name: str
    needs: Columns
    takes: Columns = field(default_factory=dict)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("messages", {"messages": ("messages",)}, {"system": ("system",), "image": ("images",)}),
        Shape("sharegpt", {"messages": ("conversations", "conversation")}, {"system": ("system",), "image": ("images", "image")}),
        Shape(
            "alpaca",
            {"instruction": ("instruction",), "answer": ("output",)},
            {"text": ("input",), "system": ("system",), "history": ("history",), "image": ("images",)},
        ),
        Shape(
            "prompt-completion",
            {"text": ("prompt", "question", "query"), "answer": ("completion", "response", "answer", "chosen")},
            {"system": ("system",)},
        ),
        Shape("text-answer", {"text": (*TEXTS, "input"), "answer": ANSWERS}, {"instruction": ("instruction",), "system": ("system",)}),
        Shape(
            "labelled-text",
            {"text": (*TEXTS, "input"), "label": ("label", "output", "category", "class", "topic", "answer", "target", "labels")},
            {"candidates": ("candidates", "category", "categories", "choices", "options"), "system": ("system",)},
        ),
        Shape(
            "multi-label-text",
            {"text": (*TEXTS, "input"), "labels": ("labels", "label", "output", "categories", "topics")},
            {"candidates": ("candidates", "category", "choices", "options"), "system": ("system",)},
        ),
        Shape("entities", {"text": TEXTS, "entities": ("entities", "spans", "label", "labels")}, {"system": ("system",)}),
        Shape(
            "bio",
            {"tokens": ("tokens", "words", "text"), "tags": ("ner_tags", "tags", "labels", "bio", "label")},
            {"system": ("system",)},
        ),
        Shape(
            "image-text",
            {"image": IMAGE_NAMES, "answer": ("latex", "formula", "text", "caption", *ANSWERS, "label", "ground_truth", "transcription")},
            {"text": ("question", "prompt"), "system": ("system",)},
        ),
        Shape("image-captions", {"image": IMAGE_NAMES, "captions": ("captions", "caption", "sentences", "texts")}, {"system": ("system",)}),
        Shape("text", {"text": TEXTS}),
    )
}
"""Every row shape, by its name."""

SHAPES_OF_KIND: dict[str, tuple[str, ...]] = {
    "extraction": ("alpaca", "text-answer", "prompt-completion", "messages", "sharegpt"),
    "classification": ("labelled-text", "multi-label-text", "alpaca", "prompt-completion", "messages", "sharegpt"),
    "ner": ("entities", "bio"),
    "ocr": ("image-text", "messages", "sharegpt"),
    "caption": ("image-captions", "image-text", "messages", "sharegpt"),
    "chat": ("messages", "sharegpt", "alpaca", "prompt-completion", "text-answer"),
    "text": ("text",),
}
"""Shapes in the order in which they are tried for a kind of work."""

SEEING = frozenset({"chat", "ocr", "caption"})
"""Kinds of work whose rows may have an image beside what their shape needs; in others a column of that name may be anything."""

PLAINEST: dict[str, tuple[str, ...]] = {
    "extraction": ("text-answer",),
    "classification": ("labelled-text",),
    "ner": ("entities", "bio"),
    "ocr": ("image-text",),
    "caption": ("image-text",),
    "chat": ("prompt-completion",),
    "text": ("text",),
}
"""The shapes that a mapping line is proposed for when none fits, in the order in which they are tried."""

ALWAYS = {"id": ("id",)}
LISTS = frozenset({"messages", "history", "entities", "labels", "captions", "candidates", "tokens", "tags"})
TAG = re.compile(r"O|[BIESM]-.+")
"""A tag of BIO, BIOES or BMES."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """A shape found in a file, and which column is which field."""

    shape: str
    columns: Mapping[str, str]

    @property
    def sentence(self) -> str:
        """The shape and its columns in words."""
        taken = ", ".join(name if name == column else f"{name} from `{column}`" for name, column in self.columns.items())
        return f"{self.shape} ({taken})"


def recognise(
    rows: Sequence[Mapping[str, Any]],
    kind: str,
    mapping: Mapping[str, str],
    shape: str | None,
    where: str,
    *,
    with_truth: bool = True,
    several_labels: bool = False,
) -> Recognised:
    """Tell the shape of a file from its first rows.

    Args:
        rows: the first rows, at least one.
        kind: of work; decides which shapes are tried, and in which order.
        mapping: the recipe's ``data.columns``, field -> column.
        shape: the recipe's ``data.shape``; None to try all.
        where: the file, for messages.
        with_truth: whether rows need an answer; without, answers are taken where they are.
        several_labels: whether a row can have several labels: ``multi-label-text`` is tried first, and a text can hold them.

    Returns:
        The first shape that has all it needs.

    Raises:
        DataError: a mapped column does not exist, the shape is unknown, or no shape fits.
    """
    columns = columns_of(rows)
    mapping = {name: column for name, column in mapping.items() if with_truth or name not in TRUTHS or column in columns}
    _refuse_unknown_columns(mapping, columns, where)
    names = SHAPES_OF_KIND[kind] if shape is None else (_known_shape(shape, kind),)
    if several_labels:
        names = tuple(sorted(names, key=lambda name: name != "multi-label-text"))
    lacking: dict[str, list[str]] = {}
    for required in (True, False) if not with_truth else (True,):
        for name in names:
            one = SHAPES[name]
            if kind in SEEING and "image" not in one.needs:
                one = replace(one, takes={**one.takes, "image": ("images", "image")})
            found, lacks = _fit(one, columns, mapping, need_truth=required, several_labels=several_labels)
            known = {*one.needs, *one.takes, *ALWAYS}
            if not lacks and set(mapping) <= known:
                return Recognised(name, found)
            lacking[name] = lacks or [f"no use for `{extra}`" for extra in sorted(set(mapping) - known)]
    raise DataError(
        f"the rows fit no shape that {kind} can use" if shape is None else f"the rows do not have the shape {shape}",
        where=where,
        hint=_explanation(columns, lacking, mapping, names[:1] if shape else PLAINEST[kind]),
    )


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column -> what its cells hold in the first rows, empty ones left out; columns in the order of the file."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            cells = columns.setdefault(name, [])
            if not is_missing(value):
                cells.append(value)
    return columns


def _refuse_unknown_columns(mapping: Mapping[str, str], columns: Mapping[str, list[Any]], where: str) -> None:
    for name, column in mapping.items():
        if column not in columns:
            near = nearest_name(column, columns)
            fix = f"data.columns: {{{name}: {near}}}" if near else f"data.columns: {{{name}: ONE OF THEM}}"
            hint = f"columns of the file: {', '.join(columns)}\n{fix}"
            raise DataError(f"there is no column `{column}`, which data.columns names for {name}", where=where, hint=hint)


def _known_shape(shape: str, kind: str) -> str:
    if shape in SHAPES:
        return shape
    near = nearest_name(shape, SHAPES)
    hint = (f"did you mean {near}? " if near else "") + f"shapes for {kind}: {', '.join(SHAPES_OF_KIND[kind])}"
    raise DataError(f"unknown shape `{shape}`", where="data.shape", hint=hint)


def _fit(
    shape: Shape, columns: Mapping[str, list[Any]], mapping: Mapping[str, str], *, need_truth: bool, several_labels: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Columns for the shape's fields, and the needed fields that have none. A mapped column serves no other field."""
    found = {name: column for name, column in mapping.items() if name in {*shape.needs, *shape.takes, *ALWAYS}}
    used = set(mapping.values())
    lacks = []
    for name, aliases in {**shape.needs, **shape.takes, **ALWAYS}.items():
        if name in found:
            continue
        lowered = {column.lower(): column for column in columns}
        fitting = (
            lowered[alias]
            for alias in aliases
            if alias in lowered and lowered[alias] not in used and _suits(name, columns[lowered[alias]], several_labels=several_labels)
        )
        column = next(fitting, None)
        if column is not None:
            found[name] = column
            used.add(column)
        elif name in shape.needs and (need_truth or name not in TRUTHS):
            lacks.append(name)
    return found, lacks


def _suits(name: str, cells: Sequence[Any], *, several_labels: bool = False) -> bool:
    """Whether most cells of a column can be this field; the few that cannot are rejected later, row by row."""
    if not cells:
        return name not in LISTS or name in ("entities", "candidates", "history")
    kinds = ("labels", "label") if several_labels and name == "labels" else (name,)
    return sum(any(_is_cell_of(kind, cell) for kind in kinds) for cell in cells) > len(cells) / 2


def _is_cell_of(name: str, cell: Any) -> bool:
    if name == "image":
        return isinstance(cell, str | Mapping | list)
    if name in ("tokens", "tags"):
        return isinstance(cell, list) or (isinstance(cell, str) and " " in cell.strip())
    if name in LISTS:
        return isinstance(parsed(cell), list)
    if name == "answer":
        return isinstance(cell, str | int | float | Mapping | list)
    return isinstance(cell, str | int | float) and not (name == "label" and isinstance(parsed(cell), list))


def _explanation(
    columns: Mapping[str, list[Any]], lacking: Mapping[str, list[str]], mapping: Mapping[str, str], plainest: Sequence[str]
) -> str:
    lines = [f"columns of the file: {', '.join(columns) or 'none'}"]
    lines += [f"{name}: lacks {', '.join(lacks)}" for name, lacks in lacking.items()]
    proposal = propose_mapping(columns, plainest, mapping)
    if proposal:
        line = ", ".join(f"{name}: {column}" for name, column in proposal.items())
        lines.append(f"this would make it fit: data.columns: {{{line}}}")
    else:
        needs = ", ".join(f"{name} needs {' and '.join(SHAPES[name].needs)}" for name in plainest)
        lines.append(f"no choice of these columns would make it fit: {needs}")
    return "\n".join(lines)


def propose_mapping(columns: Mapping[str, list[Any]], shapes: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str] | None:
    """A mapping of a file's columns that would make it fit a shape.

    Args:
        columns: column -> cells of the first rows.
        shapes: names of shapes, tried in this order.
        mapping: what is mapped already.

    Returns:
        The mapping with every needed field of the first shape that the columns suffice for, or None where there is none.
    """
    return next(filter(None, (_mapping_for(SHAPES[name], columns, mapping) for name in shapes)), None)


def _mapping_for(shape: Shape, columns: Mapping[str, list[Any]], mapping: Mapping[str, str]) -> dict[str, str] | None:
    kept = {name: column for name, column in mapping.items() if name in shape.needs}
    found, lacks = _fit(shape, columns, kept, need_truth=True)
    chosen = {name: column for name, column in found.items() if name in shape.needs}
    for name in lacks:
        left = {column: cells for column, cells in columns.items() if column not in chosen.values() and cells and _may_be(name, cells)}
        if name not in ("image", "id"):
            left = {column: cells for column, cells in left.items() if column.lower() != "id"}
        if not left:
            return None
        if name == "label":
            chosen[name] = min(left, key=lambda column: (len(set(map(str, left[column]))), _mean_length(left[column])))
        else:
            chosen[name] = max(left, key=lambda column: _mean_length(left[column]))
    return chosen


def _may_be(name: str, cells: Sequence[Any]) -> bool:
    """Whether a column is worth proposing for a field, whatever its name: images and tags show by what they hold."""
    if not _suits(name, cells):
        return False
    if name == "image":
        return sum(_names_image(cell) for cell in cells) > len(cells) / 2
    if name in ("tokens", "tags"):
        return (sum(_holds_tags(cell) for cell in cells) > len(cells) / 2) == (name == "tags")
    return True


def _holds_tags(cell: Any) -> bool:
    value = parsed(cell)
    items = value if isinstance(value, list) else str(value).split()
    return bool(items) and all(isinstance(item, str) and TAG.fullmatch(item) is not None for item in items)


def _names_image(cell: Any) -> bool:
    if isinstance(cell, Mapping):
        return not {"bytes", "path", "url"}.isdisjoint(cell)
    return isinstance(cell, str) and IMAGE_PATH.fullmatch(cell.strip()) is not None


def _mean_length(cells: Sequence[Any]) -> float:
    return sum(len(str(cell)) for cell in cells) / len(cells)
