"""predict: an engine and a file of rows in, a file of answers out, whatever happens in between.

``answer.py`` goes through the rows, ``ledger.py`` puts each where it belongs, ``keys.py`` remembers which are done in 8 bytes each,
``files.py`` holds what is written, ``confidence.py`` tells sure answers from unsure ones. Knows nothing of models, tokens or how a run
was trained.
"""

from weitiao.predict.answer import WINDOW, predict_file
from weitiao.predict.confidence import calibrated
from weitiao.predict.ledger import PredictSummary

__all__ = ["WINDOW", "PredictSummary", "calibrated", "predict_file"]
