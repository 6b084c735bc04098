"""recipe: YAML and ``a.b=c`` overrides in, one frozen ``Recipe`` out.

Every section is a small pydantic model in ``sections.py``; the string under a field is its help everywhere. Unknown keys are errors
with file, line and the nearest name; validators refuse and never repair. Knows nothing of torch, files of data or models.
"""

from weitiao.recipe.load import load_recipe, recipe_yaml
from weitiao.recipe.nearest import nearest_name
from weitiao.recipe.sections import Recipe

__all__ = ["Recipe", "load_recipe", "nearest_name", "recipe_yaml"]
