"""runs: a recipe in, a run folder out: its layout, its lock, its record of what ran where and how it ended.

Opening (new, resume, replace) is in ``open.py``, what can be done with an open run in ``folder.py``, how values become JSON in
``values.py``. Knows nothing of what the stages write: they hand over values, or take a folder of their own.
"""

from weitiao.runs.facts import processor_name, usable_processors
from weitiao.runs.folder import Mode, Run, settings
from weitiao.runs.open import forget, open_run, read_run
from weitiao.runs.values import jsonable, no_space_left

__all__ = ["Mode", "Run", "forget", "jsonable", "no_space_left", "open_run", "processor_name", "read_run", "settings", "usable_processors"]
