"""extraction: a text in, a JSON object of named fields out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weitiao.errors import RowError
from weitiao.recipe.tasks import Extraction, FieldSpec
from weitiao.seams import Answer, AnswerMode, Constraint, Prediction, Record, RowProblem, Sample, text_message
from weitiao.tasks.audit import common_problems, placeholders, refuse
from weitiao.tasks.fields import canonical, comparable, is_empty, json_schema, not_in_text
from weitiao.tasks.prompt import make_wording, prompt_messages, single_turn, source_text
from weitiao.tasks.reading import read_objects
from weitiao.tasks.scoring import f1_row, precision_recall_f1, ratio


def default_system(names: Sequence[str]) -> str:
    """S5's system message for these fields."""
    listed = "、".join(names)
    return f"将文本中的{listed}提取出来，以json格式输出，字段为{listed}，值为文本中提取出来的内容。"


class ExtractionTask:
    """A text in, a JSON object of named fields out; see ``Task`` for what each method promises."""

    kind: str = "extraction"
    answer_mode: AnswerMode = "generate"
    default_metric: str = "field_f1"
    lower_is_better: frozenset[str] = frozenset()
    questions: tuple[Sample, ...] = ()
    needs_likelihood: bool = False

    def __init__(self, section: Extraction, system: str | None = None) -> None:
        """Keep fields and wording.

        Args:
            section: of the recipe.
            system: the recipe's ``data.system``.
        """
        named = section.fields
        self.fields: dict[str, FieldSpec] = dict(named) if isinstance(named, Mapping) else {name: FieldSpec() for name in named}
        self.wording = make_wording(section.prompt, "{text}", system)

    def make_sample(self, record: Record) -> Sample:
        """The conversation; the answer as compact JSON in the order of the fields.

        Args:
            record: a row with the text and, unless it is only to be answered, the wanted JSON.

        Returns:
            A sample whose reference is the dict of all fields.

        Raises:
            RowError: ``check_record`` finds an error in the record.
        """
        record = single_turn(record)
        refuse(record, self.check_record(record))
        messages = prompt_messages(self.wording, record, default_system(list(self.fields)))
        if record.answer is None:
            return Sample(record.id, record.origin, messages, group=record.group)
        said = self._answer(record) or {}
        reference = {name: canonical(said.get(name), spec) for name, spec in self.fields.items()}
        answer = text_message("assistant", json.dumps(reference, ensure_ascii=False))
        return Sample(record.id, record.origin, (*messages, answer), reference, record.group)

    def _answer(self, record: Record) -> dict[str, Any] | None:
        reading = read_objects(record.answer or "")
        return reading.objects[0] if reading.form == "object" else None

    def check_record(self, record: Record) -> list[RowProblem]:
        """Invalid JSON, missing, unknown or mistyped fields, and values that do not stand in the text."""
        try:
            record = single_turn(record)
        except RowError as err:
            return [RowProblem("not-one-turn", "error", err.what, err.hint)]
        problems = common_problems(record) + placeholders(record.answer)
        if record.answer is None or any(problem.severity == "error" for problem in problems):
            return problems
        answer = self._answer(record)
        if answer is None:
            hint = "the answer column must hold one JSON object; a ```json fence around it is understood"
            return [*problems, RowProblem("invalid-json", "error", "the answer is not a JSON object", hint)]
        extra = [key for key in answer if key not in self.fields]
        if extra:
            hint = "add them to task.fields, or take them out of the answers"
            problems.append(RowProblem("unknown-field", "error", f"the answer has fields that the task lacks: {', '.join(extra)}", hint))
        for name, spec in self.fields.items():
            problems.extend(_check_field(name, spec, answer, record.text))
        return problems

    def constraint(self, sample: Sample) -> Constraint | None:  # noqa: ARG002 - the same for every row
        """The JSON schema of the fields."""
        return Constraint(json_schema=json_schema(self.fields))

    def parse(self, answer: Answer, sample: Sample) -> Prediction:
        """The first JSON object of the answer, reduced to the fields.

        Args:
            answer: of a model.
            sample: that was answered.

        Returns:
            A dict with every field, None where the answer lacks it; a copied value that stands nowhere in the text is flagged, and an
            answer that was brought to its end by the limit on new tokens.
        """
        reading = read_objects(answer.text)
        if not reading.objects:
            return Prediction(None, False, reading.forgiven)
        found, forgiven = reading.objects[0], list(reading.forgiven)
        if len(reading.objects) > 1:
            forgiven.append("several objects")
        elif reading.form == "list":
            forgiven.append("list around the object")
        forgiven.extend(f"unknown field {key}" for key in found if key not in self.fields)
        value = {name: found.get(name) for name in self.fields}
        text = source_text(sample)
        flags = [f"{name}: not in the text" for name, spec in self.fields.items() if not_in_text(value[name], spec, text)]
        if answer.ended_by == "length":
            flags.append("ended by the limit on new tokens: the last values may be cut short or filled in")
        return Prediction(value, reading.form == "object", tuple(forgiven), tuple(flags))

    def for_rows(self, samples: Sequence[Sample]) -> ExtractionTask:  # noqa: ARG002 - needs nothing of the set
        """Itself."""
        return self

    def _field_counts(self, prediction: Prediction, sample: Sample) -> dict[str, Counter[str]]:
        """Per field: ``tp`` the wanted value is there; ``fn`` it is wanted and not there; ``fp`` a value that is not the wanted one.

        A wrong value where another was wanted is both ``fp`` and ``fn``; a field that is rightly empty counts nothing.
        """
        wanted, got = sample.reference or {}, prediction.value or {}
        table = {}
        for name, spec in self.fields.items():
            truth, claim = comparable(wanted.get(name), spec), comparable(got.get(name), spec)
            right = truth is not None and truth == claim
            table[name] = Counter(tp=right, fp=claim is not None and not right, fn=truth is not None and not right)
        return table

    def counts(self, prediction: Prediction, answer: Answer, sample: Sample) -> dict[str, float]:  # noqa: ARG002 - the text is read already
        """``tp``, ``fp``, ``fn`` over the fields, ``exact``, ``valid`` and ``rows``."""
        fields = self._field_counts(prediction, sample).values()
        total = {name: float(sum(field[name] for field in fields)) for name in ("tp", "fp", "fn")}
        exact = prediction.value is not None and total["fp"] + total["fn"] == 0
        return {**total, "exact": float(exact), "valid": float(prediction.is_valid), "rows": 1.0}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``field_f1`` (micro over fields), ``exact_match`` (all fields right), ``json_valid``."""
        return {
            "field_f1": precision_recall_f1(sums["tp"], sums["fp"], sums["fn"])[2],
            "exact_match": ratio(sums["exact"], sums["rows"]),
            "json_valid": ratio(sums["valid"], sums["rows"]),
        }

    def row_scores(self, prediction: Prediction, sample: Sample) -> dict[str, float]:
        """``field_f1`` and ``exact_match`` of one row; an answer that cannot be read has 0."""
        if prediction.value is None:
            return {"field_f1": 0.0, "exact_match": 0.0}
        fields = self._field_counts(prediction, sample).values()
        tp, fp, fn = (np.asarray(float(sum(field[name] for field in fields))) for name in ("tp", "fp", "fn"))
        exact = fp + fn == 0
        return {"field_f1": float(precision_recall_f1(tp, fp, fn)[2]), "exact_match": float(exact)}

    def details(self, predictions: Sequence[Prediction], answers: Sequence[Answer], samples: Sequence[Sample]) -> dict[str, Any]:  # noqa: ARG002
        """``fields``: precision, recall, F1 and counts per field."""
        totals = {name: Counter(tp=0, fp=0, fn=0) for name in self.fields}
        for prediction, sample in zip(predictions, samples, strict=True):
            for name, field in self._field_counts(prediction, sample).items():
                totals[name].update(field)
        return {"fields": {name: f1_row(total) for name, total in totals.items()}}


def _check_field(name: str, spec: FieldSpec, answer: Mapping[str, Any], text: str) -> list[RowProblem]:
    value = answer.get(name)
    try:
        canonical(value, spec)
    except ValueError as err:
        return [RowProblem("wrong-value", "error", f"{name}: {err}", f"mend the row, or set task.fields.{name} to fit it")]
    if is_empty(value) and not spec.optional:
        hint = f"fill it in, or set task.fields.{name}.optional: true"
        return [RowProblem("missing-field", "warning", f"{name} is missing; it is trained as empty", hint)]
    hint = f"mend the value, or set task.fields.{name}.copied: false where values are put in other words"
    return [
        RowProblem("value-not-in-text", "warning", f"{name}: {piece!r} does not stand in the text", hint)
        for piece in not_in_text(value, spec, text)
    ]
