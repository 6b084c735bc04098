"""An answer drawn in the way of its kind of work, as HTML: bars of labels, entities marked in the text, a table of fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

COLOURS = ("#bfdbfe", "#bbf7d0", "#fde68a", "#fecaca", "#ddd6fe", "#fbcfe8", "#bae6fd", "#d9f99d")
"""Backgrounds of entity types, in the order in which they come."""
MOST_LABELS = 12


@dataclass(frozen=True, slots=True)
class Shown:
    """One model's answer, read by its task."""

    answer: str
    prediction: Any
    is_valid: bool
    seconds: float
    probabilities: Mapping[str, float] | None = None
    flags: tuple[str, ...] = ()
    problem: str = ""
    """Why there is no answer; empty where there is one."""

    @property
    def likeliest(self) -> list[tuple[str, float]]:
        """Labels with their probabilities, the likeliest first, ``MOST_LABELS`` at most; empty where labels were not scored."""
        return sorted((self.probabilities or {}).items(), key=lambda item: -item[1])[:MOST_LABELS]


def draw(shown: Shown, kind: str, text: str) -> str:
    """The HTML of an answer.

    Args:
        shown: the answer.
        kind: of work.
        text: that was asked about.

    Returns:
        HTML in which nothing of the answer or the text is taken for markup.
    """
    if shown.problem:
        return str(Markup('<p class="weitiao-problem">{}</p>').format(shown.problem))
    view = VIEWS.get(kind, _plain)(shown, text) if shown.is_valid else _unreadable(shown)
    notes = Markup("").join(Markup('<p class="weitiao-flag">{}</p>').format(flag) for flag in shown.flags)
    raw = Markup('<details><summary>as written, {:.1f} s</summary><pre class="weitiao-raw">{}</pre></details>')
    return str(Markup('<div class="weitiao-answer">{}{}{}</div>').format(view, notes, raw.format(shown.seconds, shown.answer)))


def formula(shown: Shown) -> str:
    """Markdown that draws an answer as a formula; empty where there is none."""
    return f"$$\n{shown.answer.replace('$', '').strip()}\n$$" if shown.answer.strip() and not shown.problem else ""


def _labels(shown: Shown, _text: str) -> Markup:
    if not shown.probabilities:
        return Markup("<p><b>{}</b></p>").format(shown.prediction)
    row = Markup(
        '<tr><th>{}</th><td class="weitiao-bar"><span style="width:{:.1f}%"></span></td><td class="weitiao-number">{:.1%}</td></tr>'
    )
    rows = Markup("").join(row.format(name, 100 * p, p) for name, p in shown.likeliest)
    return Markup('<table class="weitiao-labels">{}</table>').format(rows)


def _entities(shown: Shown, text: str) -> Markup:
    found = [item for item in shown.prediction or () if isinstance(item, Mapping)]
    spans = sorted({(int(e["start"]), int(e["end"]), str(e["label"])) for e in found if {"start", "end", "label"} <= set(e)})
    kinds = list(dict.fromkeys(label for _, _, label in spans))
    pieces, position = [], 0
    mark = Markup('<mark style="background:{}">{}<small>{}</small></mark>')
    for start, end, label in spans:
        if start < position:
            continue
        pieces += [escape(text[position:start]), mark.format(COLOURS[kinds.index(label) % len(COLOURS)], text[start:end], label)]
        position = end
    pieces.append(escape(text[position:]))
    return Markup('<p class="weitiao-text">{}</p>').format(Markup("").join(pieces))


def _fields(shown: Shown, _text: str) -> Markup:
    fields: Mapping[str, Any] = shown.prediction if isinstance(shown.prediction, Mapping) else {}
    row = Markup("<tr><th>{}</th><td>{}</td></tr>")
    rows = Markup("").join(row.format(name, _value(value)) for name, value in fields.items())
    return Markup('<table class="weitiao-fields">{}</table>').format(rows)


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(shown: Shown, _text: str) -> Markup:
    said: Sequence[Any] | Any = shown.prediction
    return Markup('<p class="weitiao-text">{}</p>').format(said if isinstance(said, str) else shown.answer)


def _unreadable(shown: Shown) -> Markup:
    return Markup('<p class="weitiao-problem">This answer does not have the form of the task.</p><p class="weitiao-text">{}</p>').format(
        shown.answer
    )


View = Callable[[Shown, str], Markup]
VIEWS: dict[str, View] = {"classification": _labels, "ner": _entities, "extraction": _fields}
"""Kinds of work that have a view of their own."""

STYLE = """
.weitiao-answer table { width: 100%; border-collapse: collapse; }
.weitiao-answer th { text-align: left; padding: .25rem .75rem .25rem 0; white-space: nowrap; font-weight: 600; }
.weitiao-answer td { padding: .25rem 0; overflow-wrap: anywhere; }
.weitiao-bar { width: 60%; } .weitiao-bar span { display: block; height: .75rem; background: #2563eb; border-radius: .25rem; }
.weitiao-number { text-align: right; font-variant-numeric: tabular-nums; }
.weitiao-text, .weitiao-raw { white-space: pre-wrap; overflow-wrap: anywhere; }
.weitiao-answer mark { padding: 0 .2rem; border-radius: .25rem; color: #111; } .weitiao-answer small { margin-left: .3rem; opacity: .7; }
.weitiao-problem, .weitiao-flag { color: #b45309; }
"""
