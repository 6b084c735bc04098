"""caption: a photo in, a sentence out; a photo has one or several captions, joined by ``&&`` in the trained answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weitiao.errors import RowError
from weitiao.recipe.tasks import Caption
from weitiao.seams import Answer, AnswerMode, Constraint, Prediction, Record, RowProblem, Sample, text_message
from weitiao.tasks.audit import common_problems, missing_images, refuse
from weitiao.tasks.prompt import make_wording, prompt_messages, single_turn
from weitiao.tasks.reading import unfenced
from weitiao.tasks.scoring import ratio
from weitiao.tasks.wording import Frequencies, bleu, bleu_counts, cider_d, document_frequencies, rouge_l, words

PROMPT = "COCO Yes:"
SEPARATOR = "&&"
ROUGE_BETA = 1.2
"""Weight of recall in ROUGE-L, as in the COCO caption evaluation."""


class CaptionTask:
    """A photo in, a sentence out; see ``Task`` for what each method promises."""

    kind: str = "caption"
    answer_mode: AnswerMode = "generate"
    default_metric: str = "cider"
    lower_is_better: frozenset[str] = frozenset()
    questions: tuple[Sample, ...] = ()
    needs_likelihood: bool = False

    def __init__(self, section: Caption, system: str | None = None, captions: Mapping[str, Sequence[str]] | None = None) -> None:
        """Keep the wording, and what CIDEr needs of the whole set.

        Args:
            section: of the recipe.
            system: the recipe's ``data.system``.
            captions: all captions of each photo; from ``for_rows``.
        """
        self.section = section
        self.system = system
        self.captions = captions or {}
        counted = document_frequencies([words(caption) for caption in all_of_it] for all_of_it in self.captions.values())
        self.frequencies: Frequencies = counted
        """In the captions of how many photos an n-gram occurs."""
        self.wording = make_wording(section.prompt, PROMPT, system)

    def make_sample(self, record: Record) -> Sample:
        """The conversation: photo and prompt, and all captions joined by ``&&``.

        Args:
            record: a row with an image and, unless it is only to be answered, its captions.

        Returns:
            A sample whose reference is the list of captions, white space tidied.

        Raises:
            RowError: ``check_record`` finds an error in the record.
        """
        record = single_turn(record)
        refuse(record, self.check_record(record))
        messages = prompt_messages(self.wording, record, None)
        captions = [_tidy(caption) for caption in _captions(record) or ()]
        if not captions:
            return Sample(record.id, record.origin, messages, group=record.group)
        answer = text_message("assistant", SEPARATOR.join(captions))
        return Sample(record.id, record.origin, (*messages, answer), captions, record.group)

    def check_record(self, record: Record) -> list[RowProblem]:
        """No image, empty captions, captions with blanks at either end or line breaks."""
        try:
            record = single_turn(record)
        except RowError as err:
            return [RowProblem("not-one-turn", "error", err.what, err.hint)]
        problems = common_problems(record, needs_text=False) + missing_images(record)
        captions = _captions(record)
        if captions is None:
            return problems
        if not captions or any(not caption.strip() for caption in captions):
            problems.append(RowProblem("empty-answer", "error", "a caption is empty"))
        elif any(caption != _tidy(caption) for caption in captions):
            problems.append(RowProblem("untidy-caption", "note", "a caption has blanks at an end or a line break; it is trained without"))
        return problems

    def constraint(self, sample: Sample) -> Constraint | None:  # noqa: ARG002 - a sentence has no schema
        """None: the answer is free."""
        return None

    def parse(self, answer: Answer, sample: Sample) -> Prediction:  # noqa: ARG002 - read without the picture
        """The first caption of the answer; valid when it says anything.

        Args:
            answer: one caption, or several joined by ``&&``.
            sample: that was answered.

        Returns:
            A list with one caption, in the form of the reference; empty where the answer is.
        """
        text, forgiven = unfenced(answer.text)
        said = [_tidy(caption) for caption in text.split(SEPARATOR) if caption.strip()]
        return Prediction(said[:1], bool(said), forgiven)

    def for_rows(self, samples: Sequence[Sample]) -> CaptionTask:
        """The task that knows all captions of each photo in these rows, and how often n-grams occur in them; a bootstrap keeps both fixed.

        Where every caption is a row of its own, an answer is therefore still held against all captions of its photo.
        """
        captions: dict[str, list[str]] = {}
        for sample in samples:
            known = captions.setdefault(_photo(sample), [])
            known += [caption for caption in sample.reference or () if caption not in known]
        return CaptionTask(self.section, self.system, captions)

    def counts(self, prediction: Prediction, answer: Answer, sample: Sample) -> dict[str, float]:  # noqa: ARG002 - the text is read already
        """BLEU statistics, and sums of ROUGE-L and CIDEr-D over ``rows``."""
        got, wanted = self._words(prediction, sample)
        cider = cider_d(got, wanted, self.frequencies, len(self.captions))
        return {**bleu_counts(got, wanted), "rouge_l": rouge_l(got, wanted, ROUGE_BETA), "cider": cider, "rows": 1.0}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``bleu4`` and ``rouge_l`` in [0, 1], ``cider`` (CIDEr-D) in [0, 10]."""
        return {"bleu4": bleu(sums), "rouge_l": ratio(sums["rouge_l"], sums["rows"]), "cider": ratio(sums["cider"], sums["rows"])}

    def row_scores(self, prediction: Prediction, sample: Sample) -> dict[str, float]:
        """``rouge_l`` of one row."""
        return {"rouge_l": rouge_l(*self._words(prediction, sample), ROUGE_BETA)}

    def details(self, predictions: Sequence[Prediction], answers: Sequence[Answer], samples: Sequence[Sample]) -> dict[str, Any]:  # noqa: ARG002
        """How long captions are in words, and how many different ones there are: a model that says one thing to all shows here."""
        said = [" ".join(self._words(prediction, sample)[0]) for prediction, sample in zip(predictions, samples, strict=True)]
        n = max(1, len(said))
        return {"captions": {"mean_words": sum(len(caption.split()) for caption in said) / n, "different": len(set(said)) / n}}

    def _words(self, prediction: Prediction, sample: Sample) -> tuple[list[str], list[list[str]]]:
        got = words(prediction.value[0]) if prediction.value else []
        return got, [words(caption) for caption in self.captions.get(_photo(sample)) or sample.reference or ()]


def _captions(record: Record) -> Sequence[str] | None:
    """The row's captions; None for a row without any."""
    if record.captions:
        return record.captions
    return None if record.answer is None else record.answer.split(SEPARATOR)


def _tidy(caption: str) -> str:
    return " ".join(caption.split())


def _photo(sample: Sample) -> str:
    """What tells a photo from others: its file."""
    paths = [str(part.image) for message in sample.prompt for part in message.parts if part.image is not None]
    return "\0".join(paths) or sample.id
