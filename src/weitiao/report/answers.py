"""Answers side by side: which changed between the models, which are the worst, and where an answer differs from the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from weitiao.report import svg
from weitiao.report.differences import compare_values
from weitiao.report.formulas import Blackboard
from weitiao.report.pictures import Album
from weitiao.report.read import RunRecord
from weitiao.report.wording import as_text, label

N_SHOWN = 20
"""Answers shown of each kind; all of them are in ``answers.jsonl``."""
GRADUAL = frozenset({"caption", "chat", "text"})
"""Kinds of work whose answers are rarely right to the letter: there, an answer changed when its score moved by ``MOVED``."""
MOVED = 0.1


@dataclass(frozen=True, slots=True)
class Line:
    """One value of an answer: the truth, and what each model said."""

    name: str
    reference: Markup
    baseline: Markup | None
    tuned: Markup | None


@dataclass(frozen=True, slots=True)
class Card:
    """One test row with both answers."""

    id: str
    origin: str
    prompt: str
    picture: Markup | None
    lines: tuple[Line, ...]
    scores: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """The section on answers."""

    n_fixed: int
    n_broken: int
    n_right: int
    """Right before and after; where answers are right by degrees, those that did not move."""
    n_wrong: int
    """Wrong before and after."""
    gradual: bool
    words: tuple[str, str]
    """What ``n_fixed`` and ``n_broken`` count, for this kind of work."""
    fixed: tuple[Card, ...]
    broken: tuple[Card, ...]
    worst: tuple[Card, ...]
    examples: tuple[Card, ...]
    by_length: Markup | None
    flags: tuple[tuple[str, int], ...]


def sort_answers(record: RunRecord) -> Answers | None:
    """Join the answers of both models by row and sort them by what became of them.

    Args:
        record: the run.

    Returns:
        The section, None where neither model answered.
    """
    before = {str(row.get("id")): row for row in record.baseline.answers}
    after = {str(row.get("id")): row for row in record.tuned.answers}
    if not before and not after:
        return None
    album, board = Album(), Blackboard() if record.task == "ocr" else None
    gradual = record.task in GRADUAL
    temperature = float(((record.tuned.scores.get("details") or {}).get("confidence") or {}).get("temperature") or 1)

    def cards(ids: Sequence[str]) -> tuple[Card, ...]:
        return tuple(_card(before.get(id_), after.get(id_), album, board, temperature) for id_ in ids[:N_SHOWN])

    both = [id_ for id_ in after if id_ in before and main_score(before[id_]) is not None and main_score(after[id_]) is not None]
    change = {id_: _change(before[id_], after[id_], gradual) for id_ in both}
    fixed = sorted((id_ for id_ in both if change[id_] == "fixed"), key=lambda id_: _score(before[id_]) - _score(after[id_]))
    broken = sorted((id_ for id_ in both if change[id_] == "broken"), key=lambda id_: _score(after[id_]) - _score(before[id_]))
    shown = after or before
    worst = sorted((id_ for id_ in shown if not is_right(shown[id_])), key=lambda id_: _score(shown[id_]))
    return Answers(
        n_fixed=len(fixed),
        n_broken=len(broken),
        n_right=sum(kind == "right" for kind in change.values()),
        n_wrong=sum(kind == "wrong" for kind in change.values()),
        gradual=gradual,
        words=("better by more than a tenth", "worse by more than a tenth") if gradual else ("wrong → right", "right → wrong"),
        broken=cards(broken),
        fixed=cards(fixed),
        worst=cards(worst),
        examples=cards(list(shown)[:6]),
        by_length=_by_length(record),
        flags=_flag_counts(list(shown.values())),
    )


def main_score(row: Mapping[str, Any]) -> float | None:
    """The first of a row's scores, in [0, 1]; None where it has none."""
    return next((float(value) for value in (row.get("scores") or {}).values() if isinstance(value, (int, float))), None)


def is_right(row: Mapping[str, Any]) -> bool:
    """Whether an answer is right in full: by its exact match where it has one, else by its main score."""
    exact = (row.get("scores") or {}).get("exact_match")
    return bool(exact >= 1) if isinstance(exact, (int, float)) else _score(row) >= 1


def _score(row: Mapping[str, Any]) -> float:
    value = main_score(row)
    return 1.0 if value is None else value


def _change(before: Mapping[str, Any], after: Mapping[str, Any], gradual: bool) -> str:
    old, new = _score(before), _score(after)
    if gradual:
        return "fixed" if new - old > MOVED else "broken" if old - new > MOVED else "right"
    kinds = {(False, True): "fixed", (True, False): "broken", (True, True): "right", (False, False): "wrong"}
    return kinds[is_right(before), is_right(after)]


def _card(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, album: Album, board: Blackboard | None, temperature: float
) -> Card:
    row: Mapping[str, Any] = after or before or {}
    notes = []
    for name, side in (("base", before), ("tuned", after)):
        if side and side.get("ended_by") == "length":
            notes.append(f"{name}: ended by the limit on new tokens")
        if side and side.get("prediction") is None:
            notes.append(f"{name}: the answer could not be read")
        notes.extend(f"{name}: {flag}" for flag in (side or {}).get("flags") or ())
    shown = [
        f"{name} {_percent(score)}"
        for name, side in (("base", before), ("tuned", after))
        if side and (score := main_score(side)) is not None
    ]
    confidence = _confidence(after, temperature)
    if confidence:
        notes.append(confidence)
    first = next(iter(row.get("scores") or {}), "")
    lines = [Line(*line) for line in compare_values(row.get("reference"), before, after)]
    drawn = board.line(row.get("reference"), before, after) if board else None
    if board and drawn:
        lines = [replace(line, name="LaTeX") for line in lines] + [Line("drawn", *drawn)]
        if after and not is_right(after) and board.looks_right(row.get("reference"), after):
            notes.append("tuned: other LaTeX, the same picture")
    return Card(
        id=str(row.get("id", "")),
        origin=str(row.get("origin", "")),
        prompt=as_text(row.get("prompt") or row.get("reference")),
        picture=album.thumbnail(row),
        lines=tuple(lines),
        scores=f"{label(first)}: {' → '.join(shown)}" if shown else "",
        notes=tuple(notes),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _confidence(row: Mapping[str, Any] | None, temperature: float) -> str:
    """The likeliest labels with their calibrated probabilities: p^(1/temperature), normalised."""
    said = (row or {}).get("probabilities") or {}
    weights = {name: float(chance) ** (1 / temperature) for name, chance in said.items()}
    chances = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    best = sorted(chances.items(), key=lambda item: -item[1])[:3]
    return "tuned is " + ", ".join(f"{_percent(chance)} sure of {name}" for name, chance in best) if best else ""


def _flag_counts(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, int], ...]:
    unreadable = sum(row.get("prediction") is None for row in rows)
    counts = {"the answer could not be read": unreadable} if unreadable else {}
    for row in rows:
        for kind in ("flags", "forgiven"):
            for flag in row.get(kind) or ():
                text = str(flag) if kind == "flags" else f"overlooked while reading: {flag}"
                counts[text] = counts.get(text, 0) + 1
    return tuple(sorted(counts.items(), key=lambda item: -item[1])[:12])


def _by_length(record: RunRecord) -> Markup | None:
    """The mean main score of rows of like prompt length: up to eight groups of equal size."""
    lines = []
    for name, side in (("baseline", record.baseline), ("tuned", record.tuned)):
        pairs = sorted((len(str(row.get("prompt") or "")), score) for row in side.answers if (score := main_score(row)) is not None)
        n_groups = min(8, len(pairs) // 10)
        if n_groups < 2 or pairs[0][0] == pairs[-1][0]:
            continue
        groups = [pairs[len(pairs) * i // n_groups : len(pairs) * (i + 1) // n_groups] for i in range(n_groups)]
        points = [(sum(length for length, _ in group) / len(group), sum(score for _, score in group) / len(group)) for group in groups]
        lines.append(svg.Series(name, points, name, dots=True))
    if not lines:
        return None
    return svg.line_chart("Score by length of the prompt", lines, x_title="characters in the prompt", y_range=(0, 1.04), percent=True)
