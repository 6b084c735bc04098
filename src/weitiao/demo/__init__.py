"""demo: made-up data with known answers: complaints and the recipe that learns from them, pictures of formulas, drawn scenes.

``words.py`` and ``subjects_*.py`` are tables; a new subject of complaint is a new entry there. ``formulas.py`` is a grammar, ``scenes.py``
draws shapes, ``pictures.py`` writes folders of either. ``assets/tiny-vl`` is the model that ``bundled:tiny-vl`` names. Knows nothing of
models or training.
"""

from weitiao.demo.complaints import make_complaints, write_complaints
from weitiao.demo.pictures import write_formulas, write_scenes
from weitiao.demo.recipe import demo_recipe, is_whole

__all__ = ["demo_recipe", "is_whole", "make_complaints", "write_complaints", "write_formulas", "write_scenes"]
