"""seams: what crosses a door, frozen values and the protocols between rooms. Loads without torch.

Order of the path: ``Record`` (a row as read) -> ``Sample`` (a conversation with its truth) -> ``Rendered`` (its tokens)
-> ``EncodedRow`` -> ``TrainResult``; and ``Sample`` -> ``Answer`` -> ``Scores`` -> ``Comparison``. The values stand in ``data.py``,
``tokens.py``, ``models.py`` and ``answers.py``, the protocols in ``protocols.py``. Knows nothing of how any of it is done.
"""

from weitiao.seams.answers import Answer, Artifact, Comparison, Constraint, EndedBy, Prediction, RunSummary, Sampling, Scores, literal
from weitiao.seams.data import (
    NO_LABEL,
    DataReport,
    Entity,
    Finding,
    Message,
    Part,
    Record,
    Role,
    RowProblem,
    Sample,
    SampleSet,
    Severity,
    text_message,
)
from weitiao.seams.models import LoadedModel, TrainResult, Vision
from weitiao.seams.protocols import AnswerMode, Engine, Renderer, Task, Tracker
from weitiao.seams.tokens import IGNORED, EncodedRow, EncodedSet, Picture, Rendered, Steps

__all__ = [
    "IGNORED",
    "NO_LABEL",
    "Answer",
    "AnswerMode",
    "Artifact",
    "Comparison",
    "Constraint",
    "DataReport",
    "EncodedRow",
    "EncodedSet",
    "EndedBy",
    "Engine",
    "Entity",
    "Finding",
    "LoadedModel",
    "Message",
    "Part",
    "Picture",
    "Prediction",
    "Record",
    "Rendered",
    "Renderer",
    "Role",
    "RowProblem",
    "RunSummary",
    "Sample",
    "SampleSet",
    "Sampling",
    "Scores",
    "Severity",
    "Steps",
    "Task",
    "Tracker",
    "TrainResult",
    "Vision",
    "literal",
    "text_message",
]
