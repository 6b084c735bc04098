"""Whether the tuned model is better than the one it started from, in figures and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from weitiao.report import svg
from weitiao.report.read import RunRecord, Side
from weitiao.report.wording import LOWER_IS_BETTER, MAIN_METRIC, OWN_UNIT, difference, figure, label, span

LEAST_ROWS = 6
"""Test rows from which on all of them changing for the better is significant: by a sign test, 2 / 2^6 is below 0.05."""
STOPPED = {"failed": "failed", "interrupted": "was interrupted"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A value of one model, ready to be shown."""

    value: float
    text: str
    interval: str


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A line of the table of metrics."""

    name: str
    label: str
    lower_is_better: bool
    baseline: Figure | None
    tuned: Figure | None
    gain: Figure | None
    judgement: str
    """``better``, ``worse``, ``open`` (the interval includes 0, or rows are few), ``same`` (nothing moved), or empty without a gain."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The top of the page."""

    main: MetricRow | None
    rows: tuple[MetricRow, ...]
    headline: str
    sentence: str
    warnings: tuple[str, ...]
    n: int
    forest: Markup | None


def judge(record: RunRecord) -> Verdict:
    """Compare the two models of a run.

    Args:
        record: the run; either model may be missing.

    Returns:
        The main metric first, then the others in the order of ``scores.json``.
    """
    main = _main_metric(record)
    names = list(dict.fromkeys([*_metrics(record.tuned), *_metrics(record.baseline)]))
    names.sort(key=lambda name: name != main)
    rows = tuple(_row(name, record) for name in names)
    best = rows[0] if rows else None
    n = int((record.tuned.scores or record.baseline.scores or {}).get("n", 0))
    headline, sentence = _words(best, record, n)
    return Verdict(best, rows, headline, sentence, tuple(_warnings(record)), n, _forest(rows, record) if rows else None)


def _metrics(side: Side) -> Mapping[str, float]:
    return {name: value for name, value in (side.scores.get("metrics") or {}).items() if isinstance(value, (int, float))}


def _main_metric(record: RunRecord) -> str | None:
    """The metric that chose the checkpoint; what the recipe asks for, else the usual one, where the run stopped before it was recorded."""
    known = {**_metrics(record.baseline), **_metrics(record.tuned)}
    asked_for = (record.recipe.get("evaluate") or {}).get("select_by")
    selecting = (record.facts.get("training") or {}).get("select_by")
    return next((name for name in (selecting, asked_for, MAIN_METRIC.get(record.task), *known) if name in known), None)


def _row(name: str, record: RunRecord) -> MetricRow:
    gain = known(record.gain.get(name))
    change = None
    if gain:
        value, low, high = gain
        change = Figure(value, difference(name, value), span(name, low, high, signed=True))
    lower = name in LOWER_IS_BETTER
    sides = (_figure(name, record.baseline), _figure(name, record.tuned))
    n = int(record.tuned.scores.get("n") or 0)
    return MetricRow(name, label(name), lower, *sides, change, _judgement(gain, lower, n) if gain else "")


def _figure(name: str, side: Side) -> Figure | None:
    value = _metrics(side).get(name)
    if value is None:
        return None
    limits = _limits(name, side)
    return Figure(value, figure(name, value), span(name, limits[0], limits[1]) if limits else "")


def _limits(name: str, side: Side) -> Sequence[float] | None:
    return known((side.scores.get("intervals") or {}).get(name))


def known(values: Sequence[float | None] | None) -> list[float] | None:
    """The values, None where they are missing or one of them is not defined."""
    found = [value for value in values or () if value is not None]
    return found if values and len(found) == len(values) else None


def _judgement(gain: Sequence[float], lower_is_better: bool, n: int) -> str:
    if not any(gain):
        return "same"
    if n < LEAST_ROWS:
        return "open"
    low, high = (-gain[2], -gain[1]) if lower_is_better else (gain[1], gain[2])
    return "better" if low > 0 else "worse" if high < 0 else "open"


def _words(main: MetricRow | None, record: RunRecord, n: int) -> tuple[str, str]:
    if main is None and 0 in (record.tuned.scores.get("n"), record.baseline.scores.get("n")):
        return "No test rows", "Nothing was measured on held-out rows: neither data.split.test nor data.test gave any."
    if main is None:
        return "Not scored yet", "The run has no scores: it stopped before a model was evaluated."
    if main.tuned is None:
        return "The tuned model was not scored", "The run stopped after its baseline; `weitiao run … --resume` goes on where it stopped."
    if main.baseline is None:
        return "No baseline to compare with", "The base model was not scored, so there is no gain to show."
    if main.gain is None:
        return (
            "No comparison",
            "The run's scores.json has no gain for this metric, so the two figures stand side by side without an interval.",
        )
    found = f"{main.gain.text} in {main.label} (95 % interval {main.gain.interval})"
    if main.judgement == "open" and n < LEAST_ROWS:
        return "No proof of a gain", f"{found}: {n} test rows are too few for one, whatever they say; {LEAST_ROWS} is the least."
    words = {
        "same": ("No difference", f"Both models have the same {main.label}: tuning changed nothing that this metric sees."),
        "better": ("Better than the base model", f"{found}: the interval excludes 0."),
        "worse": ("Worse than the base model", f"{found}: the interval excludes 0, on the wrong side."),
        "open": ("No proof of a gain", f"{found}: the interval includes 0. More test rows would narrow it."),
    }
    return words[main.judgement]


def _warnings(record: RunRecord) -> list[str]:
    found = [f"Not readable: {problem}" for problem in record.unreadable]
    status = str(record.facts.get("status") or "")
    if status in {"failed", "interrupted"}:
        found.insert(0, f"This run {STOPPED[status]} before its end; what follows is what it left behind.")
    for name, side in (("base", record.baseline), ("tuned", record.tuned)):
        share = side.scores.get("length_limited") or 0
        if share > 0:
            found.append(
                f"{figure('length_limited', share)} of the {name} model's answers ran into the limit on new tokens"
                " (evaluate.max_new_tokens): they are cut off there, or were brought to the shortest end that their form allows."
            )
    return found


def _forest(rows: Sequence[MetricRow], record: RunRecord) -> Markup:
    """Each metric of both models as a dot with its interval, on an axis from 0 to 1, or to the largest value where it has its own unit."""
    step, left, right = 54, 14, 446
    parts: list[str] = []
    for place, row in enumerate(rows):
        y = 14 + place * step
        shown = [
            (name, drawn, _limits(row.name, side)) for (name, side), drawn in zip(_sides(record), (row.baseline, row.tuned), strict=True)
        ]
        highest = max([*(drawn.value for _, drawn, _ in shown if drawn), *(pair[1] for *_, pair in shown if pair)])
        own_scale = row.name in OWN_UNIT or highest > 1
        x = svg.Scale(0, highest * 1.1 if own_scale else 1, left, right)
        remark = [
            text for text, holds in (("lower is better", row.lower_is_better), (f"0 to {figure(row.name, x.high)}", own_scale)) if holds
        ]
        small = svg.tag("tspan", "  " + ", ".join(remark), class_="axis-title")
        parts.append(svg.tag("text", row.label, small, x=left - 8, y=y, class_="name", **{"xml:space": "preserve"}))
        figures = " → ".join(drawn.text for _, drawn, _ in shown if drawn)
        parts.append(svg.tag("text", figures, x=right + 8, y=y, class_="name", text_anchor="end"))
        parts.append(svg.tag("line", x1=left, x2=right, y1=y + 20, y2=y + 20, class_="track"))
        for (name, drawn, pair), at in zip(shown, (y + 15, y + 25), strict=True):
            if drawn is None:
                continue
            if pair:
                parts.append(svg.tag("line", x1=x(pair[0]), x2=x(pair[1]), y1=at, y2=at, class_=f"whisker {name}"))
            title = svg.tag("title", f"{name}: {drawn.text} ({drawn.interval})")
            parts.append(svg.tag("circle", title, cx=x(drawn.value), cy=at, r=5, class_=f"dot {name}"))
    return svg.canvas("Metrics of the base and the tuned model with their 95 % intervals", parts, step * len(rows) - 4)


def _sides(record: RunRecord) -> tuple[tuple[str, Side], ...]:
    return (("baseline", record.baseline), ("tuned", record.tuned))
