"""The door's main function: sources in, checked and split samples out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from weitiao.data.audit import Facts, continued_rows, equal_rows, label_balance, near_overlaps, overlaps, short_documents, statistics
from weitiao.data.check import Checked, check_records
from weitiao.data.rows import Tally
from weitiao.data.shapes import Recognised
from weitiao.data.sources import listed, read_source, reading_of
from weitiao.data.split import TEST, TRAIN, VALID, assign_parts, group_rows, mixed
from weitiao.data.store import Store, StoredSamples, StoreWriter
from weitiao.data.values import SEPARATORS
from weitiao.errors import DataError, RowError
from weitiao.log import progress
from weitiao.recipe.sections import Data
from weitiao.seams import NO_LABEL, DataReport, Record, SampleSet, Task


@dataclass(slots=True)
class Loaded:
    """All rows that were converted: where they lie, and which source and part each came from."""

    store: Store
    sources: np.ndarray
    """Number of each row's source."""
    named_parts: np.ndarray
    """Part of the source: TRAIN, VALID or TEST."""
    weights: list[float]
    candidates: tuple[str, ...]
    shapes: list[Recognised] = field(default_factory=list)


def load_samples(section: Data, task: Task, seed: int, *, stops: bool = True) -> SampleSet:
    """Read, recognise, check and split the rows that a recipe names.

    Args:
        section: the recipe's ``data``; paths are absolute, globs, or ``hub:``.
        task: makes samples of records and says what only it can see.
        seed: of the split and of the choice among weighted sources.
        stops: whether too many unusable rows are an exception; else they are a finding of severity ``error``.

    Returns:
        Three parts, read lazily, and the report with everything that was found.

    Raises:
        DataError: a source is not there, cannot be read, or fits no shape.
        Problems: more rows than ``allow_dropped`` cannot be used, or none can; one problem per reason.
    """
    tally = Tally()
    loaded = _read_all(section, task, tally)
    checked = check_records(loaded.store, loaded.candidates, task, tally, all_near=section.split.near)
    tally.refuse_beyond(section.allow_dropped if stops else 1.0)
    parts = _split(section, loaded, checked, seed)

    def origin_of(row: int) -> str:
        return loaded.store[int(row)].origin

    facts, kept = checked.facts, checked.kept
    findings = [
        *([tally.finding(section.allow_dropped)] if tally.is_beyond(section.allow_dropped) else []),
        *checked.findings,
        *equal_rows(facts, kept, origin_of),
        *overlaps(facts, kept, parts, origin_of),
        *near_overlaps(checked.families, kept, parts, len(loaded.store), origin_of),
        *label_balance(facts, kept, origin_of),
        *short_documents(facts, kept, task.kind, origin_of),
    ]
    report = DataReport(
        shape="; ".join(shape.sentence for shape in loaded.shapes),
        n_read=tally.n_read,
        n_kept=len(kept),
        rejected=dict(tally.counts),
        rejected_examples={reason: tuple(shown) for reason, shown in tally.examples.items()},
        findings=tuple(sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))),
        split={name: int((parts == part).sum()) for name, part in (("train", TRAIN), ("valid", VALID), ("test", TEST))},
        fingerprint=_fingerprint(facts, kept, parts),
        statistics={**statistics(facts, kept, parts), **checked.statistics, "candidates": list(loaded.candidates)},
    )
    return _sample_set(loaded, facts, kept, parts, task, seed, report)


def _read_all(section: Data, task: Task, tally: Tally) -> Loaded:
    reading = reading_of(section, task)
    has_labels = _has_labels_of_its_own(task)
    writer = StoreWriter()
    sources: list[np.ndarray] = []
    weights: list[float] = []
    named: list[int] = []
    shapes: list[Recognised] = []
    labels: set[str] = set()
    try:
        with progress("reading", None) as advance:
            for part, given in ((TRAIN, section.train), (VALID, section.valid), (TEST, section.test)):
                for source in listed(given):
                    n_before = writer.n_rows
                    for record in read_source(source, reading, tally, shapes):
                        writer.add(record)
                        advance(1)
                        if part == TRAIN and not has_labels:
                            labels.update(_labels(record, several=reading.several_labels))
                    sources.append(np.full(writer.n_rows - n_before, len(weights), dtype=np.int16))
                    weights.append(source.weight)
                    named.append(part)
        store = writer.close()
    except BaseException:
        writer.discard()
        raise
    source_of = np.concatenate(sources)
    return Loaded(store, source_of, np.array(named, dtype=np.int8)[source_of], weights, tuple(sorted(labels)), shapes)


def _has_labels_of_its_own(task: Task) -> bool:
    """Whether the recipe lists the labels: then a row that names none gets the task's."""
    try:
        return bool(task.make_sample(Record("a row without candidates", "-", text="-")).candidates)
    except RowError:
        return False


def _labels(record: Record, *, several: bool) -> Iterator[str]:
    """What a row adds to the candidates of the data set: its types, its label, or each of its several ones."""
    if record.entities is not None:
        yield from (entity.label for entity in record.entities)
    elif not record.candidates:
        listed = record.labels or (SEPARATORS.split((record.answer or "").strip()) if several else ())
        yield from (label for label in listed if not several or label not in ("", NO_LABEL))


def _split(section: Data, loaded: Loaded, checked: Checked, seed: int) -> np.ndarray:
    """The part of every kept row."""
    facts, kept = checked.facts, checked.kept
    keys = [
        (np.array(rows, dtype=np.int64), np.array(values, dtype=np.uint64))
        for rows, values in ((facts.text_rows, facts.text_keys), (facts.image_rows, facts.image_keys), (facts.group_rows, facts.group_keys))
    ]
    keys.append(continued_rows(facts))
    if section.split.near:
        keys += [(np.array(family, dtype=np.int64), np.zeros(len(family), dtype=np.uint64)) for family in checked.families]
    groups = group_rows(len(loaded.store), keys)[kept]
    parts: np.ndarray = loaded.named_parts[kept].copy()
    free = parts == TRAIN
    parts[free] = assign_parts(
        np.unique(groups[free], return_inverse=True)[1],
        np.frombuffer(facts.input_keys, dtype=np.uint64)[kept][free],
        np.frombuffer(facts.label_sets, dtype=np.int32)[kept][free],
        valid=section.split.valid if section.valid is None else 0.0,
        test=section.split.test if section.test is None else 0.0,
        seed=seed,
    )
    if not (parts == TRAIN).any():
        raise DataError("no row is left for training", where="data.split", hint="lower data.split.valid and data.split.test, or add rows")
    return parts


def _fingerprint(facts: Facts, kept: np.ndarray, parts: np.ndarray) -> str:
    digest = hashlib.sha256(np.frombuffer(facts.content_keys, dtype=np.uint64)[kept].tobytes())
    digest.update(parts.astype(np.int8).tobytes())
    return digest.hexdigest()


def _sample_set(loaded: Loaded, facts: Facts, kept: np.ndarray, parts: np.ndarray, task: Task, seed: int, report: DataReport) -> SampleSet:
    repeats = _repeated_ids(np.frombuffer(facts.id_keys, dtype=np.uint64)[kept], kept)

    def samples(rows: np.ndarray) -> StoredSamples:
        return StoredSamples(loaded.store, rows, task, loaded.candidates, repeats)

    train = kept[parts == TRAIN]
    weighted = _weighted(train, loaded.sources[train], loaded.weights, np.frombuffer(facts.input_keys, dtype=np.uint64)[train], seed)
    return SampleSet(samples(weighted), samples(kept[parts == VALID]), samples(kept[parts == TEST]), report)


def _repeated_ids(keys: np.ndarray, rows: np.ndarray) -> dict[int, int]:
    """Row number -> how many earlier rows have the same id; rows with an id of their own are left out."""
    distinct, counts = np.unique(keys, return_counts=True)
    repeated = np.isin(keys, distinct[counts > 1])
    seen: Counter[int] = Counter()
    out = {}
    for row, key in zip(rows[repeated].tolist(), keys[repeated].tolist(), strict=True):
        if seen[key]:
            out[row] = seen[key]
        seen[key] += 1
    return out


def _weighted(rows: np.ndarray, sources: np.ndarray, weights: list[float], keys: np.ndarray, seed: int) -> np.ndarray:
    """Training rows by the weight of their source: whole times each, and a hashed share of them once more."""
    share = np.array(weights)[sources]
    extra = mixed(keys, seed + 7) / np.float64(2**64) < share % 1
    return np.repeat(rows, np.floor(share).astype(np.int64) + extra)
