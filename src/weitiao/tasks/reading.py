"""Reads JSON objects out of a model's answer, forgiving what can be forgiven and saying what that was.

The answer is valid when it is JSON as it stands, after removing at most one code fence around it. Everything else that is understood
(words around the JSON, trailing commas, single quotes, a missing end) is listed in ``forgiven``. Nothing here raises.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

FENCE = re.compile(r"\A```[\w+-]*[ \t]*\r?\n?(.*?)\r?\n?[ \t]*```\Z", re.DOTALL)
THINK = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer held."""

    objects: tuple[dict[str, Any], ...]
    """JSON objects in order of appearance; those inside a list are taken out of it."""
    form: Literal["object", "list", "lines", "none"]
    """What the answer was, after removing at most a code fence: one object, a list, one object per line; ``none`` is anything else."""
    forgiven: tuple[str, ...]
    rest: str
    """The answer without think block and code fence."""


def read_objects(answer: str) -> Reading:
    """Find the JSON objects of an answer: one object, a list of them, or one after the other (JSON lines).

    Args:
        answer: any text.

    Returns:
        The objects and what was forgiven; no objects where nothing could be understood.
    """
    reading = _read(answer)
    if "\\u" not in answer:
        return reading
    return replace(reading, objects=tuple(_without_halves(found) for found in reading.objects))


def _without_halves(value: Any) -> Any:
    """Texts with U+FFFD for half a surrogate pair, which no file can hold."""
    if isinstance(value, dict):
        return {_without_halves(key): _without_halves(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_halves(item) for item in value]
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if isinstance(value, str) else value


def _read(answer: str) -> Reading:
    text, forgiven = unfenced(answer)
    not_thinking = "think block" not in forgiven
    whole = parse_json(text)
    if isinstance(whole, dict):
        return Reading((whole,), "object" if not_thinking else "none", forgiven, text)
    if isinstance(whole, list):
        return Reading(tuple(item for item in whole if isinstance(item, dict)), "list" if not_thinking else "none", forgiven, text)
    lines = [parse_json(line) for line in text.split("\n") if line.strip()]
    if lines and all(isinstance(line, dict) for line in lines):
        return Reading(tuple(line for line in lines if isinstance(line, dict)), "lines" if not_thinking else "none", forgiven, text)
    objects = _scan(text)
    if objects:
        return Reading(tuple(objects), "none", (*forgiven, "text around the JSON"), text)
    objects = _repair(text)
    return Reading(tuple(objects), "none", (*forgiven, "broken JSON") if objects else forgiven, text)


def parse_json(text: str) -> Any:
    """The value that ``text`` is the JSON of; None where it is not JSON, or holds NaN or an infinite number."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is out of range")
    return value


def unfenced(answer: str) -> tuple[str, tuple[str, ...]]:
    """The answer without white space, think block and code fence around it, and which of the latter two it had."""
    text, forgiven = answer.strip().removeprefix("\ufeff"), []
    if bare := THINK.match(text):
        text = text[bare.end() :].strip()
        forgiven.append("think block")
    if fenced := FENCE.match(text):
        text = fenced.group(1).strip()
        forgiven.append("code fence")
    return text, tuple(forgiven)


def _scan(text: str) -> list[dict[str, Any]]:
    """Whole objects anywhere in a text, outermost ones only."""
    decoder = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
    objects: list[dict[str, Any]] = []
    at = text.find("{")
    while at != -1:
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError:
            end = at + 1
        except RecursionError:
            break  # nested deeper than any answer, and so from each brace that follows
        else:
            objects.append(value)
        at = text.find("{", end)
    return objects


def _repair(text: str) -> list[dict[str, Any]]:
    """Objects of broken JSON, from its first brace on, as the json-repair library understands them."""
    import json_repair

    start = text.find("{")
    if start == -1:
        return []
    try:
        value = json_repair.loads(text[start:])
        value = parse_json(json.dumps(value))
    except (ValueError, RecursionError, TypeError):
        return []
    found = value if isinstance(value, list) else [value]
    return [item for item in found if isinstance(item, dict) and item]
