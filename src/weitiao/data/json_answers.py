"""The JSON object inside an answer, for audits and proposals; what an answer means is for the task to say."""

from __future__ import annotations

import json
import re
from typing import Any

FENCE = re.compile(r"^\s*```(?:json)?\s*\n?(.*?)\n?\s*```\s*$", re.DOTALL | re.IGNORECASE)


def json_object(answer: str) -> dict[str, Any] | None:
    """The answer as a JSON object, a code fence around it taken off.

    Args:
        answer: any text.

    Returns:
        The object, or None where the answer is not one.
    """
    fenced = FENCE.match(answer)
    text = fenced.group(1) if fenced else answer
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
