"""What a recipe may say: the sections behind a key, and every setting with its help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from weitiao.recipe.document import KeyPath
from weitiao.recipe.sections import Recipe


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of the recipe."""

    name: str
    """Dotted, as overrides write it; positions in lists are left out."""
    info: FieldInfo
    owners: tuple[str, ...]
    """Kinds of the variants that have it, where not all of them do."""
    kinds: tuple[str, ...]
    """For a ``kind``: its values, the one that is taken where nothing is written first."""


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field's annotation allows: itself, a union's members, a list's items, a mapping's values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return sections_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType, list, dict):
        return [section for part in get_args(annotation) for section in sections_in(part)]
    return []


def kind_of(section: type[BaseModel]) -> str | None:
    """The ``kind`` that picks this section among the variants of a union, if it has one."""
    field = section.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field is not None and get_origin(field.annotation) is Literal else None


def sections_at(keys: KeyPath, values: Any) -> list[type[BaseModel]]:
    """The sections that may stand at a place of a recipe; for a variant with a known ``kind``, that one alone.

    Args:
        keys: path from the root; empty for the recipe itself.
        values: the recipe's plain values, from which the ``kind`` of each variant is taken.

    Returns:
        Possible sections, empty where ``keys`` leads to a plain value or nowhere.
    """
    sections: list[type[BaseModel]] = [Recipe]
    for key in keys:
        values = _child(values, key)
        if isinstance(key, str) and any(key in section.model_fields for section in sections):
            found = [section.model_fields[key] for section in sections if key in section.model_fields]
            sections = list(dict.fromkeys(inner for field in found for inner in sections_in(field.annotation)))
        elif isinstance(key, str) and not any(kind_of(section) is None for section in sections):
            return []
        kind = values.get("kind") if isinstance(values, dict) else None
        sections = [section for section in sections if kind_of(section) == kind] or sections
    return sections


def field_at(keys: KeyPath, values: Any) -> FieldInfo | None:
    """The field behind a key path; None where there is none."""
    if not keys or isinstance(keys[-1], int):
        return None
    for section in sections_at(keys[:-1], values):
        if keys[-1] in section.model_fields:
            return section.model_fields[keys[-1]]
    return None


def all_settings() -> list[Setting]:
    """List every setting once.

    Returns:
        Settings in the order of the sections; a section that stands in several places is listed at the first.
    """
    return list(_settings([Recipe], "", set()))


def _settings(variants: list[type[BaseModel]], prefix: str, seen: set[type[BaseModel]]) -> Iterator[Setting]:
    names = dict.fromkeys(name for section in variants for name in section.model_fields)
    kinds = tuple(kind for section in variants if (kind := kind_of(section)) is not None)
    for name in sorted(names, key=lambda name: name != "kind"):
        having = [section for section in variants if name in section.model_fields]
        infos = [section.model_fields[name] for section in having]
        inner = [each for info in infos for each in sections_in(info.annotation) if each not in seen]
        if inner:
            seen.update(inner)
            yield from _settings(_default_first(list(dict.fromkeys(inner)), infos[0]), f"{prefix}{name}.", seen)
        if not inner or not all(_has_sections_only(info.annotation) for info in infos):
            owners = tuple(str(kind_of(section)) for section in having) if len(having) < len(variants) else ()
            yield Setting(f"{prefix}{name}", infos[0], owners, kinds if name == "kind" else ())


def _default_first(variants: list[type[BaseModel]], info: FieldInfo) -> list[type[BaseModel]]:
    default = info.get_default(call_default_factory=True, validated_data={})
    items = default if isinstance(default, list) else [default]
    return sorted(variants, key=lambda variant: all(type(item) is not variant for item in items))


def _has_sections_only(annotation: Any) -> bool:
    """Whether a field's value is always a section or several, never a plain value."""
    if get_origin(annotation) in (Union, UnionType):
        return all(_has_sections_only(part) for part in get_args(annotation))
    if get_origin(annotation) is list:
        return bool(sections_in(get_args(annotation)[0]))
    return bool(sections_in(annotation)) and get_origin(annotation) is not dict


NAMES_ELSEWHERE: dict[str, dict[str, str]] = {
    "evaluate": {
        "max_length": "evaluate.max_new_tokens",
        "max_tokens": "evaluate.max_new_tokens",
    },
    "": {
        "base_model": "model.path",
        "batch_size": "train.batch_rows",
        "cutoff_len": "encode.max_tokens",
        "epochs": "train.num_train_epochs",
        "lora_r": "model.tuning.r",
        "lora_rank": "model.tuning.r",
        "lr": "train.learning_rate",
        "lr_scheduler": "train.lr_scheduler_type",
        "max_length": "encode.max_tokens",
        "max_seq_len": "encode.max_tokens",
        "max_seq_length": "encode.max_tokens",
        "model_name_or_path": "model.path",
        "num_epochs": "train.num_train_epochs",
        "output_dir": "run.path",
        "per_device_train_batch_size": "train.batch_rows",
        "rank": "model.tuning.r",
    },
}
"""Section -> what other tools call a setting -> its name here; under ``""`` for all sections."""


def name_here(parent: KeyPath, key: str) -> str | None:
    """The dotted name of the setting that other tools call ``key`` where it was written; None where nobody does."""
    return {**NAMES_ELSEWHERE[""], **NAMES_ELSEWHERE.get(str(parent[0]) if parent else "", {})}.get(key)


def places_of_key(key: str) -> list[str]:
    """Dotted names of the settings that are called ``key``, for telling where a misplaced key belongs."""
    return [setting.name for setting in all_settings() if setting.name.rpartition(".")[2] == key]


def _child(values: Any, key: str | int) -> Any:
    if isinstance(values, dict):
        return values.get(key)
    if isinstance(values, list) and isinstance(key, int) and key < len(values):
        return values[key]
    return None
