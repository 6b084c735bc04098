"""Checks that every kind of work makes of a record."""

from __future__ import annotations

import re
from collections.abc import Sequence

from weitiao.errors import RowError
from weitiao.seams import Record, RowProblem

PLACEHOLDER = re.compile(r"\{\{\s*\w+\s*\}\}|<\|?(?:your|insert)[ _-][^>]{1,40}>|\[(?:your|insert) [^\]]{1,40}\]", re.IGNORECASE)
"""Template fields that nobody filled in: ``{{name}}``, ``<your name>``, ``[insert company]``."""


def common_problems(record: Record, *, needs_text: bool = True) -> list[RowProblem]:
    """Problems of any record without ``messages``: see ``text_problems``.

    Args:
        record: a row.
        needs_text: whether the row must have a text of its own.

    Returns:
        The problems; those of severity ``error`` keep the row from being used.
    """
    return text_problems(record.text, record.answer, needs_text=needs_text)


def text_problems(text: str, answer: str | None, *, needs_text: bool = True) -> list[RowProblem]:
    """Problems of any text: none, an empty answer, characters lost in decoding.

    Args:
        text: of the user.
        answer: to it; None where there is none, or it is part of the text.
        needs_text: whether there must be a text.

    Returns:
        The problems; those of severity ``error`` keep the row from being used.
    """
    problems = []
    if needs_text and not text.strip():
        problems.append(RowProblem("empty-text", "error", "the text is empty"))
    if answer is not None and not answer.strip():
        problems.append(RowProblem("empty-answer", "error", "the answer is empty"))
    if "\ufffd" in text or "\ufffd" in (answer or ""):
        problems.append(RowProblem("lost-characters", "warning", "holds U+FFFD: characters were lost when the file was decoded"))
    return problems


def placeholders(answer: str | None) -> list[RowProblem]:
    """A warning for an answer with template fields that nobody filled in; not for LaTeX, where ``{{x}}`` is ordinary."""
    found = PLACEHOLDER.search(answer or "")
    if not found:
        return []
    hint = "fill in what the template left open; the model learns it to the letter"
    return [RowProblem("placeholder", "warning", f"the answer has the placeholder {found.group(0)}", hint)]


def missing_images(record: Record) -> list[RowProblem]:
    """An error for a record without any image."""
    if record.images:
        return []
    return [RowProblem("no-image", "error", "the row has no image", "name its column: data.columns: {image: COLUMN}")]


def refuse(record: Record, problems: Sequence[RowProblem]) -> None:
    """Raise the first error among the problems of a record.

    Args:
        record: the row.
        problems: what was found in it.

    Raises:
        RowError: one of the problems has severity ``error``.
    """
    for problem in problems:
        if problem.severity == "error":
            raise RowError(problem.message, where=record.origin, hint=problem.hint)
