"""One pass over all records: what the task says of each, which can be used, and the facts that the audit needs."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.data.audit import Facts, histogram
from weitiao.data.image_checks import ImageCounter, ImageFacts, image_problem, image_statistics, look_at_images
from weitiao.data.json_answers import json_object
from weitiao.data.keys import ImageHashes, hashed, input_text
from weitiao.data.leaks import LeakCounter
from weitiao.data.near import NearIndex
from weitiao.data.rows import N_EXAMPLES, Tally, counted
from weitiao.data.sources import has_several_labels
from weitiao.data.store import Store, completed
from weitiao.errors import RowError
from weitiao.log import progress
from weitiao.seams import Finding, Record, RowProblem, Sample, Task

NEAR = 0.8
"""Overlap of 3-grams from which on two texts are near duplicates."""
NEAR_VALUES = 0.5
"""The same for the values of one field of JSON answers, which are short."""
MAX_NEAR_TEXTS = 100_000
"""Texts that are compared with one another, unless the split is to keep all near duplicates together."""
LONG_VALUE = 16
"""Characters from which on a value of an answer is compared with the others, where it has more than one word or clause."""
CLAUSES = re.compile(r"[，。！？；,;!?\s]")
FAMILY_SHARE = 0.1
"""Share of the rows from which on a family of near-equal values is reported."""
CHUNK_ROWS = 256


@dataclass(slots=True)
class Checked:
    """What the pass over all records found."""

    facts: Facts
    kept: np.ndarray
    """Numbers of the rows that can be used, ascending."""
    findings: list[Finding]
    families: list[list[int]]
    """Near duplicates: row numbers, each family ascending."""
    statistics: dict[str, Any]


def check_records(store: Store, candidates: tuple[str, ...], task: Task, tally: Tally, *, all_near: bool) -> Checked:
    """Check every record.

    Args:
        store: of all records.
        candidates: labels for records that name none.
        task: says what only it can see.
        tally: gets the rows that cannot be used.
        all_near: whether near duplicates are sought among all rows, however many.

    Returns:
        The facts of all rows, and findings over those that can be used.
    """
    facts, problems, leaks, near = Facts(ImageHashes()), ProblemCounter(), LeakCounter(), _Near(all_near)
    kept, pictured = array("q"), ImageCounter()
    pictures: dict[Path, ImageFacts] = {}
    with progress("checking", len(store)) as advance:
        for row, (stored, images) in enumerate(with_images(store, pictures)):
            record = completed(stored, candidates)
            found = task.check_record(record)
            try:
                sample = usable_sample(record, task, [*found, *filter(None, [image_problem(images)])])
            except RowError as err:
                tally.reject(record.origin, err)
                facts.add(record, is_kept=False)
            else:
                if has_several_labels(task) and sample.has_answer:
                    record = replace(record, labels=tuple(sample.reference), answer=sample.messages[-1].text)
                kept.append(row)
                problems.add(record.origin, found)
                leaks.add(record)
                facts.add(record, is_kept=True)
                if images:
                    pictured.add(record.origin, images)
                else:
                    near.add(row, record, facts)
            advance(1)
    families, near_findings = near.findings(store)
    findings = [*problems.findings(), *leaks.findings(), *near_findings, *pictured.findings()]
    readable = [fact for fact in pictures.values() if not fact.problem]
    more = {"images": image_statistics(readable, histogram)} if readable else {}
    return Checked(facts, np.array(kept, dtype=np.int64), findings, families, more)


def with_images(store: Store, known: dict[Path, ImageFacts]) -> Iterator[tuple[Record, list[ImageFacts]]]:
    """Every record with what was seen in its images, opened a block of rows at a time.

    Args:
        store: of records.
        known: what was seen by path; gets every image that it lacks.

    Yields:
        A record and the facts of its images.
    """
    records = iter(store)
    while chunk := list(islice(records, CHUNK_ROWS)):
        known.update(look_at_images(path for record in chunk for path in record.images if path not in known))
        for record in chunk:
            yield record, [known[path] for path in record.images]


def usable_sample(record: Record, task: Task, problems: Sequence[RowProblem]) -> Sample:
    """The sample of a record that has no error.

    Args:
        record: with its candidates.
        task: makes the sample.
        problems: what was found in the record.

    Returns:
        The sample.

    Raises:
        RowError: a problem has severity ``error``, or the task makes no sample of the record.
    """
    for problem in problems:
        if problem.severity == "error":
            raise RowError(problem.message, where=record.origin, hint=problem.hint)
    return task.make_sample(record)


@dataclass(slots=True)
class _Said:
    """What was said of rows with one trouble."""

    first: RowProblem
    n_rows: int = 0
    is_alike: bool = True
    """Whether the same message was said of all of them."""
    origins: list[str] = field(default_factory=list)

    @property
    def message(self) -> str:
        if self.n_rows == 1:
            return self.first.message
        return f"{self.n_rows} rows: {self.first.message}" if self.is_alike else f"{self.n_rows} rows, such as: {self.first.message}"


class ProblemCounter:
    """Gathers what is said of single rows into findings by code."""

    def __init__(self) -> None:
        self._found: dict[str, _Said] = {}

    def add(self, origin: str, problems: Iterable[RowProblem]) -> None:
        """Count each code once for this row."""
        seen = set()
        for problem in problems:
            if problem.code in seen:
                continue
            seen.add(problem.code)
            said = self._found.setdefault(problem.code, _Said(problem))
            said.n_rows += 1
            said.is_alike = said.is_alike and problem.message == said.first.message
            if len(said.origins) < N_EXAMPLES:
                said.origins.append(origin)

    def findings(self) -> list[Finding]:
        """One finding per code, worded as for the first row that had it."""
        return [
            Finding(code, said.first.severity, said.n_rows, said.message, tuple(said.origins), said.first.hint)
            for code, said in self._found.items()
        ]


class _Near:
    """Near duplicates among texts, and among the long values of JSON answers, field by field."""

    def __init__(self, all_texts: bool) -> None:
        self._texts = NearIndex(NEAR, 4, None if all_texts else MAX_NEAR_TEXTS)
        self._fields: dict[str, tuple[NearIndex, set[int]]] = {}
        self._seen: set[int] = set()
        self._n_rows = 0

    def add(self, row: int, record: Record, facts: Facts) -> None:
        """Take a row whose facts were added last; of equal texts the first one stands for all."""
        self._n_rows += 1
        if not self._texts.is_full and facts.input_keys[-1] not in self._seen:
            self._seen.add(facts.input_keys[-1])
            self._texts.add(row, input_text(record))
        for name, value in _long_values(record).items():
            index, seen = self._fields.setdefault(name, (NearIndex(NEAR_VALUES, 3, MAX_NEAR_TEXTS), set()))
            if not index.is_full and (key := hashed(value)) not in seen:
                seen.add(key)
                index.add(row, value)

    def findings(self, store: Store) -> tuple[list[list[int]], list[Finding]]:
        """Families of near-equal texts, and what is to be said of them and of the answers' values."""
        families = self._texts.families(lambda row: input_text(store[row]))
        out = []
        if families:
            n_rows = sum(map(len, families))
            limited = f" among the first {MAX_NEAR_TEXTS} texts" if self._texts.is_full else ""
            several = f"{counted(len(families), 'family', 'families')}, the largest of {len(families[0])}"
            message = f"{n_rows} texts are nearly equal to another{limited} ({several})"
            hint = "keep each family in one part of the split: data.split.near: true"
            out.append(Finding("near-duplicates", "warning", n_rows, message, _origins(store, families[0]), hint))
        for name, (index, _) in self._fields.items():
            values = index.families(lambda row, name=name: _long_values(store[row])[name])  # type: ignore[misc]
            if values and len(values[0]) >= max(10, FAMILY_SHARE * self._n_rows):
                message = f"{len(values[0])} values of `{name}` are near duplicates of one another"
                hint = "the data varies less than its number of rows says; a model may learn the phrase instead of the task"
                out.append(Finding("near-values", "warning", len(values[0]), message, _origins(store, values[0]), hint))
        return families, out


def _long_values(record: Record) -> Mapping[str, str]:
    found = json_object(record.answer) if record.answer and not record.labels and not record.images else None
    return {
        name: value
        for name, value in (found or {}).items()
        if isinstance(value, str) and len(value) >= LONG_VALUE and CLAUSES.search(value)
    }


def _origins(store: Store, rows: Sequence[int]) -> tuple[str, ...]:
    return tuple(store[row].origin for row in rows[:N_EXAMPLES])
