"""The tables that a kind of work writes into ``details`` of its scores: per field, type or class, confusion, confidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from weitiao.report import svg
from weitiao.report.read import RunRecord
from weitiao.report.wording import figure, label, number

COUNTS = frozenset({"tp", "fp", "fn", "n", "support", "n_true", "n_predicted", "rows"})
MAX_CONFUSION = 40
"""Classes up to which the confusion is shown as a matrix; beyond, only the commonest mix-ups are listed."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of a table; ``share`` in [0, 1] fills the cell's bar, ``value`` sorts it."""

    text: str
    value: float | None = None
    share: float | None = None
    style: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a heading."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    style: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing among the tables."""

    title: str
    note: str
    drawing: Markup


def task_tables(record: RunRecord) -> list[Table | Chart]:
    """Tables of the two models' ``details``, in the order of ``SECTIONS``; those that are not there are left out.

    Args:
        record: the run.

    Returns:
        Tables and charts.
    """
    before, after = (side.scores.get("details") or {} for side in (record.baseline, record.tuned))
    found: list[Table | Chart] = []
    for key, build in SECTIONS.items():
        if key in before or key in after:
            found.extend(build(before.get(key) or {}, after.get(key) or {}))
    return found


def _per(title: str, first_column: str) -> Callable[[Any, Any], list[Table | Chart]]:
    """A builder for ``{name: {precision, recall, f1, tp, fp, fn}}``."""

    def build(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> list[Table | Chart]:
        names = list(dict.fromkeys([*after, *before]))
        if not names:
            return []
        shown = after or before
        shares = [key for key in ("precision", "recall", "f1") if any(key in row for row in shown.values())]
        counts = [key for key in next(iter(shown.values())) if key in COUNTS]
        both = bool(before and after)
        columns = [first_column, *(["F1 base"] if both else []), *(label(key) for key in shares), *(label(key) for key in counts)]
        rows = []
        for name in names:
            row, old = shown.get(name) or {}, before.get(name) or {}
            cells = [Cell(name)]
            if both:
                cells.append(_share(old.get("f1"), "baseline"))
            cells.extend(_share(row.get(key), "tuned" if key == "f1" else "") for key in shares)
            cells.extend(Cell(number(row[key]) if row.get(key) is not None else "–", row.get(key)) for key in counts)
            rows.append(tuple(cells))
        note = "The tuned model, with the base model's F1 beside it." if both else f"The {'tuned' if after else 'base'} model."
        return [Table(title, note, tuple(columns), tuple(rows), "sortable")]

    return build


def _share(value: float | None, style: str) -> Cell:
    return Cell(figure("f1", value), value, value if style else None, style)


def _confusion(before: Any, after: Any) -> list[Table | Chart]:
    """``{"labels": [...], "rows_are_the_truth": [[...]]}``: a line is the right label, a column the answer."""
    content = after or before
    labels, matrix = content.get("labels") or [], content.get("rows_are_the_truth") or []
    if not labels or not matrix:
        return []
    found: list[Table | Chart] = []
    if len(labels) <= MAX_CONFUSION:
        rows = []
        for name, row in zip(labels, matrix, strict=False):
            total = sum(row) or 1
            cells = [_crossing(str(name) == str(other), count, total) for other, count in zip(labels, row, strict=False)]
            rows.append((Cell(str(name)), *cells))
        note = f"The {'tuned' if after else 'base'} model. A line is the right label, a column what the model answered."
        found.append(Table("Confusion", note, ("right label", *(str(name) for name in labels)), tuple(rows), "confusion"))
    mixed = [(count, name, other) for name, row in zip(labels, matrix, strict=False) for other, count in zip(labels, row, strict=False)]
    mixed = sorted((item for item in mixed if item[0] and item[1] != item[2]), key=lambda item: -item[0])[:10]
    if mixed:
        pairs = tuple((Cell(str(name)), Cell(str(other)), Cell(number(count), count)) for count, name, other in mixed)
        found.append(Table("Commonest mix-ups", "", ("right label", "answered", "rows"), pairs))
    return found


def _crossing(is_right: bool, count: float, total: float) -> Cell:
    return Cell(number(count) if count else "·", count, count / total if count else None, "right" if is_right else "wrong")


def _confidence(before: Any, after: Any) -> list[Table | Chart]:
    content = after or before
    found: list[Table | Chart] = []
    bins: Sequence[Mapping[str, float]] = content.get("reliability") or []
    if bins:
        points = [(row["confidence"], row["accuracy"]) for row in bins]
        lines = [svg.Series("ideal", [(0, 0), (1, 1)], "faint"), svg.Series("tuned", points, "tuned", dots=True)]
        drawing = svg.line_chart(
            "Share of right answers by confidence", lines, x_title="confidence", y_range=(0, 1.02), percent=True, x_percent=True
        )
        note = "How often the model is right when it says how sure it is; on the thin line, as often as it says."
        note += f" Expected calibration error {figure('ece', content.get('ece'))}"
        temperature = content.get("temperature")
        if temperature:
            chosen = f", chosen on {n:,} validation rows" if (n := content.get("n_valid")) else ""
            note += f" (before calibration {figure('ece', content.get('ece_raw'))}, temperature {number(temperature)}{chosen})"
        found.append(Chart("Reliability", note + ".", drawing))
    found.extend(_coverage_plot(content))
    rows = []
    for row in content.get("coverage") or ():
        valid, test = row.get("valid") or {}, row.get("test") or {}
        from_confidence = row.get("confidence")
        cells = [Cell(figure("precision", row.get("precision")), row.get("precision"))]
        cells.append(Cell("not reached" if from_confidence is None else figure("f1", from_confidence), from_confidence))
        cells.extend([_share(test.get("coverage"), "tuned"), _share(test.get("precision"), ""), _share(valid.get("coverage"), "")])
        rows.append(tuple(cells))
    if rows:
        on = f"{content['n_valid']:,} validation rows" if content.get("n_valid") else "validation rows"
        note = (
            "How many rows the model can decide alone: for a wanted precision it decides those that reach the confidence. That was chosen"
            f" on {on} as the lowest one from which on they show the precision with 95 % certainty; few rows cannot show a high one."
        )
        columns = ("wanted precision", "from confidence", "decided (test)", "right of these (test)", "decided (validation)")
        found.append(Table("Coverage", note, columns, tuple(rows)))
    return found


def _coverage_plot(content: Mapping[str, Any]) -> list[Table | Chart]:
    """What deciding the surest test rows alone gives, with the points that the thresholds of the validation rows lead to."""
    curve = [(float(coverage), float(precision)) for coverage, precision in content.get("curve") or ()]
    if len(curve) < 2:
        return []
    lines = [svg.Series("all thresholds", curve, "tuned")]
    chosen = [row.get("test") or {} for row in content.get("coverage") or () if row.get("confidence") is not None]
    points = [(row["coverage"], row["precision"]) for row in chosen if row.get("precision") is not None]
    if points:
        lines.append(svg.Series("chosen on validation rows", points, "chosen", dots=True))
    low = min(precision for _, precision in [*curve, *points])
    drawing = svg.line_chart(
        "Share of right answers among the rows decided, by the share that is decided",
        lines,
        x_title="share of test rows that the model decides alone, surest first",
        y_range=(max(0.0, low - 0.02), 1.005),
        percent=True,
        x_percent=True,
    )
    note = "Right answers among the rows that are decided, on test rows; dots are the confidences chosen on validation rows."
    return [Chart("Coverage and precision", note, drawing)]


def _by_length(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Table | Chart]:
    """``{"up to 20": {"n", "exact_match"}}``: exact matches by the truth's length in tokens."""
    rows = []
    for name in sorted({*before, *after}, key=lambda name: (not name.startswith("up"), int("".join(filter(str.isdigit, name)) or 0))):
        old, new = before.get(name) or {}, after.get(name) or {}
        n = (new or old).get("n")
        rows.append((Cell(name), Cell(str(n), n), _share(old.get("exact_match"), "baseline"), _share(new.get("exact_match"), "tuned")))
    columns = ("tokens", "rows", "base", "tuned")
    return [Table("Exact match by length", "By the length of the truth in tokens.", columns, tuple(rows))] if rows else []


def _side_by_side(title: str, names: Mapping[str, str]) -> Callable[[Any, Any], list[Table | Chart]]:
    """A builder for a handful of plain figures of each model."""

    def build(before: Mapping[str, float], after: Mapping[str, float]) -> list[Table | Chart]:
        rows = []
        for key, words in names.items():
            values = (before.get(key), after.get(key))
            if any(value is not None for value in values):
                rows.append((Cell(words), *(Cell("–" if value is None else number(value), value) for value in values)))
        return [Table(title, "", ("", "base", "tuned"), tuple(rows))] if rows else []

    return build


SECTIONS: dict[str, Callable[[Any, Any], list[Table | Chart]]] = {
    "fields": _per("Per field", "field"),
    "types": _per("Per type", "type"),
    "classes": _per("Per class", "class"),
    "confusion": _confusion,
    "confidence": _confidence,
    "by_length": _by_length,
    "not_in_text": _side_by_side("Named, but not in the text", {"entities": "entities (in no type's precision)", "rows": "rows"}),
    "rows_without_entities": _side_by_side("Rows without entities", {"n": "rows", "right": "left without, as they should be"}),
    "captions": _side_by_side("Captions", {"mean_words": "words on average", "different": "share of different ones"}),
    "lengths": _side_by_side("Length in characters, on average", {"references": "truth", "answers": "answers"}),
}
"""Key of ``details`` -> its tables. A task's new table is a line here."""
