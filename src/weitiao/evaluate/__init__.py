"""evaluate: an engine, a task and rows in; metrics with intervals and paired comparisons out.

engine -> answers (answers.py) -> scores (score.py, bootstrap.py), calibration of label probabilities (confidence.py); training rows that
look wrong (suspects.py).
What counts as right is the task's business. Knows nothing of models, tokens or training.
"""

from weitiao.evaluate.answers import ask
from weitiao.evaluate.confidence import Calibration
from weitiao.evaluate.measure import NOTHING, calibrate, compare, count_rows, load_scores, measure
from weitiao.evaluate.questions import answer_questions
from weitiao.evaluate.score import comparison_json, metric_names, scores_json
from weitiao.evaluate.suspects import find_suspects

__all__ = [
    "NOTHING",
    "Calibration",
    "answer_questions",
    "ask",
    "calibrate",
    "compare",
    "comparison_json",
    "count_rows",
    "find_suspects",
    "load_scores",
    "measure",
    "metric_names",
    "scores_json",
]
