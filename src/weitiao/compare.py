"""Several finished runs side by side: what their recipes differ in, and what came of it on the rows they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao import evaluate, runs, tasks
from weitiao.errors import CommandError
from weitiao.log import logger
from weitiao.recipe.tasks import TaskSection
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
    """Test rows that this run and the first one have in common: the same id, text and truth."""
    n_other_text: int
    """Test rows whose id the first run has too, with another text or truth; they are not shared."""
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
        CommandError: there are fewer than two runs, one is no finished run, or their tasks differ in kind or in what the metrics count.
    """
    if len({path.resolve() for path in paths}) < 2:
        raise CommandError("a comparison needs at least two different runs", hint="weitiao compare RUN RUN ...")
    opened = [runs.read_run(path) for path in paths]
    recipes = [run.recipe() for run in opened]
    if len(kinds := {recipe.task.kind for recipe in recipes}) > 1:
        raise CommandError(f"the runs have different tasks: {', '.join(sorted(kinds))}", hint="compare runs of one kind of task")
    for path, recipe in zip(paths[1:], recipes[1:], strict=True):
        _refuse_other_counting(recipes[0].task, recipe.task, path)
    task = tasks.make_task(recipes[0].task, recipes[0].data.system)
    differing = _differences([runs.settings(recipe) for recipe in recipes])
    first = _tuned(opened[0], task)
    compared = []
    for place, (run, settings) in enumerate(zip(opened, differing, strict=True)):
        tuned = _tuned(run, task) if place else first
        shared, n_other_text = _shared_rows(opened[0], run)
        gain = {}
        if place and shared:
            theirs, ours = zip(*shared, strict=True)
            before = evaluate.count_rows(opened[0].path / "tuned", task, theirs)
            after = evaluate.count_rows(run.path / "tuned", task, ours)
            gain = dict(evaluate.compare(before, after, task, N_BOOTSTRAP, BY_CHANCE).gain)
        baseline = _scores(run, "baseline", task)
        compared.append(ComparedRun(run.path, settings, baseline, tuned, _minutes(run), len(shared), n_other_text, gain))
    metrics = tuple(name for name in first.metrics if all(name in each.tuned.metrics for each in compared))
    return RunTable(tuple(compared), metrics)


def _refuse_other_counting(first: TaskSection, other: TaskSection, path: Path) -> None:
    before, after = _counted_by(first), _counted_by(other)
    if differing := [name for name in before if before[name] != after[name]]:
        lines = [f"task.{name}: {before[name]!r}, here {after[name]!r}" for name in differing]
        raise CommandError(
            "the run counts other things as right than the first one, so that their metrics cannot be compared",
            where=str(path),
            hint="\n".join([*lines, "compare runs whose task section is the same in this"]),
        )


def _counted_by(section: TaskSection) -> dict[str, Any]:
    """What decides the metrics of given answers: the fields of an extraction with their types, and whether a row has several labels."""
    content = section.model_dump(include={"fields", "multi_label"})
    fields = content.get("fields")
    if isinstance(fields, list):
        content["fields"] = dict.fromkeys(fields, "string")
    elif fields is not None:
        content["fields"] = {name: spec["type"] for name, spec in fields.items()}
    return content


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


def _shared_rows(first: runs.Run, run: runs.Run) -> tuple[list[tuple[int, int]], int]:
    """Places (in the first run, in this one) of the test rows that are the same, and how many have the same id only.

    A row is the same where id, prompt and reference are equal. Runs of the same data need no equal prompts: there, another wording of the
    prompt is a setting that is compared.
    """
    is_same_data = _fingerprint(first) == _fingerprint(run)
    places = {row["id"]: (i, row) for i, row in enumerate(first.rows("tuned/answers"))}
    shared, n_other_text = [], 0
    for i, row in enumerate(run.rows("tuned/answers")):
        place, twin = places.get(row["id"], (0, None))
        if twin is None:
            continue
        if row["reference"] == twin["reference"] and (is_same_data or row["prompt"] == twin["prompt"]):
            shared.append((place, i))
        else:
            n_other_text += 1
    if n_other_text:
        logger.warning(
            "%s: %d test rows have the id of a row of %s, but another text or answer; gains leave them out",
            *(run.path.name, n_other_text, first.path.name),
        )
    return sorted(shared), n_other_text


def _fingerprint(run: runs.Run) -> str:
    return str(run.read("data")["fingerprint"])


def _minutes(run: runs.Run) -> float | None:
    seconds = (run.read("run").get("training") or {}).get("seconds")
    return None if seconds is None else seconds / 60
