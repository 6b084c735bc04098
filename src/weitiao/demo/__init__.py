"""demo: a made-up data set of complaints with known answers, and the recipe that learns from it.

``words.py`` and ``subjects_*.py`` are tables; a new subject of complaint is a new entry there. Knows nothing of models or training.
"""

from weitiao.demo.complaints import make_complaints, write_complaints
from weitiao.demo.recipe import demo_recipe

__all__ = ["demo_recipe", "make_complaints", "write_complaints"]
