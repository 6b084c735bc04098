"""Cells to values: text, lists, truth; the same for JSON, csv and Arrow, where a list may also be written as text."""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

from weitiao.data.rows import RejectedRowError

SEPARATORS = re.compile(r"\s*[,，、;；|\n]\s*")
"""Between texts that stand in one cell."""


def parsed(value: Any) -> Any:
    """A cell of a text table that holds JSON or a Python literal, as that value; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text.startswith(("[", "{")):
        return value
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return value


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN, an empty text or list."""
    return value is None or value in ("", [], ()) or (isinstance(value, float) and math.isnan(value))


def text_of(value: Any, column: str, origin: str) -> str:
    """A cell as text; numbers become their digits, null and NaN become empty.

    Args:
        value: of the cell.
        column: its name, for the message.
        origin: of the row.

    Returns:
        The text, to the letter.

    Raises:
        RejectedRowError: the cell holds a list or an object.
    """
    if isinstance(value, str):
        return value
    if is_missing(value):
        return ""
    if isinstance(value, bool | int | float):
        return str(value)
    raise RejectedRowError(f"column `{column}` holds no text", where=origin, detail=f"a {type(value).__name__}")


def json_text_of(value: Any, column: str, origin: str) -> str:
    """As ``text_of``, but a list or an object becomes its JSON: an answer may be given as an object."""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return text_of(value, column, origin)


def texts_of(value: Any, column: str, origin: str) -> tuple[str, ...]:
    """A cell as a list of texts: a list, a list written as JSON, or texts between commas.

    Args:
        value: of the cell.
        column: its name, for the message.
        origin: of the row.

    Returns:
        The texts, each without blanks at its ends where the cell was one text.

    Raises:
        RejectedRowError: an item is no text.
    """
    items = parsed(value)
    if isinstance(items, list | tuple):
        return tuple(text_of(item, column, origin) for item in items)
    text = text_of(items, column, origin).strip()
    return tuple(item for item in SEPARATORS.split(text) if item)
