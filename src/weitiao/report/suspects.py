"""Training rows that look wrong, worst first, and how far the search for them went."""

from __future__ import annotations

from dataclasses import dataclass

from weitiao.report.read import RunRecord
from weitiao.report.wording import as_text, duration, number


@dataclass(frozen=True, slots=True)
class SuspectRow:
    """A training row whose own answer the tuned model finds unlikely."""

    origin: str
    prompt: str
    answer: str
    model_answer: str
    loss: str
    probability: str


@dataclass(frozen=True, slots=True)
class Suspects:
    """The section on them."""

    note: str
    rows: tuple[SuspectRow, ...]


def list_suspects(record: RunRecord) -> Suspects | None:
    """Prepare ``suspects.jsonl`` for the page.

    Args:
        record: the run.

    Returns:
        The section; None where nothing was searched.
    """
    search = record.facts.get("suspects") or {}
    if not search.get("n_rows") and not record.suspects:
        return None
    n_rows, n_train = int(search.get("n_rows") or 0), int(search.get("n_train") or 0)
    note = f"{n_rows:,} of {n_train:,} training rows were looked at in {duration(float(search.get('seconds') or 0))}"
    if search.get("out_of_time"):
        note += " (the search may take a tenth of the training time, or ten seconds where that is more)"
    elif n_rows < n_train:
        note += " (evaluate.n_suspects)"
    rows = tuple(
        SuspectRow(
            origin=str(row.get("origin") or ""),
            prompt=as_text(row.get("prompt")),
            answer=as_text(row.get("answer")),
            model_answer=as_text(row.get("model_answer")),
            loss=number(float(row.get("loss") or 0)),
            probability=f"{100 * float(row.get('probability') or 0):.1f} %",
        )
        for row in record.suspects
    )
    return Suspects(note, rows)
