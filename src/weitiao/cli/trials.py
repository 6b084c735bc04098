"""``weitiao run --sweep`` and ``weitiao compare``: several runs, one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from weitiao.cli.ahead import importing
from weitiao.cli.verbs import AsJson, app

if TYPE_CHECKING:
    from weitiao.compare import RunTable
    from weitiao.sweep import SweepSummary


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, or their names under runs/.")],
    as_json: AsJson = False,
) -> None:
    """Compare finished runs: settings that differ, metrics, and gains over the first.

    Gains are paired over the test rows that a run shares with the first one.
    """
    from weitiao.cli.show import show_json
    from weitiao.compare import compare_runs

    table = compare_runs(runs)
    show_json(table) if as_json else _show_table(table)


def sweep_recipe(
    recipe: Path, overrides: Sequence[str], output: Path | None, mode: Literal["new", "resume", "replace"], *, as_json: bool
) -> None:
    """Run a sweep and show its trials and the winner's comparison."""
    from weitiao.cli.show import show_json

    with importing():
        from weitiao.sweep import run_sweep
    summary = run_sweep(recipe, overrides, output or Path("runs") / f"{recipe.stem}-sweep", mode)
    show_json(summary) if as_json else _show_sweep(summary)


def _show_sweep(summary: SweepSummary) -> None:
    from weitiao.cli.display import duration
    from weitiao.cli.show import number, result_table, show_run, stderr_console

    trials = result_table(f"{len(summary.trials)} trials, judged on validation rows", ["trial", "settings", summary.metric, "step", "time"])
    for trial in summary.trials:
        value = trial.failure.splitlines()[0] if trial.failure else number(trial.value)
        style = "bold green" if trial.name == summary.winner else ""
        trials.add_row(trial.name, " ".join(trial.overrides), value, str(trial.best_step or "-"), duration(trial.seconds), style=style)
    stderr_console().print(trials)
    stderr_console().print(f"winner: {summary.winner}; on the test rows:", highlight=False, markup=False)
    show_run(summary.run)


def _show_table(compared: RunTable) -> None:
    from weitiao.cli.show import number, result_table, say, stderr_console

    names = [run.path.name for run in compared.runs]
    shown = result_table("runs", ["", *names])
    for setting in compared.runs[0].settings:
        shown.add_row(setting, *(_brief(run.settings[setting]) for run in compared.runs), style="dim")
    shown.add_row("test rows", *(f"{run.tuned.n:,}" for run in compared.runs))
    shown.add_row("minutes of training", *("-" if run.minutes is None else f"{run.minutes:.1f}" for run in compared.runs))
    for metric in compared.metrics:
        shown.add_section()
        shown.add_row(f"{metric}, base", *(number(run.baseline.metrics.get(metric)) for run in compared.runs))
        shown.add_row(f"{metric}, tuned", *(number(run.tuned.metrics[metric]) for run in compared.runs), style="bold")
        shown.add_row("  95 % interval", *(_interval(run.tuned.intervals.get(metric)) for run in compared.runs), style="dim")
        shown.add_row(f"  against {names[0]}", *(_gain(run.gain.get(metric)) for run in compared.runs))
    stderr_console().print(shown)
    for run in compared.runs[1:]:
        if run.n_shared < run.tuned.n:
            shared = f"{run.n_shared:,} of its {run.tuned.n:,} test rows are also {names[0]}'s"
            say(f"{run.path.name}: {shared}; gains are over those")


def _brief(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:18]} … {text[-18:]}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "-" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def _gain(gain: tuple[float, float, float] | None) -> str:
    return "" if gain is None else f"{gain[0]:+.4f} ({gain[1]:+.4f} to {gain[2]:+.4f})"
