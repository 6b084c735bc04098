"""encode: samples in, labelled token rows out, and the plan of which rows are computed together.

``encode_samples`` looks for the rows in the cache (``encode.py``); ``rows.py`` makes them, each with its labels, in files that
``store.py`` reads. ``plan_steps`` deals them into optimizer steps and packs each step (``steps.py``). Knows nothing of optimizers,
devices or answers.
"""

from weitiao.encode.encode import encode_samples, token_report
from weitiao.encode.steps import StepPlan, plan_steps

__all__ = ["StepPlan", "encode_samples", "plan_steps", "token_report"]
