"""text: plain documents, trained on every token (continued pre-training) and measured by perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weitiao.errors import RecipeError
from weitiao.recipe.tasks import Text
from weitiao.seams import Answer, AnswerMode, Constraint, Message, Part, Prediction, Record, RowProblem, Sample, text_message
from weitiao.tasks.audit import common_problems, refuse
from weitiao.tasks.scoring import ratio


class TextTask:
    """Plain documents; a document is a conversation of one assistant message. See ``Task`` for what each method promises."""

    kind: str = "text"
    answer_mode: AnswerMode = "likelihood"
    default_metric: str = "perplexity"
    lower_is_better: frozenset[str] = frozenset({"perplexity"})
    needs_likelihood: bool = False

    def __init__(self, section: Text, system: str | None = None) -> None:
        """Keep the questions.

        Args:
            section: of the recipe.
            system: must be None: a document has no system message.

        Raises:
            RecipeError: the recipe sets a prompt or a system message, which would have no effect.
        """
        if section.prompt is not None or system is not None:
            where = "task.prompt" if section.prompt is not None else "data.system"
            raise RecipeError(
                "plain documents have no prompt and no system message", where=where, hint="take it out, or use task.kind: chat"
            )
        self.questions: tuple[Sample, ...] = tuple(
            Sample(f"question-{i + 1}", f"task.questions[{i}]", (text_message("assistant", beginning), text_message("assistant", "")))
            for i, beginning in enumerate(section.questions)
        )

    def make_sample(self, record: Record) -> Sample:
        """The document as one assistant message.

        Args:
            record: a row with a text.

        Returns:
            A sample whose reference is the text.

        Raises:
            RowError: the text is empty.
        """
        refuse(record, self.check_record(record))
        document = Message("assistant", (Part("text", record.text, shortenable=True),))
        return Sample(record.id, record.origin, (document,), record.text, record.group)

    def check_record(self, record: Record) -> list[RowProblem]:
        """No text."""
        return common_problems(record)

    def constraint(self, sample: Sample) -> Constraint | None:  # noqa: ARG002 - nothing is generated
        """None: nothing is generated."""
        return None

    def parse(self, answer: Answer, sample: Sample) -> Prediction:  # noqa: ARG002 - there is no answer to read
        """The document's perplexity, in place of a reading.

        Args:
            answer: with the document's likelihood.
            sample: the document.

        Returns:
            ``{"perplexity": value}``, or None without a likelihood.
        """
        if answer.nll is None or not answer.n_scored_tokens:
            return Prediction(None, False)
        return Prediction({"perplexity": math.exp(min(700.0, answer.nll / answer.n_scored_tokens))}, True)

    def for_rows(self, samples: Sequence[Sample]) -> TextTask:  # noqa: ARG002 - needs nothing of the set
        """Itself."""
        return self

    def counts(self, prediction: Prediction, answer: Answer, sample: Sample) -> dict[str, float]:  # noqa: ARG002 - the likelihood says it all
        """``nll`` of the document in nats, over ``tokens``."""
        return {"nll": answer.nll or 0.0, "tokens": float(answer.n_scored_tokens if answer.nll is not None else 0)}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``perplexity`` per token over all documents."""
        return {"perplexity": np.exp(ratio(sums["nll"], sums["tokens"]))}

    def row_scores(self, prediction: Prediction, sample: Sample) -> dict[str, float]:  # noqa: ARG002 - the prediction says it all
        """``token_probability``: 1 / perplexity, the geometric mean of the tokens' probabilities."""
        return {"token_probability": 1 / prediction.value["perplexity"] if prediction.value else 0.0}

    def details(self, predictions: Sequence[Prediction], answers: Sequence[Answer], samples: Sequence[Sample]) -> dict[str, Any]:  # noqa: ARG002
        """``tokens``: how many the perplexity is taken over."""
        return {"tokens": sum(answer.n_scored_tokens for answer in answers)}
