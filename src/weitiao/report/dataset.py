"""The data behind the run: what was read and kept, what the audit found, how rows are split and spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from weitiao.report import svg
from weitiao.report.wording import label, number

MAX_BARS = 24
N_DROPPED = 10
PARTS = {"train", "valid", "test"}
NESTED = (("entities", "rows_without", "rows without entities"), ("images", "n", "images"))
TOKEN_FIGURES = {"tokens": "training tokens", "supervised_tokens": "of these trained", "shortened": "rows shortened to fit"}
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Spread:
    """A drawing of how rows are spread over labels or lengths."""

    title: str
    drawing: Markup
    note: str


@dataclass(frozen=True, slots=True)
class DataSection:
    """The section on data."""

    shape: str
    n_read: int
    n_kept: int
    rejected: tuple[tuple[str, int, tuple[str, ...]], ...]
    findings: tuple[Mapping[str, Any], ...]
    split: tuple[tuple[str, int, float], ...]
    """Name, rows, share."""
    spreads: tuple[Spread, ...]
    figures: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    """Reasons of rows that could not be encoded, the first of them."""


def describe_data(data: Mapping[str, Any]) -> DataSection | None:
    """Prepare ``data.json`` for the page.

    Args:
        data: its content, empty where the run has none.

    Returns:
        The section, None without content.
    """
    if not data:
        return None
    examples = data.get("rejected_examples") or {}
    split = {name: int(n) for name, n in (data.get("split") or {}).items()}
    total = sum(split.values()) or 1
    findings = sorted(data.get("findings") or (), key=lambda finding: _rank(finding.get("severity")))
    statistics, tokens = data.get("statistics") or {}, data.get("tokens") or {}
    return DataSection(
        shape=str(data.get("shape") or ""),
        n_read=int(data.get("n_read") or 0),
        n_kept=int(data.get("n_kept") or 0),
        rejected=tuple((reason, int(n), tuple(examples.get(reason) or ())) for reason, n in (data.get("rejected") or {}).items()),
        findings=tuple(findings),
        split=tuple((name, n, n / total) for name, n in split.items()),
        spreads=(*_spreads(_lengths(tokens)), *_spreads(statistics)),
        figures=tuple(_figures(statistics, tokens)),
        dropped=tuple(str(reason) for reason in (tokens.get("dropped") or {}).values())[:N_DROPPED],
    )


def _lengths(tokens: Mapping[str, Any]) -> dict[str, Any]:
    return {"tokens per row": tokens.get("histogram"), "image tokens per row": tokens.get("image_histogram")}


def _rank(severity: Any) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def _spreads(statistics: Mapping[str, Any], prefix: str = "") -> Iterator[Spread]:
    """A drawing for everything in the statistics that is a histogram or a table of counts."""
    for name, value in statistics.items():
        title = f"{prefix}{label(name)}"
        if not isinstance(value, Mapping) or not value:
            continue
        counts = _counts(value)
        if isinstance(value.get("counts"), Sequence):
            if value["counts"]:
                yield Spread(title, svg.histogram(title, value["edges"], value["counts"], x_title=label(name)), _summary(value))
        elif counts:
            rows = sorted(counts.items(), key=lambda row: -row[1])
            others = rows[MAX_BARS:]
            shown = [*rows[:MAX_BARS], *([(f"{len(others)} others", sum(count for _, count in others))] if others else [])]
            yield Spread(title, svg.bars(title, shown), "")
        else:
            yield from _spreads(value, f"{title}: ")


def _counts(table: Mapping[str, Any]) -> dict[str, float]:
    """Name -> rows of a table of counts, those of the parts of the data added up; empty where it is something else."""
    counts = {}
    for name, value in table.items():
        parts = list(value.values()) if isinstance(value, Mapping) and set(value) <= PARTS else [value]
        numbers = [float(part) for part in parts if isinstance(part, (int, float)) and not isinstance(part, bool)]
        if len(numbers) < len(parts):
            return {}
        counts[str(name)] = sum(numbers)
    return counts


def _summary(histogram: Mapping[str, Any]) -> str:
    names = {"median": "median", "p99": "99 % are at most", "max": "largest", "min": "smallest"}
    return ", ".join(f"{words} {number(histogram[key])}" for key, words in names.items() if histogram.get(key) is not None)


def _figures(statistics: Mapping[str, Any], tokens: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    plain = [(label(name), value) for name, value in statistics.items()]
    nested = [((statistics.get(group) or {}).get(key), words) for group, key, words in NESTED]
    counted = [(words, tokens.get(key)) for key, words in TOKEN_FIGURES.items()]
    for words, value in [*plain, *((words, value) for value, words in nested), *counted]:
        if isinstance(value, (int, float)):
            yield words, f"{value:,}"
