"""track: numbers and predictions of a run in, curves and tables on a SwanLab page out.

``open_tracker`` gives a ``Tracker`` that can be called anywhere in a run and never fails: what goes wrong in a tracker is one warning.
A new kind of tracker goes into ``open.py`` beside ``swanlab``. Knows nothing of models, data or what the numbers mean;
``events.jsonl`` is the run's own and not written here.
"""

from weitiao.track.open import open_tracker

__all__ = ["open_tracker"]
