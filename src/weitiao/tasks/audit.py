"""Checks that every kind of work makes of a record."""

from __future__ import annotations

import re
from collections.abc import Sequence

from weitiao.errors import RowError
from weitiao.seams import Record, RowProblem

PLACEHOLDER = re.compile(r"\{\{\s*\w+\s*\}\}|<\|?(?:your|insert)[ _-][^>]{1,40}>|\[(?:your|insert) [^\]]{1,40}\]", re.IGNORECASE)
"""Template fields that nobody filled in: ``{{name}}``, ``<your name>``, ``[insert company]``."""


def common_problems(record: Record, *, needs_text: bool = True) -> list[RowProblem]:
    """Problems of any record: no text, an empty answer, characters lost in decoding.

    Args:
        record: a row without ``messages``.
        needs_text: whether the row must have a text of its own.

    Returns:
        The problems; those of severity ``error`` keep the row from being used.
    """
    problems = []
    if needs_text and not record.text.strip():
        problems.append(RowProblem("empty-text", "error", "the text is empty"))
    if record.answer is not None and not record.answer.strip():
        problems.append(RowProblem("empty-answer", "error", "the answer is empty"))
    whole = f"{record.text}\n{record.answer or ''}"
    if "\ufffd" in whole:
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
