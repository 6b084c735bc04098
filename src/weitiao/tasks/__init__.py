"""tasks: what a kind of work is, one file each: its prompt, how its answers are read and scored, what decoding may produce.

A new kind goes into ``TASKS`` (table.py). Knows nothing of tokens, models, files of data, or where answers come from.
"""

from weitiao.tasks.prompt import usual_system
from weitiao.tasks.table import make_task

__all__ = ["make_task", "usual_system"]
