"""What people see of a result: tables and coloured text on stderr. Programs get the same values with ``--json``, on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from weitiao.preview import LookRow
    from weitiao.seams import Artifact, Comparison, DataReport, RunSummary, Scores
    from weitiao.web import Shown

N_LABELS_SHOWN = 12
FEW_ROWS = 10
"""Rows up to which a histogram says less than its two ends."""
SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def show_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    from weitiao.runs import jsonable

    sys.stdout.write(json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False) + "\n")


def show_run(summary: RunSummary) -> None:
    """The comparison, what was exported, and where everything lies."""
    console = stderr_console()
    if summary.comparison is not None:
        console.print(comparison_table(summary.comparison))
    show_artifacts(summary.artifacts)
    console.print(f"run folder  {summary.path}\nreport      {summary.report}", highlight=False, markup=False, soft_wrap=True)


def comparison_table(comparison: Comparison) -> Table:
    """Metric, baseline, tuned, gain and its 95 % interval, in the order of the task's metrics."""
    table = result_table(f"{comparison.tuned.n:,} held-out rows", ["metric", "baseline", "tuned", "gain", "95 % interval"])
    for name, tuned in comparison.tuned.metrics.items():
        gain = comparison.gain.get(name)
        before = comparison.baseline.metrics.get(name)
        change = ["-", "-"] if gain is None or None in gain else [f"{gain[0]:+.4f}", f"{gain[1]:+.4f} to {gain[2]:+.4f}"]
        table.add_row(name, number(before), number(tuned), *change)
    limited = (comparison.baseline.length_limited, comparison.tuned.length_limited)
    table.add_row("ran into the length limit", f"{limited[0]:.1%}", f"{limited[1]:.1%}", "", "", style="dim")
    return table


def show_scores(scores: Scores) -> None:
    """Metrics with their intervals."""
    table = result_table(f"{scores.n:,} rows in {scores.seconds:,.1f} s", ["metric", "value", "95 % interval"])
    for name, value in scores.metrics.items():
        interval = scores.intervals.get(name)
        table.add_row(name, number(value), "-" if interval is None or None in interval else f"{interval[0]:.4f} to {interval[1]:.4f}")
    table.add_row("ran into the length limit", f"{scores.length_limited:.1%}", "", style="dim")
    stderr_console().print(table)


def show_artifacts(artifacts: Sequence[Artifact]) -> None:
    """What was exported and where it lies."""
    for artifact in artifacts:
        say(f"{artifact.kind:<11} {artifact.path}  {size(artifact.size_bytes)}")


def show_report(report: DataReport) -> None:
    """What was read, what became of it, and what the audit found."""
    from rich.text import Text

    console = stderr_console()
    parts = ", ".join(f"{n:,} {name}" for name, n in report.split.items())
    say(f"shape: {report.shape}\n{report.n_read:,} rows read, {report.n_kept:,} kept: {parts}")
    for line in balance_lines(report.statistics):
        say(line)
    for reason, n in report.rejected.items():
        examples = ", ".join(report.rejected_examples.get(reason, ()))
        console.print(f"  rejected {n:,}: {reason} ({examples})", highlight=False, markup=False, soft_wrap=True)
    for finding in report.findings:
        head = Text(f"{finding.severity:<8}", style=SEVERITY_STYLES[finding.severity])
        places = f" ({', '.join(finding.origins)})" if finding.origins else ""
        console.print(head.append(f"{finding.message}{places}", style="default"), soft_wrap=True)
        if finding.hint:
            console.print(f"         {finding.hint}", highlight=False, markup=False, soft_wrap=True, style="dim")
    if why := report.tokens.get("not_counted"):
        say(f"token lengths were not counted: {why}")
    for title, name in (("tokens per row", "histogram"), ("image tokens per row", "image_histogram")):
        for line in histogram_lines(title, report.tokens.get(name) or {}):
            say(line)


def balance_lines(statistics: Mapping[str, Any]) -> list[str]:
    """Labels and entity types with their numbers, the most frequent first.

    Args:
        statistics: of a data report.

    Returns:
        A line for the labels and one for the entities, those that there are.
    """
    lines = []
    if labels := statistics.get("labels"):
        lines.append(f"{len(labels):,} labels: {_most({name: sum(parts.values()) for name, parts in labels.items()})}")
    if entities := statistics.get("entities"):
        lines.append(f"entities: {_most(entities['by_type'])}; rows without any: {entities['rows_without']:,}")
    return lines


def _most(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = ordered if len(ordered) <= N_LABELS_SHOWN else [*ordered[: N_LABELS_SHOWN - 2], ordered[-1]]
    words = [f"{name} {n:,}" for name, n in shown]
    return ", ".join(words if len(shown) == len(ordered) else [*words[:-1], "…", words[-1]])


def histogram_lines(title: str, spread: Mapping[str, Any]) -> list[str]:
    """A histogram as text.

    Args:
        title: what is counted.
        spread: ``edges`` and ``counts`` of its bins; may be empty.

    Returns:
        A line per bin: its bounds, a bar, and the rows in it; the last bin holds its upper bound too.
    """
    counts, edges = spread.get("counts", ()), spread.get("edges", ())
    if not counts:
        return []
    if sum(counts) <= FEW_ROWS:
        return [f"{title}: {spread['min']:,} to {spread['max']:,}"]
    width, lines = len(f"{edges[-1]:,}"), [title]
    for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = "█" * max(1, round(40 * n / max(counts))) if n else ""
        lines.append(f"  {low:>{width},} to {high:>{width},}  {bar} {n:,}".rstrip())
    return lines


def show_look(rows: Sequence[LookRow], *, with_ids: bool) -> None:
    """Rows as the model sees them; what is trained is green and, where colours are off, between ⟦ and ⟧."""
    from rich.text import Text

    console = stderr_console()
    for row in rows:
        shortened = f", {row.n_shortened} tokens cut" if row.n_shortened else ""
        console.rule(f"{row.origin}: {row.n_trained} of {row.n_tokens} tokens trained{shortened}", align="left")
        for picture in row.pictures:
            say(f"{picture.path.name}: {picture.width} x {picture.height} pixels in the model, {picture.n_tokens} tokens")
        text = Text()
        for piece, is_trained in row.pieces:
            shown = piece if console.color_system or not is_trained else f"⟦{piece}⟧"
            text.append(shown, style="bold green" if is_trained else "")
        console.print(text, soft_wrap=True)
        if with_ids:
            console.print(" ".join(str(token) for token in row.ids), highlight=False, style="dim", soft_wrap=True)


def show_models(models: Sequence[Any]) -> None:
    """Names, sizes and licences; below each, where it lies."""
    for model in models:
        parameters = f"{model.parameters / 1e6:,.0f} M parameters" if model.parameters else "parameters not counted"
        say(f"{model.name}  {size(model.size_bytes)}, {parameters}, licence: {model.licence or 'not stated'}")
        say(f"    {model.path}" if model.path is not None else f"    not fetched yet: weitiao models pull {model.name}")


def show_facts(facts: Mapping[str, Any]) -> None:
    """Names and values, one pair a line."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        say(f"{name:<{width}}  {value}")


def show_answer(shown: Shown) -> None:
    """What a model said, or why it said nothing; below a label, the likeliest labels with their probabilities."""
    say(shown.problem or shown.answer)
    for label, probability in shown.likeliest:
        say(f"{probability:>7.1%}  {label}")


def say(line: str) -> None:
    """One line for people, as it is."""
    stderr_console().print(line, highlight=False, markup=False, soft_wrap=True)


def ask() -> str:
    """Ask for a line on stderr and read it from stdin; empty at the end of the input."""
    stderr_console().print("> ", end="", highlight=False, markup=False)
    return sys.stdin.readline().strip()


def size(n_bytes: int) -> str:
    """Bytes as people say them, in powers of 1000: ``491 MB``."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def number(value: float | None) -> str:
    """A metric's value to four digits; ``-`` where there is none."""
    return "-" if value is None else f"{value:.4f}"


def stderr_console() -> Console:
    """Where people read."""
    from rich.console import Console

    return Console(stderr=True)


def result_table(title: str, columns: Sequence[str], right_from: int = 1) -> Table:
    """A titled table without rows; columns from ``right_from`` on are aligned right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position >= right_from else "left", no_wrap=position < 1)
    return table
