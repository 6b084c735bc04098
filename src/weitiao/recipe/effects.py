"""Settings that would be read and change nothing, because of another setting: an error when written, left out when a recipe is saved.

One table: the dotted name, when it has no effect, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import BaseModel

from weitiao.errors import RecipeError
from weitiao.recipe.document import Document, KeyPath
from weitiao.recipe.sections import AdapterExport, FullTuning, Recipe, Source

WithoutEffect = Callable[[Recipe], bool]


def _has_no_validation_rows(recipe: Recipe) -> bool:
    return recipe.data.valid is None and recipe.data.split.valid == 0


NO_VALIDATION = "there are no validation rows: `data.split.valid` is 0 and `data.valid` is not given"
GREEDY = "`evaluate.temperature` is 0: the likeliest token is taken each time"

WITHOUT_EFFECT: list[tuple[KeyPath, WithoutEffect, str]] = [
    (("data", "split", "valid"), lambda recipe: recipe.data.valid is not None, "`data.valid` names a source of its own"),
    (("data", "split", "test"), lambda recipe: recipe.data.test is not None, "`data.test` names a source of its own"),
    (
        ("train", "warmup_ratio"),
        lambda recipe: recipe.train.lr_scheduler_type == "constant",
        "`lr_scheduler_type: constant` has no warm-up",
    ),
    (("train", "adam_beta2"), lambda recipe: recipe.train.optim == "adafactor", "`train.optim` is adafactor"),
    (("train", "eval_steps"), _has_no_validation_rows, NO_VALIDATION),
    (("train", "early_stopping_patience"), _has_no_validation_rows, NO_VALIDATION),
    (("evaluate", "select_by"), _has_no_validation_rows, NO_VALIDATION),
    (("evaluate", "n_valid"), _has_no_validation_rows, NO_VALIDATION),
    (("chat", "images", "min_pixels"), lambda recipe: recipe.chat.images.size is not None, "`chat.images.size` is the size of all images"),
    (("chat", "images", "max_pixels"), lambda recipe: recipe.chat.images.size is not None, "`chat.images.size` is the size of all images"),
    (("evaluate", "top_p"), lambda recipe: recipe.evaluate.temperature == 0, GREEDY),
    (("evaluate", "top_k"), lambda recipe: recipe.evaluate.temperature == 0, GREEDY),
    (("model", "revision"), lambda recipe: recipe.model.path.startswith(("bundled:", "/")), "only hub ids have revisions"),
]


def settings_without_effect(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Every setting of this recipe that changes nothing, written or not, with the reason."""
    for keys, has_none, reason in WITHOUT_EFFECT:
        if has_none(recipe):
            yield keys, reason
    for name in ("train", "valid", "test"):
        sources = getattr(recipe.data, name)
        listed = sources if isinstance(sources, list) else [sources] if isinstance(sources, Source) else []
        for position, source in enumerate(listed):
            parent: KeyPath = ("data", name, position) if isinstance(sources, list) else ("data", name)
            if not source.path.startswith("hub:"):
                yield (*parent, "subset"), "only hub data sets have subsets"
                yield (*parent, "split"), "only hub data sets have splits of this kind; for files use `data.split`"
            if name != "train":
                yield (*parent, "weight"), "every row of this source is used once; weights are for training rows"


def effect_problems(recipe: Recipe, document: Document) -> list[RecipeError]:
    """Errors for settings that were written and have no effect, and for sections that cannot go together."""
    problems = [
        RecipeError(f"`{'.'.join(map(str, keys))}` has no effect: {reason}", where=document.place(keys), hint="remove it")
        for keys, reason in settings_without_effect(recipe)
        if _is_written(recipe, keys)
    ]
    for position, export in enumerate(recipe.export):
        if isinstance(export, AdapterExport) and isinstance(recipe.model.tuning, FullTuning):
            problems.append(
                RecipeError(
                    "there is no adapter to export when every weight is trained (`model.tuning.kind` is full)",
                    where=document.place(("export", position)),
                    hint="export kind: merged",
                )
            )
    return problems


def _is_written(recipe: Recipe, keys: KeyPath) -> bool:
    section: object = recipe
    for key in keys[:-1]:
        if isinstance(key, int):
            section = section[key] if isinstance(section, list) else None
        else:
            section = getattr(section, key) if isinstance(section, BaseModel) and key in section.model_fields_set else None
    return isinstance(section, BaseModel) and str(keys[-1]) in section.model_fields_set
