"""cli: words in, exit codes and tables out.

A verb is a typer function of a few lines in ``verbs.py``: parse, call the pipeline, show. What people read goes to stderr (``show.py``,
``display.py``), what programs read goes to files or, with ``--json``, to stdout. Only this room prints and exits (``fail.py``).
"""

from weitiao.cli import doctor, models, plan, preview, serve, trials
from weitiao.cli.verbs import app, main

__all__ = ["app", "doctor", "main", "models", "plan", "preview", "serve", "trials"]
