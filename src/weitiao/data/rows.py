"""What passes between the steps of this room: a row as a reader gives it, and the tally of rows that were left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weitiao.errors import DataError, Problems, RowError
from weitiao.seams import Finding

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


def counted(n: int, one: str, many: str = "") -> str:
    """A number and its noun: ``1 row``, ``2 rows``; ``many`` where that is not ``one`` with an s."""
    return f"{n} {one if n == 1 else many or one + 's'}"


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
        if n_kept > 0 and not self.is_beyond(allowed_share):
            return
        problems = []
        for reason, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            examples = "\n".join(self.examples[reason])
            hint = f"{examples}\n{self.hints[reason]}" if reason in self.hints else examples
            problems.append(DataError(f"{reason} ({counted(count, 'row')})", hint=hint))
        what = self._said_of(allowed_share)
        if n_kept > 0:
            what += f". Mend them, or allow it: data.allow_dropped: {self._allowance:g}"
        raise Problems(list(problems), what=what)

    def is_beyond(self, allowed_share: float) -> bool:
        """Whether a larger share of the rows was rejected than is allowed."""
        return self.n_rejected > allowed_share * self.n_read

    def finding(self, allowed_share: float) -> Finding:
        """What ``refuse_beyond`` would say, as a finding; the reasons stand in the report beside it.

        Args:
            allowed_share: share of the rows read that may be rejected, in [0, 1].

        Returns:
            ``unusable-rows``, an error.
        """
        origins = tuple(origin for reason in self.examples for origin in self._origins(reason))[:N_EXAMPLES]
        hint = f"mend them, or allow it: data.allow_dropped: {self._allowance:g}"
        return Finding("unusable-rows", "error", self.n_rejected, self._said_of(allowed_share), origins, hint)

    @property
    def in_words(self) -> str:
        """Every reason with its count and the first rows that it was given for, the most frequent one first."""
        reasons = []
        for reason, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            more = ", …" if count > N_EXAMPLES else ""
            reasons.append(f"{reason} ({counted(count, 'row')}: {', '.join(self._origins(reason))}{more})")
        return "; ".join(reasons)

    def _origins(self, reason: str) -> list[str]:
        # An example reads `file:row: what is wrong`.
        return [shown.split(": ", 1)[0] for shown in self.examples[reason]]

    def _said_of(self, allowed_share: float) -> str:
        share = self.n_rejected / self.n_read
        return f"{self.n_rejected} of {self.n_read} rows cannot be used ({share:.1%}); {allowed_share:.1%} may be left out"

    @property
    def _allowance(self) -> float:
        return -(-self.n_rejected * 1000 // self.n_read) / 1000
