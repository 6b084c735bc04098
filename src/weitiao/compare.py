"""Several finished runs side by side: what their recipes differ in, and what came of it on the rows they share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao import evaluate, runs, tasks
from weitiao.errors import CommandError
from weitiao.seams import Scores, Task

BY_CHANCE = 42
"""Seed of the resampling: the same for all runs, whatever they were trained with."""
N_BOOTSTRAP = 2000


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run among those that are compared."""

    path: Path
    settings: Mapping[str, Any]
    """The settings in which the runs differ, with this run's values; None where its recipe has no such setting."""
    baseline: Scores
    tuned: Scores
    minutes: float | None
    """Training time; None where the run does not tell."""
    n_shared: int
    """Test rows that this run and the first one have in common."""
    gain: Mapping[str, tuple[float, float, float]]
    """Metric -> (this run minus the first one, low, high), paired over the shared rows; empty for the first run and without such rows."""


@dataclass(frozen=True, slots=True)
class RunTable:
    """Runs of one kind of task, in the order in which they were named."""

    runs: tuple[ComparedRun, ...]
    metrics: tuple[str, ...]


def compare_runs(paths: Sequence[Path]) -> RunTable:
    """Compare finished runs of one kind of task.

    Args:
        paths: run folders, or their names under ``runs/``; at least two, all different.

    Returns:
        Settings that differ, scores on each run's test rows, and each run's gain over the first by the paired bootstrap on the test rows
        that both have.

    Raises:
        CommandError: there are fewer than two runs, one is no finished run, or their tasks differ.
    """
    if len({path.resolve() for path in paths}) < 2:
        raise CommandError("a comparison needs at least two different runs", hint="weitiao compare RUN RUN ...")
    opened = [runs.read_run(path) for path in paths]
    recipes = [run.recipe() for run in opened]
    if len(kinds := {recipe.task.kind for recipe in recipes}) > 1:
        raise CommandError(f"the runs have different tasks: {', '.join(sorted(kinds))}", hint="compare runs of one kind of task")
    task = tasks.make_task(recipes[0].task, recipes[0].data.system)
    differing = _differences([runs.settings(recipe) for recipe in recipes])
    first = _tuned(opened[0], task)
    first_ids = _ids(opened[0])
    compared = []
    for place, (run, settings) in enumerate(zip(opened, differing, strict=True)):
        tuned, ids = (first, first_ids) if place == 0 else (_tuned(run, task), _ids(run))
        shared = sorted(set(first_ids) & set(ids))
        gain = {}
        if place and shared:
            sides = _only(first, first_ids, shared), _only(tuned, ids, shared)
            gain = dict(evaluate.compare(*sides, task, N_BOOTSTRAP, BY_CHANCE).gain)
        compared.append(ComparedRun(run.path, settings, _scores(run, "baseline", task), tuned, _minutes(run), len(shared), gain))
    metrics = tuple(name for name in first.metrics if all(name in each.tuned.metrics for each in compared))
    return RunTable(tuple(compared), metrics)


def _differences(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = [name for name in dict.fromkeys(name for each in settings for name in each) if name != "run.path"]
    differing = [name for name in names if any(each.get(name) != settings[0].get(name) for each in settings)]
    return [{name: each.get(name) for name in differing} for each in settings]


def _tuned(run: runs.Run, task: Task) -> Scores:
    scores = _scores(run, "tuned", task)
    if not scores.n:
        raise CommandError("the run has scored no test rows", where=str(run.path), hint="compare runs that have test rows")
    return scores


def _scores(run: runs.Run, name: str, task: Task) -> Scores:
    scores = evaluate.load_scores(run.path / name, task)
    if scores is None:
        raise CommandError("the run is not finished", where=str(run.path), hint="`weitiao run RECIPE --resume` goes on with it")
    return scores


def _ids(run: runs.Run) -> list[str]:
    return [row["id"] for row in run.rows("tuned/answers")]


def _only(scores: Scores, ids: Sequence[str], wanted: Sequence[str]) -> Scores:
    """The scores' counts for some rows, in the order of ``wanted``; what else the scores hold is that of all rows."""
    place = {name: i for i, name in enumerate(ids)}
    chosen = [place[name] for name in wanted]
    return dataclasses.replace(scores, n=len(chosen), counts={name: column[chosen] for name, column in scores.counts.items()})


def _minutes(run: runs.Run) -> float | None:
    seconds = run.read("run").get("training", {}).get("seconds")
    return None if seconds is None else seconds / 60
