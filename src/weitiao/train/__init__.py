"""train: token rows in, the best checkpoint out. The only room in which a network is changed.

``loop.py`` is the Trainer and its rules, ``segments.py`` the attention in which packed rows never see each other, ``fast.py`` the fast
paths, each equal to the plain one. ``arguments.py`` alone knows ``TrainingArguments``. Knows nothing of text, templates or tasks: what it
needs of them is handed to it as ``TrainHooks``.
"""

from weitiao.train.arguments import number_of_steps
from weitiao.train.fast import fast_paths
from weitiao.train.loop import TrainHooks, run_training
from weitiao.train.memory import free_bytes, kept_bytes_per_token, must_recompute, workspace_bytes

__all__ = [
    "TrainHooks",
    "fast_paths",
    "free_bytes",
    "kept_bytes_per_token",
    "must_recompute",
    "number_of_steps",
    "run_training",
    "workspace_bytes",
]
