"""ocr: a picture of a formula in, its LaTeX out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weitiao.errors import RowError
from weitiao.recipe.tasks import Ocr
from weitiao.seams import Answer, AnswerMode, Constraint, Prediction, Record, RowProblem, Sample, text_message
from weitiao.tasks.audit import common_problems, missing_images, refuse
from weitiao.tasks.latex import COMMENT, LABEL, normalised, tokens, without_labels
from weitiao.tasks.prompt import make_wording, prompt_messages, single_turn
from weitiao.tasks.reading import unfenced
from weitiao.tasks.scoring import ratio
from weitiao.tasks.wording import bleu, bleu_counts

PROMPT = "你是一个LaText OCR助手,目标是读取用户输入的照片，转换成LaTex公式。"


class OcrTask:
    """A picture of a formula in, its LaTeX out; see ``Task`` for what each method promises."""

    kind: str = "ocr"
    answer_mode: AnswerMode = "generate"
    default_metric: str = "cer"
    lower_is_better: frozenset[str] = frozenset({"cer"})
    questions: tuple[Sample, ...] = ()
    needs_likelihood: bool = False

    def __init__(self, section: Ocr, system: str | None = None) -> None:
        """Keep the wording.

        Args:
            section: of the recipe.
            system: the recipe's ``data.system``.
        """
        self.wording = make_wording(section.prompt, PROMPT, system)

    def make_sample(self, record: Record) -> Sample:
        r"""The conversation: picture and prompt, and the LaTeX without ``\label{…}``, which cannot be seen.

        Args:
            record: a row with one image and, unless it is only to be answered, its LaTeX.

        Returns:
            A sample whose reference is the LaTeX.

        Raises:
            RowError: ``check_record`` finds an error in the record.
        """
        record = single_turn(record)
        refuse(record, self.check_record(record))
        messages = prompt_messages(self.wording, record, None)
        if record.answer is None:
            return Sample(record.id, record.origin, messages, group=record.group)
        latex = without_labels(record.answer).strip()
        return Sample(record.id, record.origin, (*messages, text_message("assistant", latex)), latex, record.group)

    def check_record(self, record: Record) -> list[RowProblem]:
        r"""No image, and LaTeX whose picture cannot show all of it: ``\label{…}``, ``%`` comments, ``$`` inside."""
        try:
            record = single_turn(record)
        except RowError as err:
            return [RowProblem("not-one-turn", "error", err.what, err.hint)]
        problems = common_problems(record, needs_text=False) + missing_images(record)
        latex = record.answer or ""
        if LABEL.search(latex):
            message = r"the LaTeX has a \label{…}, which cannot be seen in the picture; it is left out of the trained answer"
            problems.append(RowProblem("latex-label", "warning", message))
        if COMMENT.search(latex):
            hint = r"write \% for a percent sign, or cut the comment off"
            problems.append(RowProblem("latex-comment", "warning", "the LaTeX has an unescaped %: the rest is not in the picture", hint))
        if "$" in normalised(latex).replace("\\$", ""):
            problems.append(RowProblem("latex-dollar", "note", "the LaTeX has a $ inside"))
        if record.answer is not None and not tokens(latex):
            problems.append(RowProblem("empty-answer", "error", "the LaTeX is empty"))
        return problems

    def constraint(self, sample: Sample) -> Constraint | None:  # noqa: ARG002 - LaTeX has no schema
        """None: the answer is free."""
        return None

    def parse(self, answer: Answer, sample: Sample) -> Prediction:  # noqa: ARG002 - read without the picture
        """The answer without a code fence; valid when it says anything.

        Args:
            answer: of a model.
            sample: that was answered.

        Returns:
            The LaTeX as text.
        """
        text, forgiven = unfenced(answer.text)
        return Prediction(text, bool(text), forgiven)

    def for_rows(self, samples: Sequence[Sample]) -> OcrTask:  # noqa: ARG002 - needs nothing of the set
        """Itself."""
        return self

    def counts(self, prediction: Prediction, answer: Answer, sample: Sample) -> dict[str, float]:  # noqa: ARG002 - the text is read already
        """Edit distance and length in characters after normalisation, BLEU statistics over LaTeX tokens, ``exact`` and ``rows``."""
        got, wanted = tokens(prediction.value or ""), tokens(sample.reference or "")
        n_edits, n_characters = _edits(prediction, sample)
        exact = float(got == wanted)
        return {**bleu_counts(got, [wanted]), "edits": float(n_edits), "characters": float(n_characters), "exact": exact, "rows": 1.0}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``exact_match`` of normalised LaTeX, ``cer`` (edits per character of the truth, can exceed 1), ``bleu`` over tokens."""
        cer = ratio(sums["edits"], sums["characters"])
        return {"exact_match": ratio(sums["exact"], sums["rows"]), "cer": cer, "bleu": bleu(sums)}

    def row_scores(self, prediction: Prediction, sample: Sample) -> dict[str, float]:
        """``similarity`` (1 - CER, not below 0) and ``exact_match`` of one row."""
        n_edits, n_characters = _edits(prediction, sample)
        exact = tokens(prediction.value or "") == tokens(sample.reference or "")
        return {"similarity": max(0.0, 1 - n_edits / max(1, n_characters)), "exact_match": float(exact)}

    def details(self, predictions: Sequence[Prediction], answers: Sequence[Answer], samples: Sequence[Sample]) -> dict[str, Any]:  # noqa: ARG002
        """``by_length``: rows and exact matches by the truth's length in tokens."""
        table: dict[str, list[int]] = {}
        for prediction, sample in zip(predictions, samples, strict=True):
            wanted = tokens(sample.reference or "")
            name = next((f"up to {limit}" for limit in (20, 40, 60, 100) if len(wanted) <= limit), "over 100")
            row = table.setdefault(name, [0, 0])
            row[0] += 1
            row[1] += tokens(prediction.value or "") == wanted
        return {"by_length": {name: {"n": n, "exact_match": exact / n} for name, (n, exact) in table.items()}}


def _edits(prediction: Prediction, sample: Sample) -> tuple[int, int]:
    from rapidfuzz.distance import Levenshtein

    wanted = normalised(sample.reference or "")
    return Levenshtein.distance(normalised(prediction.value or ""), wanted), len(wanted)
