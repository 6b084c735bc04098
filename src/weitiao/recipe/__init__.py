"""recipe: YAML and ``a.b=c`` overrides in, one frozen ``Recipe`` out.

Every section is a small pydantic model in ``sections.py``; the string under a field is its help everywhere. Unknown keys are errors
with file, line and the nearest name; validators refuse and never repair. ``sections.py`` and ``tasks.py`` are the shared words of all
rooms: they may be imported past this door. Knows nothing of torch, files of data or models.
"""

from weitiao.recipe.known import Setting, all_settings
from weitiao.recipe.load import load_recipe, recipe_yaml
from weitiao.recipe.nearest import nearest_name, suggestion
from weitiao.recipe.sections import Recipe

__all__ = ["Recipe", "Setting", "all_settings", "load_recipe", "nearest_name", "recipe_yaml", "suggestion"]
