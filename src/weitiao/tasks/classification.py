"""classification: a text in, one of a set of labels out; or several of them.

One label: the candidates are scored as answers, so nothing else can be said and each has a probability. Several labels: they are
generated, joined by ``SEPARATOR`` in the order of the candidates, with ``NO_LABEL`` for none of them, and compared as sets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from weitiao.errors import RowError
from weitiao.recipe.tasks import Classification
from weitiao.seams import NO_LABEL, Answer, AnswerMode, Constraint, Prediction, Record, RowProblem, Sample, literal, text_message
from weitiao.tasks.audit import common_problems, refuse
from weitiao.tasks.prompt import make_wording, prompt_messages, single_turn
from weitiao.tasks.scoring import f1_row, plain, precision_recall_f1, ratio

SYSTEM = "你是一个文本分类领域的专家，你会接收到一段文本和几个潜在的分类选项，请输出文本内容的正确类型"
PROMPT = "文本:{text},类型选型:{category}"
SEPARATOR = "；"
"""Between labels of a multi-label answer; no label holds it."""
OTHER_SEPARATORS = re.compile(r"([;,，、|\n])")
"""Read between labels as well, where the text around them is no label."""
UNREADABLE = "(none of the labels)"
"""Column of the confusion matrix for answers that are no label."""


def answer_pattern(labels: Sequence[str]) -> str:
    """What a multi-label answer may be, as a regular expression: labels in their order, or ``NO_LABEL``.

    Args:
        labels: the candidates.

    Returns:
        A pattern that every trained answer matches. Which label is the last one is chosen first, so that no look-ahead is needed.
    """
    escaped = [literal(label) for label in labels]
    before = [f"(?:{label}{SEPARATOR})?" for label in escaped]
    return "|".join([re.escape(NO_LABEL), *("".join(before[:i]) + last for i, last in enumerate(escaped))])


class ClassificationTask:
    """A text in, labels out; see ``Task`` for what each method promises."""

    kind: str = "classification"
    default_metric: str = "macro_f1"
    lower_is_better: frozenset[str] = frozenset()
    questions: tuple[Sample, ...] = ()
    needs_likelihood: bool = False

    def __init__(self, section: Classification, system: str | None = None) -> None:
        """Keep labels and wording.

        Args:
            section: of the recipe.
            system: the recipe's ``data.system``.
        """
        self.labels = tuple(section.labels or ())
        self.multi_label = section.multi_label
        self.answer_mode: AnswerMode = "generate" if section.multi_label else "labels"
        self.wording = make_wording(section.prompt, PROMPT, system)

    def make_sample(self, record: Record) -> Sample:
        """The conversation, with the labels to choose from in the prompt.

        Args:
            record: a row with its text and, unless it is only to be answered, its label.

        Returns:
            A sample whose reference is the label, or for multi-label rows the list of labels in the order of the candidates.

        Raises:
            RowError: ``check_record`` finds an error in the record.
        """
        record = self._with_candidates(single_turn(record))
        refuse(record, self.check_record(record))
        messages = prompt_messages(self.wording, record, SYSTEM)
        wanted = self._wanted(record)
        if wanted is None:
            return Sample(record.id, record.origin, messages, group=record.group, candidates=record.candidates)
        if self.multi_label:
            reference: Any = [label for label in record.candidates if label in wanted]
            answer = SEPARATOR.join(reference) or NO_LABEL
        else:
            reference = answer = wanted[0]
        spoken = (*messages, text_message("assistant", answer))
        return Sample(record.id, record.origin, spoken, reference, record.group, record.candidates)

    def _with_candidates(self, record: Record) -> Record:
        """The row's own candidates; the recipe's labels where it has none or where these alone are allowed."""
        candidates = tuple(dict.fromkeys(record.candidates or self.labels))
        return record if candidates == record.candidates else replace(record, candidates=candidates)

    def _wanted(self, record: Record) -> tuple[str, ...] | None:
        """The right labels; None for a row without an answer. A multi-label row whose answer is empty or ``NO_LABEL`` has none."""
        if self.multi_label:
            said = record.labels or (None if record.answer is None else (record.answer,))
            return None if said is None else tuple(label for text in said for label in _split(text, record.candidates))
        if record.labels:
            return record.labels
        return None if record.answer is None else (record.answer.strip(),)

    def check_record(self, record: Record) -> list[RowProblem]:
        """No candidates, several labels for a task of one, labels outside the candidates, labels that several could not be told from."""
        try:
            record = self._with_candidates(single_turn(record))
        except RowError as err:
            return [RowProblem("not-one-turn", "error", err.what, err.hint)]
        problems = [problem for problem in common_problems(record) if not (self.multi_label and problem.code == "empty-answer")]
        if len(record.candidates) < 2:
            hint = "list them as task.labels, or name the column of candidates in data.columns"
            problems.append(RowProblem("no-candidates", "error", "the row has fewer than two labels to choose from", hint))
        unclear = (
            [label for label in record.candidates if label.strip() in ("", NO_LABEL) or SEPARATOR in label] if self.multi_label else []
        )
        if unclear:
            message = f"the label {unclear[0]!r} cannot be read back from an answer of several labels"
            hint = f"rename it: {SEPARATOR} stands between labels, and {NO_LABEL} or nothing says that a row has none"
            problems.append(RowProblem("unclear-label", "error", message, hint))
        wanted = self._wanted(record)
        if wanted is None or any(problem.severity == "error" for problem in problems):
            return problems
        if not self.multi_label and len(wanted) != 1:
            hint = "set task.multi_label: true where a row can have several"
            problems.append(RowProblem("several-labels", "error", f"the row has {len(wanted)} labels", hint))
        outside = [label for label in wanted if label not in record.candidates]
        if outside:
            message = f"the label {outside[0]!r} is not among the candidates {', '.join(record.candidates[:10])}"
            problems.append(RowProblem("label-outside-candidates", "error", message, "mend the label, or add it to the candidates"))
        strange = [label for label in record.candidates if self.labels and label not in self.labels]
        if strange:
            hint = "add it to task.labels, or leave task.labels out"
            problems.append(RowProblem("unknown-label", "error", f"the candidate {strange[0]!r} is not in task.labels", hint))
        return problems

    def constraint(self, sample: Sample) -> Constraint | None:
        """The labels to choose from; for multi-label rows any of them, each at most once and in their order, or ``NO_LABEL``."""
        choices = self._choices(sample)
        return Constraint(regex=answer_pattern(choices)) if self.multi_label else Constraint(choices=choices)

    def _choices(self, sample: Sample) -> tuple[str, ...]:
        return sample.candidates or self.labels

    def parse(self, answer: Answer, sample: Sample) -> Prediction:
        """The label, or the list of labels, that the answer names.

        Args:
            answer: of a model.
            sample: that was answered.

        Returns:
            A label exactly as in the candidates; None where the answer names none of them, or several for a task of one.
        """
        choices = self._choices(sample)
        if self.multi_label:
            return _read_labels(answer.text, choices)
        text = answer.text.strip()
        if text in choices:
            return Prediction(text, True)
        same = [label for label in choices if plain(label).casefold() == plain(text).strip("\"'`「」“”。.:：").casefold()]
        if same:
            return Prediction(same[0], False, ("spelling",))
        named = _named(text, choices)
        return Prediction(named[0], False, ("text around the label",)) if len(named) == 1 else Prediction(None, False)

    def for_rows(self, samples: Sequence[Sample]) -> ClassificationTask:  # noqa: ARG002 - needs nothing of the set
        """Itself."""
        return self

    def counts(self, prediction: Prediction, answer: Answer, sample: Sample) -> dict[str, float]:  # noqa: ARG002 - the text is read already
        """``right`` and ``rows``, and per class ``tp:LABEL``, ``fp:LABEL``, ``fn:LABEL`` where they are not 0."""
        wanted, got = self._sets(prediction, sample)
        right = prediction.value is not None and wanted == got
        table = {f"tp:{label}": 1.0 for label in wanted & got}
        table |= {f"fp:{label}": 1.0 for label in got - wanted} | {f"fn:{label}": 1.0 for label in wanted - got}
        return {"right": float(right), "rows": 1.0, **table}

    def _sets(self, prediction: Prediction, sample: Sample) -> tuple[set[str], set[str]]:
        if self.multi_label:
            return set(sample.reference or ()), set(prediction.value or ())
        return {sample.reference}, set() if prediction.value is None else {prediction.value}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``accuracy`` (multi-label: all labels right) and ``macro_f1``; for multi-label tasks ``micro_f1`` too.

        ``macro_f1`` is the mean over the classes that occur as a label or as an answer, as in scikit-learn.
        """
        zero = np.zeros_like(np.asarray(sums["rows"], dtype=np.float64))
        classes = sorted({name.split(":", 1)[1] for name in sums if ":" in name})
        per_class = [[sums.get(f"{kind}:{label}", zero) for kind in ("tp", "fp", "fn")] for label in classes]
        occurs = [np.asarray(tp + fp + fn > 0) for tp, fp, fn in per_class]
        f1 = [np.where(there, precision_recall_f1(*counts)[2], 0.0) for there, counts in zip(occurs, per_class, strict=True)]
        values = {
            "accuracy": ratio(sums["right"], sums["rows"]),
            "macro_f1": ratio(sum(f1, zero), sum((there.astype(float) for there in occurs), zero), 1.0),
        }
        if self.multi_label:
            tp, fp, fn = (sum((counts[i] for counts in per_class), zero) for i in range(3))
            values["micro_f1"] = precision_recall_f1(tp, fp, fn)[2]
        return values

    def row_scores(self, prediction: Prediction, sample: Sample) -> dict[str, float]:
        """``accuracy`` of one row; for multi-label tasks its F1 first, 0 for an answer that cannot be read."""
        wanted, got = self._sets(prediction, sample)
        exact = {"accuracy": float(prediction.value is not None and wanted == got)}
        if not self.multi_label:
            return exact
        tp, fp, fn = (np.asarray(float(n)) for n in (len(wanted & got), len(got - wanted), len(wanted - got)))
        f1 = 0.0 if prediction.value is None else float(precision_recall_f1(tp, fp, fn)[2])
        return {"f1": f1, **exact}

    def details(self, predictions: Sequence[Prediction], answers: Sequence[Answer], samples: Sequence[Sample]) -> dict[str, Any]:  # noqa: ARG002
        """``classes``: precision, recall, F1, counts and support per class; for one label, ``confusion`` with its ``labels``."""
        totals: dict[str, Counter[str]] = {}
        for prediction, sample in zip(predictions, samples, strict=True):
            wanted, got = self._sets(prediction, sample)
            for kind, labels in (("tp", wanted & got), ("fp", got - wanted), ("fn", wanted - got)):
                for label in labels:
                    totals.setdefault(label, Counter(tp=0, fp=0, fn=0))[kind] += 1
        classes = {label: {**f1_row(total), "support": total["tp"] + total["fn"]} for label, total in sorted(totals.items())}
        if self.multi_label:
            return {"classes": classes}
        names = [*classes, UNREADABLE] if any(prediction.value is None for prediction in predictions) else list(classes)
        place = {name: i for i, name in enumerate(names)}
        matrix = [[0] * len(names) for _ in names]
        for prediction, sample in zip(predictions, samples, strict=True):
            got_name = UNREADABLE if prediction.value is None else prediction.value
            matrix[place[sample.reference]][place[got_name]] += 1
        return {"classes": classes, "confusion": {"labels": names, "rows_are_the_truth": matrix}}


def _split(text: str, choices: Sequence[str]) -> list[str]:
    """The labels that an answer lists, those outside the choices too; a choice that holds another separator stays whole."""
    known = {label.strip(): label for label in choices}
    longest = max((len(OTHER_SEPARATORS.split(label)) for label in known), default=1)
    labels = []
    for listed in text.split(SEPARATOR):
        # Pieces and the separators between them, in turn.
        pieces = OTHER_SEPARATORS.split(listed)
        at = 0
        while at < len(pieces):
            ends = range(min(at + longest, len(pieces)), at, -2)
            end = next((end for end in ends if "".join(pieces[at:end]).strip() in known), at + 1)
            label = "".join(pieces[at:end]).strip()
            labels.append(known.get(label, label))
            at = end + 1
    return [] if labels == [NO_LABEL] else [label for label in labels if label]


def _read_labels(text: str, choices: Sequence[str]) -> Prediction:
    if text.strip() == NO_LABEL:
        return Prediction([], True)
    said = _split(text, choices)
    known = [label for label in choices if label in said]
    forgiven = [f"unknown label {label}" for label in said if label not in choices]
    if len(said) != len(set(said)):
        forgiven.append("repeated label")
    if not known:
        known = _named(text, choices)
        forgiven = ["text around the labels"]
    return Prediction(known or None, not forgiven, tuple(forgiven) if known else ())


def _named(text: str, choices: Sequence[str]) -> list[str]:
    """Labels that stand in a text, those inside a longer one that stands there left out."""
    there = [label for label in choices if label in text]
    return [label for label in there if not any(label != other and label in other for other in there)]
