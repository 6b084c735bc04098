"""``a.b=c`` on the command line: one value of the recipe, replaced before the recipe is checked.

The value is YAML (``1e-4``, ``null``, ``[q_proj, v_proj]``, ``{kind: full}``), or plain text where it is not YAML, e.g. ``*.csv``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from weitiao.errors import RecipeError
from weitiao.recipe.document import Document, KeyPath, dotted
from weitiao.recipe.known import field_at, kind_of

EXAMPLE = "an override looks like this: train.learning_rate=1e-4"


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """Replace values of a recipe, in the order in which they were given.

    Args:
        document: stays as it is.
        overrides: ``a.b=c`` each; ``a.0.b=c`` reaches into a list.

    Returns:
        A new document in which the overridden keys have the override as their place.

    Raises:
        RecipeError: an override has no ``=``, is no YAML, has a date that is none, or leads through something that has no keys.
    """
    values, places = copy.deepcopy(document.values), dict(document.places)
    for override in overrides:
        keys, value = _parse(override)
        _put(values, keys, value, override)
        for inner in [place for place in places if place[: len(keys)] == keys]:
            del places[inner]
        places[keys] = f"override {override}"
    return Document(document.path, values, places)


def _parse(override: str) -> tuple[KeyPath, Any]:
    name, equals, text = override.partition("=")
    keys = tuple(int(key) if key.isdecimal() else key for key in name.strip().split("."))
    if not equals or not all(str(key) for key in keys):
        raise RecipeError("this is not `key=value`", where=f"override {override}", hint=EXAMPLE)
    try:
        return keys, yaml.safe_load(text)
    except ValueError as error:
        raise RecipeError(
            f"the value looks like a date or a number and is none ({error})",
            where=f"override {override}",
            hint=f"put it in quotes, and these in the shell's: '{name}=\"{text}\"'",
        ) from error
    except yaml.YAMLError as error:
        if text.lstrip()[:1] in tuple("{[\"'"):
            raise RecipeError(
                "the value has an open bracket or quote",
                where=f"override {override}",
                hint=f"write it in one piece and in the shell's quotes, e.g. '{name}={{kind: full}}'",
            ) from error
        return keys, text


def _put(values: dict[str, Any], keys: KeyPath, value: Any, override: str) -> None:
    inside: Any = values
    for depth, key in enumerate(keys[:-1]):
        _check_step(inside, keys[: depth + 1], override)
        if isinstance(inside, dict) and inside.get(str(key)) is None:
            inside[str(key)] = _start(keys[: depth + 1], values)
        inside = inside[int(key)] if isinstance(inside, list) else inside[str(key)]
    _check_step(inside, keys, override)
    if isinstance(inside, list):
        inside[int(keys[-1])] = value
    else:
        inside[str(keys[-1])] = value


def _start(keys: KeyPath, values: dict[str, Any]) -> Any:
    """What an override of an unwritten section starts from: nothing, or its default's kind where it has kinds."""
    field = field_at(keys, values)
    if field is None:
        return {}
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return {}
    if isinstance(default, list):
        return [_kind(item) for item in default if isinstance(item, BaseModel)]
    return _kind(default) if isinstance(default, BaseModel) else {}


def _kind(section: BaseModel) -> dict[str, Any]:
    kind = kind_of(type(section))
    return {} if kind is None else {"kind": kind}


def _check_step(inside: Any, keys: KeyPath, override: str) -> None:
    parent, key, where = dotted(keys[:-1]), keys[-1], f"override {override}"
    if isinstance(inside, dict) and parent and isinstance(key, int):
        raise RecipeError(f"`{parent}` is a mapping, not a list", where=where, hint=f"leave out the position: {parent}.KEY=VALUE")
    if isinstance(inside, dict):
        return
    if not isinstance(inside, list):
        raise RecipeError(f"`{parent}` is the value {inside!r} and has no `{key}`", where=where, hint=f"write {parent}=VALUE")
    if not isinstance(key, int):
        raise RecipeError(f"`{parent}` is a list", where=where, hint=f"name the item by its position: {parent}.0.{key}=VALUE")
    if key >= len(inside):
        raise RecipeError(
            f"`{parent}` has {len(inside)} items, counted from 0", where=where, hint=f"replace the whole list: {parent}=[...]"
        )
