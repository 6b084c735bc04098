"""Training as pictures: loss, the validation metric with the best step, learning rate and gradient norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from markupsafe import Markup

from weitiao.report import svg
from weitiao.report.read import RunRecord
from weitiao.report.wording import LOWER_IS_BETTER, MAIN_METRIC, OWN_UNIT, figure, label, number

SMOOTH_FROM = 40
"""From this many steps on, the loss of each step is drawn faintly behind its running mean."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart with its heading and one line on what it says."""

    title: str
    note: str
    drawing: Markup


def draw_curves(record: RunRecord) -> list[Picture]:
    """The curves of a run; those without a single point are left out.

    Args:
        record: the run; ``events.jsonl`` gives the loss, ``evaluations.jsonl`` the validation metrics.

    Returns:
        The pictures in the order of the page.
    """
    pictures = [_loss(record.events), _validation(record)]
    for key, title in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm")):
        pictures.append(_plain(record.events, key, title))
    return [picture for picture in pictures if picture]


def series(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Points (step, value) of the rows that have the value; a step that stands twice counts as it was last logged."""
    points = {}
    for row in rows:
        value = row.get(key)
        if isinstance(value, (int, float)) and isinstance(row.get("step"), (int, float)) and abs(value) < float("inf"):
            points[float(row["step"])] = float(value)
    return sorted(points.items())


def running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Each value replaced by the mean of its neighbours, a fortieth of the series to either side, fewer near the ends."""
    sums = [0.0, *accumulate(value for _, value in points)]
    reach = max(2, len(points) // 40)
    means = []
    for i, (step, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        means.append((step, (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)))
    return means


def _loss(events: Sequence[Mapping[str, Any]]) -> Picture | None:
    points = series(events, "loss")
    if not points:
        return None
    lines = [svg.Series("loss", points, "tuned", dots=len(points) <= 12)]
    note = f"{number(points[0][1])} at the first step, {number(points[-1][1])} at the last"
    if len(points) >= SMOOTH_FROM:
        lines = [svg.Series("each step", points, "faint"), svg.Series("running mean", running_mean(points), "tuned")]
        note += "; the bold line is its running mean"
    return Picture("Training loss", note, svg.line_chart("Training loss by step", lines, x_title="step"))


def _validation(record: RunRecord) -> Picture | None:
    rows = [{"step": row.get("step"), **(row.get("metrics") or {})} for row in record.evaluations]
    name = _selected_by(record, rows)
    points = series(rows, name) if name else []
    if not name or not points:
        return None
    training = record.facts.get("training") or {}
    best = training.get("best_step")
    if best is None:
        best = (min if name in LOWER_IS_BETTER else max)(points, key=lambda point: point[1])[0]
    value = dict(points).get(float(best))
    note = f"best at step {number(best)}" + (f": {figure(name, value)}" if value is not None else "") + ", which is what the run keeps"
    chart = svg.line_chart(
        f"{label(name)} on validation rows by step",
        [svg.Series(label(name), points, "tuned", dots=len(points) <= 60)],
        x_title="step",
        mark=(float(best), "best"),
        percent=name not in OWN_UNIT,
    )
    return Picture(f"{label(name)} on validation rows", note, chart)


def _selected_by(record: RunRecord, rows: Sequence[Mapping[str, Any]]) -> str | None:
    names = dict.fromkeys(key for row in rows for key in row if key != "step")
    chosen = (record.facts.get("training") or {}).get("select_by") or (record.recipe.get("evaluate") or {}).get("select_by")
    return next((name for name in (chosen, MAIN_METRIC.get(record.task), *names) if name in names), None)


def _plain(events: Sequence[Mapping[str, Any]], key: str, title: str) -> Picture | None:
    points = series(events, key)
    if not points:
        return None
    highest = max(value for _, value in points)
    lines = [svg.Series(title, points, "tuned")]
    drawing = svg.line_chart(f"{title} by step", lines, x_title="step", y_range=(0.0, highest * 1.08 or 1.0), height=150)
    return Picture(title, f"highest {number(highest)}", drawing)
