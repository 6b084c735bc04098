"""Drawing: scales, ticks and charts as SVG whose colours come from the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from weitiao.report.wording import number

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 30
"""Margins around the plotting area, in the chart's own units (about a pixel each)."""
MAX_POINTS = 400
"""Points per drawn line; longer series are thinned, keeping the lowest and highest of each stretch."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    """Class in the style sheet: ``tuned``, ``baseline``, ``faint``."""
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values onto the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies in the drawing."""
        share = (value - self.low) / (self.high - self.low) if self.high != self.low else 0.5
        return round(self.start + share * (self.end - self.start), 2)


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element; texts are escaped, ``class_`` is written ``class`` and underscores become hyphens."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"' for key, value in attributes.items() if value is not None
    )
    return Markup(f"<{name}{shown}>{''.join(escape(child) for child in children)}</{name}>")


def _short(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def ticks(low: float, high: float, n: int = 4) -> list[float]:
    """About ``n`` round values from ``low`` to ``high``."""
    if high <= low:
        return [low]
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 12) for i in range(math.floor(high / step + 1e-9) - first + 1)]


def thinned(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most ``limit`` points: of each stretch the lowest and the highest, in their order."""
    if len(points) <= limit:
        return list(points)
    stretch = math.ceil(len(points) / (limit // 2))
    kept = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept.extend(sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}))
    return kept


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_title: str,
    y_range: tuple[float, float] | None = None,
    mark: tuple[float, str] | None = None,
    height: int = HEIGHT,
    percent: bool = False,
    x_percent: bool = False,
) -> Markup:
    """Lines over a common axis.

    Args:
        title: what the chart shows, for those who cannot see it.
        series: at least one, each with at least one point.
        x_title: what the horizontal axis counts.
        y_range: limits of the vertical axis; those of the points when None.
        mark: a place on the horizontal axis and the word that stands there.
        height: of the drawing, in its own units.
        percent: whether the vertical axis is a share of 1, shown in percent.
        x_percent: whether the horizontal axis is one too.

    Returns:
        An ``svg`` element.
    """
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    low, high = y_range or _padded(min(ys), max(ys), 1.0 if percent and max(ys) <= 1 else None)
    x = Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y = Scale(low, high, height - BOTTOM, TOP)
    parts = [_axes(x, y, height, x_title, percent, x_percent)]
    if mark:
        at = x(mark[0])
        side = "end" if at > WIDTH * 0.7 else "start"
        parts.append(tag("line", x1=at, x2=at, y1=TOP, y2=height - BOTTOM, class_="mark"))
        word = tag("text", mark[1], x=at + (-6 if side == "end" else 6), y=height - BOTTOM - 8, class_="mark-label", text_anchor=side)
        parts.append(word)
    for line in series:
        places = [(x(a), y(b)) for a, b in thinned(line.points)]
        parts.append(tag("polyline", points=" ".join(f"{a:g},{b:g}" for a, b in places), class_=f"line {line.style}"))
        if line.dots:
            parts.extend(
                tag("circle", tag("title", f"{line.name}: {number(b)} at {number(a)}"), cx=x(a), cy=y(b), r=3.2, class_=f"dot {line.style}")
                for a, b in line.points
            )
    return canvas(title, parts, height)


def bars(title: str, rows: Sequence[tuple[str, float]], *, style: str = "tuned") -> Markup:
    """Lying bars with their names and counts.

    Args:
        title: what the chart shows.
        rows: name and value of each bar, values >= 0.
        style: class of the bars.

    Returns:
        An ``svg`` element.
    """
    top = max((value for _, value in rows), default=0) or 1
    step, left = 20, 14 + 7 * min(20, max((text_width(name) for name, _ in rows), default=0))
    parts = []
    for place, (name, value) in enumerate(rows):
        y = place * step
        shown = name if text_width(name) <= 22 else clipped(name, 21) + "…"
        parts.append(tag("text", tag("title", name), shown, x=left - 8, y=y + 14, class_="tick", text_anchor="end"))
        length = (WIDTH - left - 60) * value / top
        parts.append(tag("rect", x=left, y=y + 4, width=max(length, 1.0), height=step - 7, rx=2, class_=f"bar {style}"))
        parts.append(tag("text", number(value), x=left + length + 6, y=y + 14, class_="tick"))
    return canvas(title, parts, step * len(rows) + 4)


def histogram(title: str, edges: Sequence[float], counts: Sequence[float], *, x_title: str) -> Markup:
    """Standing bars over ranges of a quantity.

    Args:
        title: what the chart shows.
        edges: limits of the ranges, ascending, one more than counts.
        counts: rows in each range.
        x_title: the quantity.

    Returns:
        An ``svg`` element.
    """
    height = 170
    n = len(counts)
    x = Scale(0, n, LEFT, WIDTH - RIGHT)
    y = Scale(0, max(counts) or 1, height - BOTTOM, TOP)
    parts = [_axes(None, y, height, x_title)]
    for i, count in enumerate(counts):
        text = f"{number(edges[i])} to {number(edges[i + 1])}: {number(count)}"
        parts.append(
            tag(
                "rect",
                tag("title", text),
                x=x(i) + 1,
                y=y(count),
                width=max(x(1) - x(0) - 2, 1.0),
                height=height - BOTTOM - y(count),
                class_="bar tuned",
            )
        )
    every = max(1, math.ceil(n / 6))
    parts.extend(
        tag("text", number(edges[i]), x=x(i), y=height - BOTTOM + 13, class_="tick", text_anchor="middle") for i in range(0, n + 1, every)
    )
    return canvas(title, parts, height)


def canvas(title: str, parts: Sequence[str], height: float) -> Markup:
    """The ``svg`` element around a drawing of the common width."""
    return tag("svg", tag("title", title), *parts, viewBox=f"0 0 {WIDTH} {height:g}", role="img", class_="chart")


def text_width(text: str) -> int:
    """Columns that a text takes, wide characters counting two."""
    return sum(2 if ord(sign) > 0x2E7F else 1 for sign in text)


def clipped(text: str, width: int) -> str:
    """The beginning of a text that fits into ``width`` columns."""
    used = 0
    for place, sign in enumerate(text):
        used += text_width(sign)
        if used > width:
            return text[:place]
    return text


def _padded(low: float, high: float, ceiling: float | None) -> tuple[float, float]:
    """Some room around the values, from 0 on where they come near it, up to ``ceiling`` where they cannot exceed it."""
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    floor = 0.0 if 0 <= low <= max(0.35 * high, room) else low - room
    return floor, high + room if ceiling is None else min(high + room, ceiling)


def _axes(x: Scale | None, y: Scale, height: int, x_title: str, percent: bool = False, x_percent: bool = False) -> Markup:
    parts = []
    for value in ticks(y.low, y.high):
        at = y(value)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", _tick(value, percent), x=LEFT - 6, y=at + 4, class_="tick", text_anchor="end"))
    if x:
        marks = [value for value in ticks(x.low, x.high, 5) if not (x.high > 10 and value != round(value))]
        for value in marks:
            parts.append(tag("text", _tick(value, x_percent), x=x(value), y=height - BOTTOM + 14, class_="tick", text_anchor="middle"))
    parts.append(tag("text", x_title, x=WIDTH - RIGHT, y=height - 3, class_="axis-title", text_anchor="end"))
    return Markup("").join(parts)


def _tick(value: float, percent: bool) -> str:
    return f"{100 * value:g} %" if percent else f"{value:,g}"
