"""LaTeX as a picture, where matplotlib's mathtext can draw it: the answer's picture beside the truth's tells more than the letters do."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from PIL import Image

DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\[", "\\]"), ("\\(", "\\)"))
MAX_CHARACTERS = 300
MAX_DRAWN = 120
"""Pictures of a page; each takes some hundredths of a second."""
SIZE = 18
"""Of the font in pixels."""
Side = Mapping[str, Any] | None
"""An answers row of one of the models."""
UNDRAWN = Markup('<span class="quiet">cannot be drawn</span>')


@dataclass(slots=True)
class Blackboard:
    """Draws the formulas of one page, each text once."""

    _pictures: dict[str, bytes | None] = field(default_factory=dict)

    def line(self, reference: Any, before: Side, after: Side) -> tuple[Markup, Markup, Markup] | None:
        """The pictures of truth, base answer and tuned answer.

        Args:
            reference: the truth's LaTeX.
            before: answers row of the base model, None where it has none.
            after: answers row of the tuned model, None where it has none.

        Returns:
            Three ``img`` elements, or a note instead of an answer that cannot be drawn; None where the truth itself cannot.
        """
        truth = self.picture(str(reference or ""))
        if truth is None:
            return None
        return _shown(truth), self._answer(before), self._answer(after)

    def looks_right(self, reference: Any, side: Side) -> bool | None:
        """Whether an answer's picture is that of the truth, dot for dot; None where one of them cannot be drawn."""
        truth, said = self.picture(str(reference or "")), self.picture(str((side or {}).get("prediction") or ""))
        return None if truth is None or said is None else truth == said

    def _answer(self, side: Side) -> Markup:
        drawn = None if side is None else self.picture(str(side.get("prediction") or ""))
        return UNDRAWN if drawn is None else _shown(drawn)

    def picture(self, latex: str) -> bytes | None:
        """A PNG of a formula; None where mathtext cannot draw it, or enough has been drawn."""
        text = bare(latex)
        if text not in self._pictures:
            self._pictures[text] = draw(text) if len(self._pictures) < MAX_DRAWN else None
        return self._pictures[text]


def bare(latex: str) -> str:
    """The formula without dollars and other delimiters around it."""
    text = latex.strip()
    for opening, closing in DELIMITERS:
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            return text[len(opening) : len(text) - len(closing)].strip()
    return text


def draw(latex: str) -> bytes | None:
    """Draw a formula in black on white.

    Args:
        latex: without delimiters.

    Returns:
        A PNG file; None where mathtext does not know what is written.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser

    if not latex or len(latex) > MAX_CHARACTERS or "$" in latex:
        return None
    # mathtext takes a blank behind ^ or _ for the script itself, and data sets write `x ^ { 2 }`.
    latex = re.sub(r"(?<!\\)([\^_])\s+", r"\1", latex)
    try:
        parsed = MathTextParser("agg").parse(f"${latex}$", 72, FontProperties(size=SIZE, math_fontfamily="cm"))
    except (ValueError, RuntimeError, IndexError, KeyError):
        return None
    buffer = io.BytesIO()
    Image.fromarray(255 - parsed.image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _shown(png: bytes) -> Markup:
    data = base64.b64encode(png).decode("ascii")
    return Markup('<img class="formula" src="data:image/png;base64,{}" alt="the formula, drawn">').format(data)
