"""ner: a text in, its named entities out, one JSON object per entity and line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weitiao.errors import RowError
from weitiao.recipe.tasks import Ner
from weitiao.seams import Answer, AnswerMode, Constraint, Entity, Prediction, Record, RowProblem, Sample, text_message
from weitiao.tasks.audit import common_problems, refuse
from weitiao.tasks.entities import NOTHING, answer_lines, answer_pattern, as_reference, locate, mention
from weitiao.tasks.prompt import make_wording, prompt_messages, single_turn, source_text
from weitiao.tasks.reading import read_objects
from weitiao.tasks.scoring import f1_row, precision_recall_f1

Span = tuple[int, int, str]


def default_system(labels: Sequence[str]) -> str:
    """The system message for these entity types."""
    types = f"，类型有：{'、'.join(labels)}" if labels else ""
    return f"你负责从文本中找出命名实体{types}。每个实体输出一行 JSON，键为 entity_text 和 entity_label；没有实体时只输出：{NOTHING}"


class NerTask:
    """A text in, its entities out; see ``Task`` for what each method promises."""

    kind: str = "ner"
    answer_mode: AnswerMode = "generate"
    default_metric: str = "entity_f1"
    lower_is_better: frozenset[str] = frozenset()
    questions: tuple[Sample, ...] = ()
    needs_likelihood: bool = False

    def __init__(self, section: Ner, system: str | None = None) -> None:
        """Keep types and wording.

        Args:
            section: of the recipe.
            system: the recipe's ``data.system``.
        """
        self.labels = tuple(section.labels or ())
        self.wording = make_wording(section.prompt, "{text}", system)

    def _types(self, candidates: Sequence[str]) -> tuple[str, ...]:
        return self.labels or tuple(candidates)

    def make_sample(self, record: Record) -> Sample:
        """The conversation; the answer as JSON lines in the order of the text.

        Args:
            record: a row with its text and, unless it is only to be answered, its entities or an answer that lists them.

        Returns:
            A sample whose reference is a list of ``{start, end, text, label}``; offsets count characters, ``end`` is exclusive.

        Raises:
            RowError: ``check_record`` finds an error in the record.
        """
        record = single_turn(record)
        refuse(record, self.check_record(record))
        types = self._types(record.candidates)
        messages = prompt_messages(self.wording, record, default_system(types))
        entities = _wanted(record)
        if entities is None:
            return Sample(record.id, record.origin, messages, group=record.group, candidates=types)
        reference = as_reference(entities)
        answer = text_message("assistant", answer_lines(reference))
        return Sample(record.id, record.origin, (*messages, answer), reference, record.group, types)

    def check_record(self, record: Record) -> list[RowProblem]:
        """Offsets that do not fit the text, unknown types, spans annotated twice, an answer that cannot be read."""
        try:
            record = single_turn(record)
        except RowError as err:
            return [RowProblem("not-one-turn", "error", err.what, err.hint)]
        problems = common_problems(record)
        if any(problem.severity == "error" for problem in problems):
            return problems
        if record.entities is None and record.answer is not None:
            problems.extend(_check_answer(record.answer, record.text))
        entities = _wanted(record) or ()
        for entity in entities:
            problems.extend(_check_span(entity, record.text))
            if entity.surface != entity.surface.strip():
                message = f"white space around the entity {entity.surface!r} is left out"
                problems.append(RowProblem("blanks-around-entity", "warning", message))
            types = self._types(record.candidates)
            if types and entity.label not in types:
                hint = f"known types: {', '.join(types)}"
                problems.append(RowProblem("unknown-label", "error", f"the entity type {entity.label!r} is not known", hint))
        twice = [span for span, n in Counter((entity.start, entity.end) for entity in set(entities)).items() if n > 1]
        if twice:
            start, end = twice[0]
            message = f"the span {start}:{end} {record.text[start:end]!r} has several types"
            problems.append(RowProblem("span-with-several-types", "warning", message))
        return problems

    def constraint(self, sample: Sample) -> Constraint | None:
        """JSON lines with the known entity types, or the sentence for no entities."""
        return Constraint(regex=answer_pattern(self._types(sample.candidates)))

    def parse(self, answer: Answer, sample: Sample) -> Prediction:
        """The entities of the answer, found in the text.

        Args:
            answer: JSON lines, a JSON list, or the sentence for no entities.
            sample: that was answered.

        Returns:
            A list in the form of the reference; an entity that does not stand in the text, or not so often, is left out and flagged, once
            for each time it was named.
        """
        reading = read_objects(answer.text)
        forgiven = list(reading.forgiven)
        mentions = []
        for found in reading.objects:
            known = mention(found)
            if known is None:
                forgiven.append("an object without text or label")
                continue
            if not {"entity_text", "entity_label"} <= set(found):
                forgiven.append("other keys")
            mentions.append(known)
        if not mentions:
            nothing = reading.rest.strip("。. ") == NOTHING or (reading.form == "list" and not reading.objects)
            empty = nothing or NOTHING in reading.rest
            return Prediction([] if empty else None, nothing, tuple(dict.fromkeys(forgiven)))
        types = self._types(sample.candidates)
        unknown = [f"unknown label {label}" for _, label in mentions if types and label not in types]
        located = locate(mentions, source_text(sample))
        flags = [f"{surface}: not in the text" for surface in located.invented]
        flags.extend(f"{surface}: not in the text so often" for surface in located.repeated)
        is_valid = reading.form in ("object", "list", "lines") and not unknown
        return Prediction(located.spans, is_valid, tuple(dict.fromkeys([*forgiven, *unknown])), tuple(flags))

    def for_rows(self, samples: Sequence[Sample]) -> NerTask:  # noqa: ARG002 - needs nothing of the set
        """Itself."""
        return self

    def counts(self, prediction: Prediction, answer: Answer, sample: Sample) -> dict[str, float]:  # noqa: ARG002 - the text is read already
        """``tp``, ``fp``, ``fn`` by exact span and type; an entity without a place in the text is an ``fp`` too (its flag)."""
        wanted, got = _spans(sample.reference), _spans(prediction.value)
        return {"tp": float(len(wanted & got)), "fp": float(len(got - wanted) + len(prediction.flags)), "fn": float(len(wanted - got))}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``entity_f1``, ``entity_precision``, ``entity_recall``: micro over all entities of all rows."""
        precision, recall, f1 = precision_recall_f1(sums["tp"], sums["fp"], sums["fn"])
        return {"entity_f1": f1, "entity_precision": precision, "entity_recall": recall}

    def row_scores(self, prediction: Prediction, sample: Sample) -> dict[str, float]:
        """``entity_f1`` of one row: 1 where there is no entity and none was named; an answer that cannot be read has 0."""
        if prediction.value is None:
            return {"entity_f1": 0.0}
        wanted, got = _spans(sample.reference), _spans(prediction.value)
        tp, fp, fn = (np.asarray(float(n)) for n in (len(wanted & got), len(got - wanted) + len(prediction.flags), len(wanted - got)))
        return {"entity_f1": float(precision_recall_f1(tp, fp, fn)[2])}

    def details(self, predictions: Sequence[Prediction], answers: Sequence[Answer], samples: Sequence[Sample]) -> dict[str, Any]:  # noqa: ARG002
        """``types``: precision, recall, F1, counts and support per entity type; rows without entities and how many stayed so.

        ``not_in_text`` counts what was named without a place in the text, and so is in no type's ``fp``.
        """
        totals: dict[str, Counter[str]] = {}
        empty = empty_right = 0
        for prediction, sample in zip(predictions, samples, strict=True):
            wanted, got = _spans(sample.reference), _spans(prediction.value)
            for kind, spans in (("tp", wanted & got), ("fp", got - wanted), ("fn", wanted - got)):
                for _, _, label in spans:
                    totals.setdefault(label, Counter(tp=0, fp=0, fn=0))[kind] += 1
            empty += not wanted
            empty_right += not wanted and prediction.value == [] and not prediction.flags
        types = {label: {**f1_row(total), "support": total["tp"] + total["fn"]} for label, total in sorted(totals.items())}
        strays = [len(prediction.flags) for prediction in predictions]
        not_in_text = {"entities": sum(strays), "rows": sum(map(bool, strays))}
        return {"types": types, "not_in_text": not_in_text, "rows_without_entities": {"n": empty, "right": empty_right}}


def _wanted(record: Record) -> Sequence[Entity] | None:
    """The row's entities; those of its answer where it has no list of its own; None for a row without an answer."""
    if record.entities is not None or record.answer is None:
        return record.entities
    mentions = [found for found in map(mention, read_objects(record.answer).objects) if found]
    spans = locate(mentions, record.text).spans
    return [Entity(found["start"], found["end"], found["text"], found["label"]) for found in spans]


def _check_answer(answer: str, text: str) -> list[RowProblem]:
    objects = read_objects(answer).objects
    mentions = [found for found in map(mention, objects) if found]
    if not mentions and NOTHING not in answer and answer.strip() != "[]":
        hint = f'one {{"entity_text": …, "entity_label": …}} per line, or {NOTHING}'
        return [RowProblem("invalid-json", "error", "the answer names no entities in a known form", hint)]
    located = locate(mentions, text)
    invented = [f"the entity {surface!r} does not stand in the text" for surface in located.invented]
    repeated = [f"the entity {surface!r} does not stand in the text so often" for surface in located.repeated]
    return [RowProblem("value-not-in-text", "warning", message) for message in (*invented, *repeated)]


def _check_span(entity: Entity, text: str) -> list[RowProblem]:
    if 0 <= entity.start < entity.end <= len(text) and text[entity.start : entity.end] == entity.surface:
        return []
    there = text[max(0, entity.start) : max(0, entity.end)]
    hint = "offsets count characters from 0, and the end is exclusive"
    message = f"at {entity.start}:{entity.end} stands {there!r}, not {entity.surface!r}"
    return [RowProblem("offsets-do-not-fit", "error", message, hint)]


def _spans(entities: Sequence[Mapping[str, Any]] | None) -> set[Span]:
    return {(entity["start"], entity["end"], entity["label"]) for entity in entities or ()}
