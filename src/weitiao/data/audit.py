"""Findings over all rows of a data set: equal rows, contradictions, overlap between parts, label balance, lengths."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weitiao.data.keys import ImageHashes, answer_text, beginning_keys, content_key, hashed, input_text, turns_of
from weitiao.data.rows import N_EXAMPLES, counted
from weitiao.data.split import TEST, TRAIN, VALID
from weitiao.seams import Finding, Record

PART_NAMES = {TRAIN: "train", VALID: "valid", TEST: "test"}
SHORT_DOCUMENT = 30
"""Characters that at least half of the documents should have."""
OriginOf = Callable[[int], str]


@dataclass(slots=True)
class Facts:
    """Numbers per row, small enough for millions of rows; filled by ``add`` in the order of the store."""

    images: ImageHashes
    input_keys: array = field(default_factory=lambda: array("Q"))
    """Of the row's own text, its instruction and its images: what decides about its part of the split."""
    turn_keys: array = field(default_factory=lambda: array("Q"))
    """Of all that the model is given, system message and roles included: rows that agree in it are equal."""
    answer_keys: array = field(default_factory=lambda: array("Q"))
    id_keys: array = field(default_factory=lambda: array("Q"))
    content_keys: array = field(default_factory=lambda: array("Q"))
    beginning_rows: array = field(default_factory=lambda: array("q"))
    beginning_keys: array = field(default_factory=lambda: array("Q"))
    """What the content key of a row would be that ends with an earlier answer of this one's conversation."""
    text_rows: array = field(default_factory=lambda: array("q"))
    text_keys: array = field(default_factory=lambda: array("Q"))
    image_rows: array = field(default_factory=lambda: array("q"))
    image_keys: array = field(default_factory=lambda: array("Q"))
    group_rows: array = field(default_factory=lambda: array("q"))
    group_keys: array = field(default_factory=lambda: array("Q"))
    label_sets: array = field(default_factory=lambda: array("i"))
    """Number of all labels of the row together, -1 where it has none: what the split shares out."""
    label_rows: array = field(default_factory=lambda: array("q"))
    label_codes: array = field(default_factory=lambda: array("i"))
    """Numbers of single labels, beside the rows that have them."""
    set_numbers: dict[tuple[str, ...], int] = field(default_factory=dict)
    label_numbers: dict[str, int] = field(default_factory=dict)
    n_input_characters: array = field(default_factory=lambda: array("I"))
    n_answer_characters: array = field(default_factory=lambda: array("I"))
    entity_counts: Counter[str] = field(default_factory=Counter)
    n_without_entities: int = 0

    def add(self, record: Record, *, is_kept: bool) -> None:
        """Take the numbers of the next row; those of a row that is not kept only fill its place."""
        row = len(self.input_keys)
        asked, answer = input_text(record), answer_text(record)
        images = [self.images.of(path) for path in record.images] if is_kept else []
        text, turns = " ".join(asked.split()), turns_of(record)
        self.input_keys.append(hashed("\0".join([record.instruction, text, *map(str, images)])))
        tidy = [f"{role}\1{text if said is asked else ' '.join(said.split())}" for role, said in turns]
        self.turn_keys.append(hashed("\0".join([*tidy, *map(str, images)])))
        self.answer_keys.append(hashed(answer))
        self.id_keys.append(hashed(record.id))
        more = [*map(str, images), *record.candidates]
        self.content_keys.append(content_key(turns, answer, more))
        for key in beginning_keys(turns, more) if is_kept else ():
            self.beginning_rows.append(row)
            self.beginning_keys.append(key)
        for key in images:
            self.image_rows.append(row)
            self.image_keys.append(key)
        if not images:
            self.text_rows.append(row)
            self.text_keys.append(hashed(text))
        if record.group:
            self.group_rows.append(row)
            self.group_keys.append(hashed(record.group))
        labels = tuple(sorted(set(record.labels)))
        self.label_sets.append(self.set_numbers.setdefault(labels, len(self.set_numbers)) if labels else -1)
        for label in labels:
            self.label_rows.append(row)
            self.label_codes.append(self.label_numbers.setdefault(label, len(self.label_numbers)))
        self.n_input_characters.append(len(asked))
        self.n_answer_characters.append(len(answer) if record.answer is None else len(record.answer))
        if record.entities is not None and is_kept:
            self.n_without_entities += not record.entities
            self.entity_counts.update(entity.label for entity in record.entities)


def continued_rows(facts: Facts) -> tuple[np.ndarray, np.ndarray]:
    """Conversations that are rows and the beginning of longer ones too, as where dialogues are unrolled into a row per answer.

    Args:
        facts: of all rows.

    Returns:
        Row numbers and uint64 keys; a row and those that go on from it share a key.
    """
    whole, begun = np.frombuffer(facts.content_keys, dtype=np.uint64), np.frombuffer(facts.beginning_keys, dtype=np.uint64)
    rows = np.frombuffer(facts.beginning_rows, dtype=np.int64)
    ends, goes_on = np.flatnonzero(np.isin(whole, begun)), np.isin(begun, whole)
    return np.concatenate([ends, rows[goes_on]]), np.concatenate([whole[ends], begun[goes_on]])


def equal_rows(facts: Facts, rows: np.ndarray, origin_of: OriginOf) -> list[Finding]:
    """Duplicates and contradictions.

    Args:
        facts: of all rows.
        rows: numbers of the rows that are used.
        origin_of: row number -> ``file:row``.

    Returns:
        ``duplicate-rows`` (input and answer equal), ``duplicate-texts`` (input equal), ``contradicting-answers``; those that are found.
    """
    inputs = np.frombuffer(facts.turn_keys, dtype=np.uint64)[rows]
    answers = np.frombuffer(facts.answer_keys, dtype=np.uint64)[rows]
    order = np.lexsort((rows, inputs))
    inputs, answers, rows = inputs[order], answers[order], rows[order]
    starts = np.flatnonzero(np.r_[True, inputs[1:] != inputs[:-1]]) if len(rows) else np.zeros(0, dtype=np.int64)
    sizes = np.diff(np.r_[starts, len(rows)])
    n_surplus = n_equal = 0
    contradicting, repeated = [], []
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        n_kinds = len(set(answers[start : start + size].tolist()))
        n_surplus += size - 1
        n_equal += size - n_kinds
        repeated.append(rows[start + 1])
        if n_kinds > 1:
            contradicting.append(rows[start : start + 2])
    out = []
    if repeated:
        origins = tuple(map(origin_of, sorted(repeated)[:N_EXAMPLES]))
        stand = counted(len(repeated), "input stands", "inputs stand")
        message = f"{stand} more than once ({counted(n_surplus, 'surplus row')}, {n_equal} of them with the same answer)"
        out.append(
            Finding("duplicate-texts", "warning", len(repeated), message, origins, "equal inputs always stay in one part of the split")
        )
    if n_equal:
        origins = tuple(map(origin_of, sorted(repeated)[:N_EXAMPLES]))
        message = f"{counted(n_equal, 'row repeats', 'rows repeat')} an earlier row, input and answer"
        out.append(Finding("duplicate-rows", "warning", int(n_equal), message, origins, "leave them out unless the repetition is meant"))
    if contradicting:
        origins = tuple(map(origin_of, np.concatenate(contradicting)[:N_EXAMPLES]))
        message = f"{counted(len(contradicting), 'input has', 'inputs have')} more than one answer"
        out.append(Finding("contradicting-answers", "warning", len(contradicting), message, origins, "decide which one is right"))
    return out


def overlaps(facts: Facts, rows: np.ndarray, parts: np.ndarray, origin_of: OriginOf) -> list[Finding]:
    """Texts, images and beginnings of conversations that stand in more than one part; ``parts`` gives each of ``rows`` its part."""
    part_of = np.full(len(facts.input_keys), -1, dtype=np.int8)
    part_of[rows] = parts
    out = []
    for code, numbers, keys, noun in (
        ("overlap-text", facts.text_rows, facts.text_keys, "texts"),
        ("overlap-image", facts.image_rows, facts.image_keys, "images"),
        ("overlap-group", facts.group_rows, facts.group_keys, "values of data.split.by"),
        ("overlap-conversation", *continued_rows(facts), "conversations that others go on from"),
    ):
        found = shared_keys(np.array(numbers, dtype=np.int64), np.array(keys, dtype=np.uint64), part_of)
        if found:
            hint = "figures on rows seen in training are too good; take them out of one of the files"
            out.append(overlap_finding(code, noun, found, part_of, origin_of, hint))
    return out


def shared_keys(numbers: np.ndarray, keys: np.ndarray, part_of: np.ndarray) -> list[tuple[int, int]]:
    """For each key that stands in several parts: two rows of different parts."""
    used = part_of[numbers] >= 0
    numbers, keys = numbers[used], keys[used]
    order = np.lexsort((numbers, part_of[numbers], keys))
    numbers, keys = numbers[order], keys[order]
    if not len(keys):
        return []
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    ends = np.r_[starts[1:], len(keys)] - 1
    first, last = numbers[starts], numbers[ends]
    crossing = part_of[first] != part_of[last]
    return sorted(zip(first[crossing].tolist(), last[crossing].tolist(), strict=True))


def overlap_finding(code: str, noun: str, pairs: Sequence[tuple[int, int]], part_of: np.ndarray, origin_of: OriginOf, hint: str) -> Finding:
    """The finding for texts or images that stand in two parts."""
    names = Counter(f"{PART_NAMES[part_of[a]]} and {PART_NAMES[part_of[b]]}" for a, b in pairs)
    message = f"{noun} stand in more than one part: " + ", ".join(f"{count} in {name}" for name, count in names.most_common())
    origins = tuple(f"{origin_of(a)} = {origin_of(b)}" for a, b in pairs[:N_EXAMPLES])
    return Finding(code, "warning", len(pairs), message, origins, hint)


def near_overlaps(
    families: Sequence[Sequence[int]], rows: np.ndarray, parts: np.ndarray, n_rows: int, origin_of: OriginOf
) -> list[Finding]:
    """Near duplicates that stand in more than one part."""
    part_of = np.full(n_rows, -1, dtype=np.int8)
    part_of[rows] = parts
    pairs = []
    for family in families:
        first = family[0]
        other = next((row for row in family if part_of[row] != part_of[first]), None)
        if other is not None:
            pairs.append((first, other))
    if not pairs:
        return []
    hint = "figures on them are too good; keep them together with data.split.near: true"
    return [overlap_finding("overlap-near", "families of near duplicates", pairs, part_of, origin_of, hint)]


def label_balance(facts: Facts, rows: np.ndarray, origin_of: OriginOf) -> list[Finding]:
    """Labels with few rows, or a single label."""
    labelled, labels = _labels_of(facts, rows)
    if not len(labels):
        return []
    names = list(facts.label_numbers)
    counts = Counter(labels.tolist())
    if len(counts) == 1:
        message = f"every row has the label `{names[next(iter(counts))]}`; there is nothing to tell apart"
        return [
            Finding("one-label", "warning", len(rows), message, tuple(map(origin_of, rows[:N_EXAMPLES])), "is the right column mapped?")
        ]
    rare = {number: count for number, count in counts.items() if count < 10}
    largest, smallest = max(counts.values()), min(counts.values())
    out = []
    if rare:
        shown = ", ".join(f"`{names[number]}` {count}" for number, count in sorted(rare.items(), key=lambda item: item[1])[:5])
        origins = tuple(origin_of(int(labelled[np.flatnonzero(labels == number)[0]])) for number in list(rare)[:N_EXAMPLES])
        message = f"{counted(len(rare), 'label has', 'labels have')} fewer than 10 rows: {shown}"
        out.append(Finding("rare-labels", "warning", len(rare), message, origins, "are they misspelt? their figures will say little"))
    elif largest >= 5 * smallest:
        least = min(counts, key=lambda number: counts[number])
        message = f"labels are uneven: from {smallest} rows (`{names[least]}`) to {largest}"
        origins = tuple(origin_of(int(row)) for row in labelled[labels == least][:N_EXAMPLES])
        out.append(Finding("uneven-labels", "note", len(counts), message, origins, "look at macro_f1 beside accuracy"))
    return out


def _labels_of(facts: Facts, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every label of these rows, as the row's number and the label's; a row with several labels stands there several times."""
    labelled, labels = np.array(facts.label_rows, dtype=np.int64), np.array(facts.label_codes, dtype=np.int32)
    used = np.isin(labelled, rows)
    return labelled[used], labels[used]


def short_documents(facts: Facts, rows: np.ndarray, kind: str, origin_of: OriginOf) -> list[Finding]:
    """Documents so short that they are hardly documents: titles, names, a list of labels."""
    lengths = np.frombuffer(facts.n_input_characters, dtype=np.uint32)[rows]
    if kind != "text" or not len(lengths) or np.median(lengths) >= SHORT_DOCUMENT:
        return []
    message = f"half of the documents have at most {np.median(lengths):.0f} characters"
    hint = "there is little to learn in continued pre-training; a list of labels belongs under task.labels, beside the file of their texts"
    return [Finding("short-documents", "note", len(rows), message, tuple(map(origin_of, rows[:N_EXAMPLES])), hint)]


def statistics(facts: Facts, rows: np.ndarray, parts: np.ndarray) -> dict[str, Any]:
    """Tables for the report: labels per part, entities per type, and lengths in characters."""
    labelled, labels = _labels_of(facts, rows)
    out: dict[str, Any] = {
        "input_characters": histogram(np.frombuffer(facts.n_input_characters, dtype=np.uint32)[rows]),
        "answer_characters": histogram(np.frombuffer(facts.n_answer_characters, dtype=np.uint32)[rows]),
    }
    if len(labels):
        part_of = parts[np.searchsorted(rows, labelled)]
        names = list(facts.label_numbers)
        out["labels"] = {
            names[number]: {part: int(((labels == number) & (part_of == code)).sum()) for code, part in PART_NAMES.items()}
            for number in sorted(set(labels.tolist()), key=lambda number: names[number])
        }
    if facts.entity_counts or facts.n_without_entities:
        out["entities"] = {"rows_without": facts.n_without_entities, "by_type": dict(facts.entity_counts.most_common())}
    return out


def histogram(values: np.ndarray, n_bins: int = 20) -> dict[str, Any]:
    """Counts in bins of equal ratio, with minimum, median, mean, 99th percentile and maximum.

    Args:
        values: whole numbers, >= 0.
        n_bins: at most so many.

    Returns:
        ``{"edges": n+1 bounds, "counts": n, "min", "median", "mean", "p99", "max"}``; bins hold ``low <= value < high``.
    """
    if not len(values):
        return {"edges": [], "counts": []}
    low, high = int(values.min()), int(values.max())
    edges = np.unique(np.round(np.geomspace(low + 1, high + 2, n_bins + 1)).astype(np.int64)) - 1
    edges[0], edges[-1] = low, high + 1
    counts, _ = np.histogram(values, bins=edges)
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "min": low,
        "median": float(np.median(values)),
        "mean": round(float(values.mean()), 1),
        "p99": float(np.percentile(values, 99)),
        "max": high,
    }
