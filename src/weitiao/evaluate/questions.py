"""The recipe's own questions, answered beside the rows.

A beginning of a document is cut before its last punctuation marks, and the answer must begin with them: in a trained text such a mark and
what follows it can be one token (a colon with the line breaks after it), which nothing that comes after the mark alone can be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from weitiao.evaluate.answers import sampling_of
from weitiao.recipe.sections import Evaluate
from weitiao.seams import Constraint, Engine, Sample, literal, text_message

BEGINNING = re.compile(r"(.*[\w)\]）】》」』\"”'’])([^\w\s)\]）】》」』\"”'’]+\s*|\s+)", re.DOTALL)
"""Text up to its last word or closing mark, and the marks and white space after it."""


def answer_questions(engine: Engine, questions: Sequence[Sample], section: Evaluate, seed: int) -> list[dict[str, str]]:
    """Answer questions, and continue beginnings of documents.

    Args:
        engine: answers.
        questions: of the recipe; a beginning is an assistant's message with an empty one after it.
        section: the recipe's ``evaluate``.
        seed: of answers that are drawn.

    Returns:
        Rows of ``questions.json``: ``question`` and ``answer``, in the order of the questions.
    """
    cut: Mapping[str, tuple[Sample, str]] = {sample.id: _cut(sample) for sample in questions}
    prompts = [cut[sample.id][0] for sample in questions]
    answers = dict(engine.generate(prompts, sampling_of(section, seed), lambda sample: _begins_with(cut[sample.id][1])))
    return [
        {"question": sample.prompt[-1].text, "answer": answers[i].text.removeprefix(cut[sample.id][1])}
        for i, sample in enumerate(questions)
    ]


def _cut(sample: Sample) -> tuple[Sample, str]:
    """A beginning without its last marks, and these; a question as it is, and nothing."""
    last = sample.prompt[-1]
    found = BEGINNING.fullmatch(last.text) if last.role == "assistant" else None
    if found is None:
        return sample, ""
    return replace(sample, messages=(text_message("assistant", found.group(1)), *sample.messages[1:])), found.group(2)


def _begins_with(marks: str) -> Constraint | None:
    return Constraint(regex=rf"{literal(marks)}(?:.|\n)*") if marks else None
