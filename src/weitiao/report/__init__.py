"""report: a run folder in, one self-contained HTML page out.

read -> verdict, curves, tables, answers, dataset -> templates, each in its own file. A new table of a task goes into ``tables.py``.
Knows nothing of tasks, models or training: what the page says stands in the run folder.
"""

from weitiao.report.page import write_report

__all__ = ["write_report"]
