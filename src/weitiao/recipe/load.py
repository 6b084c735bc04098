"""From a recipe file and overrides to one frozen ``Recipe``, and back to YAML.

read -> override -> make paths absolute -> validate -> refuse what has no effect; all problems of a step are raised together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from weitiao.recipe.document import KeyPath, read_document
from weitiao.recipe.effects import effect_problems, settings_without_effect
from weitiao.recipe.overrides import apply_overrides
from weitiao.recipe.places import with_absolute_paths
from weitiao.recipe.problems import raise_together, recipe_problems
from weitiao.recipe.sections import Recipe

LINE_WIDTH = 120


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a YAML file.
        overrides: ``a.b=c`` each, applied in order before the check; values are YAML.

    Returns:
        The recipe, every default filled in, with absolute paths of data and model.

    Raises:
        RecipeError: the file or an override cannot be read, a key is unknown or missing, a value is wrong or has no effect. All
            problems are named, each with file and line and, for a misspelt name, the nearest known one.
    """
    document = with_absolute_paths(apply_overrides(read_document(path), overrides))
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        raise_together(recipe_problems(error, document), path)
        raise
    raise_together(effect_problems(recipe, document), path)
    return recipe


def recipe_yaml(recipe: Recipe) -> str:
    """A recipe as YAML that ``load_recipe`` reads back as an equal recipe: every setting, defaults too.

    Args:
        recipe: any recipe.

    Returns:
        YAML text in the order of the sections. Empty (null) settings and those without effect in this recipe are left out.
    """
    values = recipe.model_dump(mode="json", exclude_none=True)
    for keys, _reason in settings_without_effect(recipe):
        _remove(values, keys)
    return yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=LINE_WIDTH)


def _remove(values: Any, keys: KeyPath) -> None:
    for key in keys[:-1]:
        values = values[key]
    values.pop(keys[-1], None)
