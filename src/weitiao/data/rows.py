"""What passes between the steps of this room: a row as a reader gives it, and the tally of rows that were left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weitiao.errors import DataError, Problems, RowError

N_EXAMPLES = 3
"""Examples kept per reason and per finding."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row of a file before anything is known of its meaning."""

    origin: str
    """``file:row``."""
    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    """Why the row could not be read; empty for a row that could."""


class RejectedRowError(RowError):
    """A row that cannot be used; ``reason`` is the same sentence for all rows with the same trouble."""

    def __init__(self, reason: str, *, where: str, detail: str = "", hint: str = "") -> None:
        """Keep the reason apart from the row's own detail.

        Args:
            reason: what is wrong, without anything that differs from row to row.
            where: ``file:row``.
            detail: what was found in this row.
            hint: what to do about it.
        """
        super().__init__(f"{reason}: {detail}" if detail else reason, where=where, hint=hint)
        self.reason = reason


def reason_of(error: RowError) -> str:
    """The part of an error that is the same for all rows with that trouble."""
    if isinstance(error, RejectedRowError):
        return error.reason
    return re.sub(r"`[^`]*`|'[^']*'|\"[^\"]*\"|“[^”]*”|\d+", "…", error.what)


@dataclass(slots=True)
class Tally:
    """Counts rows read and rejected while a file goes by."""

    n_read: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)

    def reject(self, origin: str, error: RowError) -> None:
        """Count a rejected row and keep its message while it is among the first of its reason."""
        reason = reason_of(error)
        self.counts[reason] = self.counts.get(reason, 0) + 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < N_EXAMPLES:
            shown.append(f"{origin}: {error.what}")
        if error.hint:
            self.hints.setdefault(reason, error.hint)

    @property
    def n_rejected(self) -> int:
        """Rows left out so far."""
        return sum(self.counts.values())

    def refuse_beyond(self, allowed_share: float) -> None:
        """Stop when too many rows were rejected.

        Args:
            allowed_share: share of the rows read that may be rejected, in [0, 1].

        Raises:
            Problems: more than that, or no row at all was usable; one problem per reason.
        """
        n_kept = self.n_read - self.n_rejected
        if n_kept > 0 and self.n_rejected <= allowed_share * self.n_read:
            return
        share = self.n_rejected / self.n_read
        problems = []
        for reason, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            examples = "\n".join(self.examples[reason])
            hint = f"{examples}\n{self.hints[reason]}" if reason in self.hints else examples
            problems.append(DataError(f"{reason} ({count} rows)", hint=hint))
        what = f"{self.n_rejected} of {self.n_read} rows cannot be used ({share:.1%}); {allowed_share:.1%} may be left out"
        if n_kept > 0:
            allowance = -(-self.n_rejected * 1000 // self.n_read) / 1000
            what += f". Mend them, or allow it: data.allow_dropped: {allowance:g}"
        raise Problems(list(problems), what=what)
