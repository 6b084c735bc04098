"""Texts that give the answer away: a label's own name in its texts, and catalogue headers that name their subject."""

from __future__ import annotations

import re
from collections import Counter

from weitiao.data.rows import N_EXAMPLES
from weitiao.seams import Finding, Record

HEADER_LINE = re.compile(r"\s*(?:【\s*([^】\n]{1,16}?)\s*】|\[\s*([^\]\n]{1,24}?)\s*\]|([A-Za-z][\w -]{1,24})\s*:)[^\n]*(?:\n|$)")
SUBJECT = re.compile(r"分类|类别|类目|栏目|频道|学科|\b(?:category|subject|section|topic|channel|newsgroups?|keywords)\b", re.IGNORECASE)
N_HEADER_CHARACTERS = 800
MAX_LABELS = 500
"""Labels up to which their names are looked for in texts: of more, none is a class that many texts could name."""
MIN_TEXTS = 10
"""Texts of a label from which on its name in them is looked at."""


def subject_field(text: str) -> str | None:
    """The field of a text's header that names its subject.

    Args:
        text: any; its header is the run of lines at its beginning that are each ``【field】value``, ``[field] value`` or ``field: value``.

    Returns:
        The field's name without blanks, or None where there is no header of at least two lines or no such field in it.
    """
    head, position, n_lines, found = text[:N_HEADER_CHARACTERS], 0, 0, None
    while match := HEADER_LINE.match(head, position):
        if match.end() == position:
            break
        name = re.sub(r"\s", "", next(group for group in match.groups() if group is not None))
        if found is None and SUBJECT.search(name):
            found = name
        n_lines += 1
        position = match.end()
    return found if n_lines >= 2 else None


class LeakCounter:
    """Watches the texts of labelled rows."""

    def __init__(self) -> None:
        self._headers: list[str] = []
        self._fields: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._named: Counter[str] = Counter()
        self._named_elsewhere: Counter[str] = Counter()
        self._origins: dict[str, list[str]] = {}
        self._labels: dict[str, str] = {}
        """Label -> the label without case."""

    def add(self, record: Record) -> None:
        """Look at a row; one without a label is passed over."""
        if not record.labels or not record.text:
            return
        field = subject_field(record.text)
        if field is not None:
            self._fields[field] += 1
            if len(self._headers) < N_EXAMPLES:
                self._headers.append(record.origin)
        if len(self._labels) > MAX_LABELS:
            return
        self._rows.update(record.labels)
        self._labels |= {label: label.casefold() for label in record.labels if label not in self._labels}
        lowered = record.text.casefold()
        for label, name in self._labels.items():
            if len(label) > 1 and name in lowered:
                own = label in record.labels
                (self._named if own else self._named_elsewhere)[label] += 1
                if own and len(origins := self._origins.setdefault(label, [])) < N_EXAMPLES:
                    origins.append(record.origin)

    def findings(self) -> list[Finding]:
        """``header-leak`` and ``label-leak``, those that are found."""
        out = []
        if n_headers := sum(self._fields.values()):
            names = ", ".join(f"`{name}` {count}" for name, count in self._fields.most_common(3))
            message = f"{n_headers} texts open with a header that names their subject ({names})"
            hint = "a model learns to read the header; cut it off if texts come without one in use"
            out.append(Finding("header-leak", "warning", n_headers, message, tuple(self._headers), hint))
        n_all = sum(self._rows.values())
        for label, n_rows in self._rows.items() if len(self._labels) <= MAX_LABELS else ():
            n_others = n_all - n_rows
            share, elsewhere = self._named[label] / n_rows, self._named_elsewhere[label] / n_others if n_others else 0.0
            if n_rows >= MIN_TEXTS and share > 0.5 and share > 2 * elsewhere:
                message = f"`{label}` stands in {share:.0%} of its own texts and in {elsewhere:.0%} of the others"
                hint = "is it part of the text in use as well, or was it written in when the rows were labelled?"
                out.append(Finding("label-leak", "warning", self._named[label], message, tuple(self._origins[label]), hint))
        return out
