"""Formulas as pictures: mathtext says once where the signs of a formula stand; drawing it in any size is then quick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

FONTS = ("cm", "stix", "stixsans", "dejavuserif", "dejavusans")
"""Math fonts that come with matplotlib."""
LAYOUT_SIZE = 96.0
"""Font size in pixels at which positions are asked for."""


@dataclass(frozen=True, slots=True)
class Sign:
    """One glyph of a formula; lengths in units of the font size, y downwards from the top."""

    font: str
    """File of the font."""
    code: int
    """Of the character in the font."""
    size: float
    x: float
    y: float
    """Of the baseline."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of a formula stands, in units of the font size."""

    signs: tuple[Sign, ...]
    bars: tuple[tuple[float, float, float, float], ...]
    """Left, top, width and height of fraction and root lines."""
    width: float
    height: float
    depth: float
    """Of ``height``, what lies below the line that the formula stands on."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A formula in pixels."""

    ink: np.ndarray
    """Height x width, 0 (paper) to 255 (ink)."""
    centres: np.ndarray
    """x and y of each sign's middle, in the order of ``Layout.signs``."""


def lay_out(latex: str, font: str = "cm") -> Layout:
    """Ask mathtext where the signs of a formula stand.

    Args:
        latex: without delimiters.
        font: one of ``FONTS``.

    Returns:
        The positions.

    Raises:
        ValueError: mathtext cannot draw it.
    """
    from matplotlib.font_manager import FontProperties

    parsed = _parser().parse(f"${latex}$", 72, FontProperties(size=LAYOUT_SIZE, math_fontfamily=font))
    unit, above = LAYOUT_SIZE, float(parsed.height - parsed.depth)  # its y is counted upwards from the baseline
    signs = tuple(
        Sign(str(face.fname), int(code), float(size) / unit, float(x) / unit, (above - float(y)) / unit)
        for face, size, code, *_, x, y in parsed.glyphs
    )
    bars = tuple((float(x) / unit, (above - float(y) - float(h)) / unit, float(w) / unit, float(h) / unit) for x, y, w, h in parsed.rects)
    return Layout(signs, bars, float(parsed.width) / unit, float(parsed.height) / unit, float(parsed.depth) / unit)


def side_by_side(layouts: Sequence[Layout]) -> Layout:
    """Set layouts next to each other on one line, as mathtext does with the terms of a formula."""
    above = max(layout.height - layout.depth for layout in layouts)
    depth = max(layout.depth for layout in layouts)
    signs, bars, x = [], [], 0.0
    for layout in layouts:
        down = above - (layout.height - layout.depth)
        signs += [replace(sign, x=sign.x + x, y=sign.y + down) for sign in layout.signs]
        bars += [(left + x, top + down, width, height) for left, top, width, height in layout.bars]
        x += layout.width
    return Layout(tuple(signs), tuple(bars), x, above + depth, depth)


def draw(layout: Layout, size: float, margin: int = 4) -> Drawing:
    """Draw a formula.

    Args:
        layout: of ``lay_out``.
        size: of the font in pixels, at least 6.
        margin: pixels of paper on each side.

    Returns:
        The picture and where its signs are.
    """
    placed = [(_stamp(sign.font, sign.code, round(sign.size * size * 4) / 4), sign) for sign in layout.signs]
    boxes = []
    for (stamp, left, top), sign in placed:
        x, y = round(sign.x * size) + left, round(sign.y * size) - top
        boxes.append((x, y, x + stamp.shape[1], y + stamp.shape[0]))
    lines = []
    for start, above, width, height in layout.bars:
        line_top = round(above * size)
        lines.append((round(start * size), line_top, round((start + width) * size), line_top + max(1, round(height * size))))
    spans = np.array([*boxes, *lines] or [(0, 0, 1, 1)])
    x0, y0 = spans[:, 0].min() - margin, spans[:, 1].min() - margin
    ink = np.zeros((spans[:, 3].max() + margin - y0, spans[:, 2].max() + margin - x0), np.uint8)
    for ((stamp, _, _), _), (x, y, right, bottom) in zip(placed, boxes, strict=True):
        part = ink[y - y0 : bottom - y0, x - x0 : right - x0]
        np.maximum(part, stamp, out=part)
    for x, y, right, bottom in lines:
        ink[y - y0 : bottom - y0, x - x0 : right - x0] = 255
    centres = np.array([((x + right) / 2 - x0, (y + bottom) / 2 - y0) for x, y, right, bottom in boxes]).reshape(-1, 2)
    return Drawing(ink, centres)


@cache
def _parser() -> Any:
    from matplotlib.mathtext import MathTextParser

    return MathTextParser("path")


@cache
def _face(file: str) -> Any:
    from matplotlib.font_manager import get_font

    return get_font(file)


@cache
def _stamp(file: str, code: int, size: float) -> tuple[np.ndarray, int, int]:
    """A glyph's picture, and how far left and above of its origin the picture begins."""
    from matplotlib.ft2font import LoadFlags

    face = _face(file)
    face.set_size(size, 72)
    loaded = face.load_char(code, flags=LoadFlags.NO_HINTING)
    left, bottom, right, top = (value / 64 for value in loaded.bbox)
    x0, y1 = int(np.floor(left)), int(np.ceil(top))
    image = np.zeros((max(1, y1 - int(np.floor(bottom)) + 1), max(1, int(np.ceil(right)) - x0 + 1)), np.uint8)
    face.draw_glyph_to_bitmap(image, -x0, 0, loaded, antialiased=True)  # it adds the left bearing itself
    return image, x0, y1
