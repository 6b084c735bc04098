"""Write rows to files and load them as the door does, for the tests of this folder."""

import json

from pydantic import TypeAdapter

from weitiao.data import load_samples
from weitiao.recipe.sections import Data
from weitiao.recipe.tasks import TaskSection
from weitiao.tasks import make_task

SECTION = TypeAdapter(TaskSection)


def task_of(kind, **settings):
    return make_task(SECTION.validate_python({"kind": kind, **settings}))


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def load(path, kind="text", *, seed=42, task=None, **data):
    """Samples of a file or list of sources; nothing is set aside unless ``split`` is given."""
    train = data.pop("train", {"path": str(path)})
    section = Data.model_validate({"train": train, "split": {"valid": 0, "test": 0}, **data})
    return load_samples(section, task_of(kind, **(task or {})), seed)


def texts(samples):
    """The user's text of every training row, in order of their origins' rows."""
    return [
        sample.messages[-1 if not sample.has_answer else -2].text if len(sample.messages) > 1 else sample.messages[0].text
        for sample in samples.train
    ]


def findings(samples):
    """Code -> count."""
    return {finding.code: finding.count for finding in samples.report.findings}
