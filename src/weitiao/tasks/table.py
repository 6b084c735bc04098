"""The table of kinds of work. A new kind is one file beside this one and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from weitiao.recipe.tasks import TaskSection
from weitiao.seams import Task
from weitiao.tasks.caption import CaptionTask
from weitiao.tasks.classification import ClassificationTask
from weitiao.tasks.conversation import ConversationTask
from weitiao.tasks.extraction import ExtractionTask
from weitiao.tasks.ner import NerTask
from weitiao.tasks.ocr import OcrTask
from weitiao.tasks.plaintext import TextTask

TASKS: dict[str, Callable[[Any, str | None], Task]] = {
    "caption": CaptionTask,
    "chat": ConversationTask,
    "classification": ClassificationTask,
    "extraction": ExtractionTask,
    "ner": NerTask,
    "ocr": OcrTask,
    "text": TextTask,
}


def make_task(section: TaskSection, system: str | None = None) -> Task:
    """The kind of work that a recipe names.

    Args:
        section: the recipe's ``task``.
        system: the recipe's ``data.system``; overrides the rows' own system messages, which override the task's wording.

    Returns:
        The task; it keeps no state between rows.

    Raises:
        RecipeError: the prompt template cannot be read or names an unknown field.
    """
    return TASKS[section.kind](section, system)
