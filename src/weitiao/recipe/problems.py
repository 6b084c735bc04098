"""What pydantic found wrong with a recipe, said in the recipe's own words: key, place, nearest name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from weitiao.errors import RecipeError
from weitiao.recipe.document import Document, KeyPath, dotted
from weitiao.recipe.known import field_at, kind_of, name_here, places_of_key, sections_at
from weitiao.recipe.nearest import nearest_name, suggestion

MISSING_KINDS = ("missing", "union_tag_not_found")
UNION_BRANCH_TYPES = {"model_type": "a mapping", "dict_type": "a mapping", "list_type": "a list", "string_type": "text"}
TYPE_NAMES = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_attributes_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "string_type": "text",
    "tuple_type": "a list",
}
LENGTHS = {
    "too_short": ("at least", "min_length"),
    "too_long": ("at most", "max_length"),
    "string_too_short": ("at least", "min_length"),
    "string_too_long": ("at most", "max_length"),
}
"""What a length should be, and the name of the limit in pydantic's context; that of a text counts characters."""


def recipe_problems(error: ValidationError, document: Document) -> list[RecipeError]:
    """Translate a validation error.

    Args:
        error: raised by validating ``document.values``.
        document: the recipe with the places of its keys.

    Returns:
        One error per place, at least one, in the order of the file.
    """
    by_keys: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        keys, is_own_branch = _keys_of(detail, document.values)
        if is_own_branch:
            by_keys.setdefault(keys, []).append(detail)
    problems: list[RecipeError] = []
    unknown_keys: dict[KeyPath, list[str]] = {}
    for keys, details in by_keys.items():
        if details[0]["type"] == "extra_forbidden":
            unknown_keys.setdefault(keys[:-1], []).append(str(keys[-1]))
        elif details[0]["type"] in MISSING_KINDS:
            problems.append(_missing(keys, details[0], document))
        else:
            problems.append(_wrong_value(keys, details, document))
    for parent, names in unknown_keys.items():
        problems.extend(_unknown(parent, names, document))
    order = {place: position for position, place in enumerate(document.places.values())}
    return sorted(problems, key=lambda problem: order.get(problem.where, -1))


def raise_together(problems: Sequence[RecipeError], path: object) -> None:
    """Raise what was found: one error as itself, several under a line that counts them.

    Args:
        problems: may be empty; then nothing is raised.
        path: the recipe.

    Raises:
        RecipeError: there is at least one problem.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise RecipeError(f"{len(problems)} things are wrong", where=str(path), hint="\n".join(str(problem) for problem in problems))


def _keys_of(detail: ErrorDetails, values: Any) -> tuple[KeyPath, bool]:
    """Keys of the recipe in pydantic's location, without the names of union branches; False for a branch that is not meant."""
    keys: list[str | int] = []
    location = list(detail["loc"])
    for position, step in enumerate(location):
        is_last = position == len(location) - 1
        names_a_child = (isinstance(values, dict) and step in values) or (isinstance(values, list) and isinstance(step, int))
        if names_a_child or (is_last and detail["type"] == "missing"):
            keys.append(step)
            values = _step_into(values, step)
        elif step == "[key]":
            break
        elif not _branch_fits(str(step), values):
            return tuple(keys), isinstance(values, str | int | float | bool | None) and is_last
    return tuple(keys), True


def _step_into(values: Any, step: str | int) -> Any:
    if isinstance(values, dict):
        return values.get(step)
    return values[step] if isinstance(values, list) and isinstance(step, int) and step < len(values) else None


def _branch_fits(branch: str, values: Any) -> bool:
    if branch.startswith("list["):
        return isinstance(values, list)
    if branch.startswith(("dict[", "Source")):
        return isinstance(values, dict)
    if branch.startswith("literal["):
        return isinstance(values, str)
    return True


def _missing(keys: KeyPath, detail: ErrorDetails, document: Document) -> RecipeError:
    if detail["type"] == "union_tag_not_found":
        kinds = [kind for section in sections_at(keys, {}) if (kind := kind_of(section)) is not None]
        if not isinstance(detail["input"], dict):
            return RecipeError(f"`{dotted(keys)}` should be a mapping with a `kind`", where=document.place(keys), hint=_kinds(keys, kinds))
        return RecipeError(f"`{dotted((*keys, 'kind'))}` is missing", where=document.place(keys), hint=_kinds(keys, kinds))
    return RecipeError(f"`{dotted(keys)}` is missing", where=document.place(keys[:-1]), hint=_help(keys, document))


def _help(keys: KeyPath, document: Document) -> str:
    """The first line of the help of a setting, or of the setting that a position belongs to."""
    field = field_at(keys[:-1] if isinstance(keys[-1], int) else keys, document.values)
    return ((field.description or "") if field is not None else "").split("\n", 1)[0]


def _kinds(keys: KeyPath, kinds: list[str]) -> str:
    start = "-" if isinstance(keys[-1], int) else f"{keys[-1]}:"
    return f"one of: {', '.join(kinds)}; e.g.  {start} {{kind: {kinds[0]}}}" if kinds else ""


def _wrong_value(keys: KeyPath, details: list[ErrorDetails], document: Document) -> RecipeError:
    detail, context = details[0], details[0].get("ctx", {})
    name, value, where = dotted(keys), detail["input"], document.place(keys)
    if detail["type"] == "union_tag_invalid":
        kinds = [kind for section in sections_at(keys, {}) if (kind := kind_of(section)) is not None]
        tag = str(context.get("tag"))
        return RecipeError(
            f"`{name}.kind` is `{tag}`, which is not known", where=document.place((*keys, "kind")), hint=suggestion(tag, kinds)
        )
    if detail["type"] == "invalid_key" or (detail["type"] == "string_type" and detail["loc"][-1] == "[key]"):
        return _no_text_key(keys, value, document)
    if detail["loc"][-1] == "[key]":
        known = [choice.strip("' ") for choice in str(context.get("expected", "")).replace(" or ", ", ").split(",")]
        return RecipeError(f"unknown name `{keys[-1]}` in `{dotted(keys[:-1])}`", where=where, hint=suggestion(str(keys[-1]), known))
    if detail["type"] == "value_error":
        return RecipeError(str(context.get("error", detail["msg"])), where=f"{where}, `{name}`" if name else where)
    wanted = _wanted(details)
    if isinstance(value, dict | list):
        shown = "a mapping" if isinstance(value, dict) else "a list" if value else "an empty list"
    else:
        shown = "empty" if value is None else f"`{value}`"
    return RecipeError(f"`{name}` is {shown}, and should be {wanted}", where=where, hint=_hint_for_value(keys, detail, document))


def _hint_for_value(keys: KeyPath, detail: ErrorDetails, document: Document) -> str:
    kind, value = detail["type"], detail["input"]
    if kind == "string_type" and not isinstance(value, dict | list):
        return "put it in quotes: YAML reads bare numbers, dates, yes and no as something else than text"
    if kind == "string_type":
        return "put text with `: `, brackets or braces in quotes"
    if kind == "string_too_long" and value.startswith("\\"):
        quoted = f'"{value}"'
        shown = f"'{dotted(keys)}={quoted}'" if document.place(keys).startswith("override ") else f"{keys[-1]}: {quoted}"
        return f"YAML reads it as one character where it stands in double quotes: {shown}"
    if kind in ("tuple_type", "too_long"):
        return _help(keys, document)
    if kind == "literal_error" and isinstance(value, str):
        choices = str(detail.get("ctx", {}).get("expected", "")).replace(" or ", ", ").split(",")
        nearest = nearest_name(value, [choice.strip("' ") for choice in choices])
        return f"did you mean `{nearest}`?" if nearest else ""
    return ""


def _no_text_key(keys: KeyPath, key: Any, document: Document) -> RecipeError:
    """A key that YAML reads as something else than text; pydantic's path ends with it, or before it."""
    parent = keys[:-1] if keys and keys[-1] == key else keys
    inside = f" in `{dotted(parent)}`" if parent else ""
    hint = "put it in quotes: YAML reads bare numbers, dates, yes, no, on, off and null as something else than text"
    return RecipeError(f"the key `{key}`{inside} is no text", where=document.place((*parent, str(key))), hint=hint)


def _wanted(details: list[ErrorDetails]) -> str:
    """What would have been right; for a union, what each of its branches wants."""
    choices: list[str] = []
    for detail in details:
        if detail["type"] == "literal_error":
            choice = str(detail.get("ctx", {}).get("expected"))
        elif detail["type"] in LENGTHS:
            words, limit = LENGTHS[detail["type"]]
            n = detail["ctx"][limit]
            unit = ("character " if n == 1 else "characters ") if detail["type"].startswith("string") else ""
            choice = f"{words} {n} {unit}long"
        elif detail["type"] in TYPE_NAMES:
            choice = UNION_BRANCH_TYPES.get(detail["type"], TYPE_NAMES[detail["type"]]) if len(details) > 1 else TYPE_NAMES[detail["type"]]
        else:
            choice = detail["msg"].removeprefix("Input should be ").removeprefix("Input should have ")
        if choice not in choices:
            choices.append(choice)
    return " or ".join(choices)


def _unknown(parent: KeyPath, names: list[str], document: Document) -> list[RecipeError]:
    sections = sections_at(parent, document.values)
    known = [name for section in sections for name in section.model_fields]
    variants = [section for section in sections_at(parent, {}) if section not in sections]
    kind = _kind_written(parent, document)
    problems, of_other_kind = [], []
    for name in names:
        if any(name in variant.model_fields for variant in variants):
            of_other_kind.append(name)
            continue
        what = f"unknown key `{name}`" + (f" in `{dotted(parent)}`" if parent else "")
        problems.append(RecipeError(what, where=document.place((*parent, name)), hint=_hint_for_unknown(parent, name, known)))
    if of_other_kind:
        problems.append(_other_kind(parent, of_other_kind, kind, variants, document))
    return problems


def _hint_for_unknown(parent: KeyPath, name: str, known: list[str]) -> str:
    if called := name_here(parent, name):
        return f"it is called {called} here"
    if elsewhere := places_of_key(name):
        return f"it belongs here: {', '.join(elsewhere)}"
    return suggestion(name, known)


def _kind_written(parent: KeyPath, document: Document) -> str:
    values: Any = document.values
    for step in parent:
        values = _step_into(values, step)
    return str(values.get("kind")) if isinstance(values, dict) else ""


def _other_kind(parent: KeyPath, names: list[str], kind: str, variants: Sequence[type[BaseModel]], document: Document) -> RecipeError:
    owners = [kind_of(variant) for variant in variants if any(name in variant.model_fields for name in names)]
    listed = ", ".join(f"`{name}`" for name in names)
    override = document.place((*parent, "kind"))
    if override.startswith("override "):
        where, hint = override, f"replace the whole section: {dotted(parent)}={{kind: {kind}}}"
    else:
        where, hint = document.place((*parent, names[0])), "remove them, or change the kind"
    belong = "belongs" if len(names) == 1 else "belong"
    return RecipeError(
        f"{listed} of `{dotted(parent)}` {belong} to kind {' or '.join(map(str, owners))}, not to {kind}", where=where, hint=hint
    )
