"""The data behind the run: what was read and kept, what the audit found, how rows are split and spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from weitiao.report import svg
from weitiao.report.wording import label

MAX_BARS = 24
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Spread:
    """A drawing of how rows are spread over labels or lengths."""

    title: str
    drawing: Markup


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
    statistics = data.get("statistics") or {}
    return DataSection(
        shape=str(data.get("shape") or ""),
        n_read=int(data.get("n_read") or 0),
        n_kept=int(data.get("n_kept") or 0),
        rejected=tuple((reason, int(n), tuple(examples.get(reason) or ())) for reason, n in (data.get("rejected") or {}).items()),
        findings=tuple(findings),
        split=tuple((name, n, n / total) for name, n in split.items()),
        spreads=tuple(_spreads(statistics)),
        figures=tuple((label(name), f"{value:,}") for name, value in statistics.items() if isinstance(value, (int, float))),
    )


def _rank(severity: Any) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def _spreads(statistics: Mapping[str, Any], prefix: str = "") -> Iterator[Spread]:
    """A drawing for everything in the statistics that is a histogram or a table of counts."""
    for name, value in statistics.items():
        title = f"{prefix}{label(name)}"
        if not isinstance(value, Mapping) or not value:
            continue
        if isinstance(value.get("edges"), Sequence) and isinstance(value.get("counts"), Sequence):
            if len(value["edges"]) == len(value["counts"]) + 1 and value["counts"]:
                yield Spread(title, svg.histogram(title, value["edges"], value["counts"], x_title=label(name)))
        elif all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value.values()):
            rows = sorted(((str(key), float(count)) for key, count in value.items()), key=lambda row: -row[1])
            more = len(rows) - MAX_BARS
            shown = rows if more <= 0 else [*rows[:MAX_BARS], (f"{more} others", sum(count for _, count in rows[MAX_BARS:]))]
            yield Spread(title, svg.bars(title, shown))
        else:
            yield from _spreads(value, f"{title}: ")
