"""The known name that a misspelt one was meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Find the known name that is spelt most like ``name``; case, ``-`` and ``_`` make no difference.

    Args:
        name: what was written.
        known: names that would have been right.

    Returns:
        One of ``known``, or None where none of them is near.
    """
    by_plain_form = {_plain(candidate): candidate for candidate in known}
    matches = get_close_matches(_plain(name), list(by_plain_form), n=1, cutoff=0.6)
    return by_plain_form[matches[0]] if matches else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """A hint for a wrong name: the nearest known one, or all of them.

    Args:
        name: what was written.
        known: names that would have been right, in the order in which to list them.

    Returns:
        One line without a full stop.
    """
    names = list(known)
    match = nearest_name(name, names)
    return f"did you mean `{match}`?" if match else f"known here: {', '.join(names)}"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
