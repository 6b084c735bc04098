"""chat: a conversation in, the assistant's answer out; measured by ROUGE-L of answers and perplexity of the references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weitiao.errors import RecipeError
from weitiao.recipe.tasks import Conversation
from weitiao.seams import Answer, AnswerMode, Constraint, Message, Part, Prediction, Record, RowProblem, Sample, text_message
from weitiao.tasks.audit import common_problems, placeholders, refuse, text_problems
from weitiao.tasks.prompt import make_wording, prompt_messages, single_turn
from weitiao.tasks.scoring import ratio
from weitiao.tasks.wording import rouge_l, words


class ConversationTask:
    """A conversation in, the assistant's answer out; see ``Task`` for what each method promises."""

    kind: str = "chat"
    answer_mode: AnswerMode = "generate"
    default_metric: str = "rouge_l"
    lower_is_better: frozenset[str] = frozenset({"perplexity"})
    needs_likelihood: bool = True

    def __init__(self, section: Conversation, system: str | None = None) -> None:
        """Keep system message and questions.

        Args:
            section: of the recipe.
            system: the recipe's ``data.system``; an empty text is an empty system message.

        Raises:
            RecipeError: the recipe sets a prompt, which turns of a conversation do not have.
        """
        if section.prompt is not None:
            hint = "take it out; data.system sets the system message"
            raise RecipeError("a conversation's turns are trained as they are, without a template", where="task.prompt", hint=hint)
        self.system = system
        self.wording = make_wording(None, "{text}", system)
        self.questions: tuple[Sample, ...] = tuple(
            self.make_sample(Record(f"task.questions[{i}]", f"question-{i + 1}", text=question))
            for i, question in enumerate(section.questions)
        )

    def make_sample(self, record: Record) -> Sample:
        """The conversation as it is; the last assistant turn is the answer.

        Args:
            record: a conversation, or a question (with its instruction) and an answer.

        Returns:
            A sample whose reference is the answer's text.

        Raises:
            RowError: ``check_record`` finds an error in the record.
        """
        refuse(record, self.check_record(record))
        if record.messages:
            messages = self._spoken(record)
        else:
            record = single_turn(record)
            messages = prompt_messages(self.wording, record, None)
            if record.answer is not None:
                messages = (*messages, text_message("assistant", record.answer))
        reference = messages[-1].text if messages[-1].role == "assistant" else None
        return Sample(record.id, record.origin, messages, reference, record.group)

    def _spoken(self, record: Record) -> tuple[Message, ...]:
        """The row's own turns under the system message that holds; its last question is what may be shortened."""
        turns = [message for message in record.messages if message.role != "system"]
        own = next((message.text for message in record.messages if message.role == "system"), record.system or None)
        system = self.system if self.system is not None else own
        last = max(i for i, turn in enumerate(turns) if turn.role == "user")
        parts = tuple(Part(part.kind, part.text, part.image, shortenable=part.kind == "text") for part in turns[last].parts)
        turns[last] = Message(turns[last].role, parts)
        return tuple(turns) if system is None else (text_message("system", system), *turns)

    def check_record(self, record: Record) -> list[RowProblem]:
        """Turns out of order, empty turns, placeholders left in."""
        if not record.messages:
            return common_problems(single_turn(record)) + placeholders(record.answer)
        turns = [message for message in record.messages if message.role != "system"]
        spoken = "\n".join(turn.text for turn in turns)
        problems = text_problems(spoken, None) + placeholders(spoken)
        hint = "turns go user, assistant, user, assistant, with at most one system message before them"
        if any(message.role == "system" for message in record.messages[1:]):
            problems.append(RowProblem("turns-out-of-order", "error", "a system message stands inside the conversation", hint))
        if not turns or turns[0].role != "user":
            problems.append(RowProblem("turns-out-of-order", "error", "the conversation does not begin with the user", hint))
        wrong = [i for i, turn in enumerate(turns) if turn.role != ("user", "assistant")[i % 2]]
        if wrong and turns[0].role == "user":
            message = f"two turns of the {turns[wrong[0]].role} follow each other (turn {wrong[0] + 1})"
            problems.append(RowProblem("turns-out-of-order", "error", message, hint))
        empty = [i for i, turn in enumerate(turns) if not turn.text.strip() and not any(part.image for part in turn.parts)]
        if empty:
            problems.append(RowProblem("empty-turn", "error", f"turn {empty[0] + 1} ({turns[empty[0]].role}) is empty"))
        return problems

    def constraint(self, sample: Sample) -> Constraint | None:  # noqa: ARG002 - an answer is free
        """None: the answer is free."""
        return None

    def parse(self, answer: Answer, sample: Sample) -> Prediction:  # noqa: ARG002 - any text is an answer
        """The answer's text; valid when it says anything.

        Args:
            answer: of a model.
            sample: that was answered.

        Returns:
            The text, stripped.
        """
        text = answer.text.strip()
        return Prediction(text, bool(text))

    def for_rows(self, samples: Sequence[Sample]) -> ConversationTask:  # noqa: ARG002 - needs nothing of the set
        """Itself."""
        return self

    def counts(self, prediction: Prediction, answer: Answer, sample: Sample) -> dict[str, float]:
        """``rouge_l`` and ``rows``; ``nll`` of the reference in nats over ``tokens``."""
        likelihood = {"nll": answer.nll or 0.0, "tokens": float(answer.n_scored_tokens if answer.nll is not None else 0)}
        return {**self.row_scores(prediction, sample), "rows": 1.0, **likelihood}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``rouge_l`` (mean over rows) and ``perplexity`` of the references per token; NaN where no likelihood was asked for."""
        return {"rouge_l": ratio(sums["rouge_l"], sums["rows"]), "perplexity": np.exp(ratio(sums["nll"], sums["tokens"]))}

    def row_scores(self, prediction: Prediction, sample: Sample) -> dict[str, float]:
        """``rouge_l`` of one row, over words and Chinese characters."""
        return {"rouge_l": rouge_l(words(prediction.value or ""), [words(sample.reference or "")])}

    def details(self, predictions: Sequence[Prediction], answers: Sequence[Answer], samples: Sequence[Sample]) -> dict[str, Any]:  # noqa: ARG002
        """``lengths``: mean characters of answers and references."""
        n = max(1, len(samples))
        said, wanted = (sum(len(text or "") for text in texts) / n for texts in _texts(predictions, samples))
        return {"lengths": {"answers": said, "references": wanted}}


def _texts(predictions: Sequence[Prediction], samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    return [prediction.value for prediction in predictions], [sample.reference for sample in samples]
