"""encode: samples in, labelled token rows out, and the plan of which rows are computed together.

``encode_samples`` looks for the rows in the cache (``encode.py``); ``rows.py`` makes them, each with its labels, in files that
``store.py`` reads. ``plan_steps`` deals them into optimizer steps and packs each step (``steps.py``). ``see_pictures`` gives a vision
model its pictures, from the feature store (``features.py``) where its tower is frozen. Knows nothing of optimizers or answers.
"""

from weitiao.encode.encode import encode_samples
from weitiao.encode.features import see_pictures
from weitiao.encode.lengths import token_report, with_tokens
from weitiao.encode.steps import StepPlan, plan_steps

__all__ = ["StepPlan", "encode_samples", "plan_steps", "see_pictures", "token_report", "with_tokens"]
