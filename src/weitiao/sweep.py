"""Settings tried against each other: every trial is trained and judged on validation rows, the winner alone meets the test rows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao import pipeline, runs, tasks
from weitiao.errors import CommandError, TrainingError
from weitiao.log import logger
from weitiao.recipe import Recipe, load_recipe
from weitiao.seams import RunSummary

SUMMARY = "sweep"
"""Name of the JSON file in the sweep's folder."""
JUDGING = ("run.seed", "data.split", "data.valid", "evaluate.n_valid", "evaluate.select_by")
"""Settings that decide by which validation rows, and by which number, a trial is judged."""
OTHER_SWEEP = "name the values it was started with, start another sweep with -o FOLDER, or train all trials anew with --replace"


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination of settings and what validation rows say of it."""

    name: str
    """Of its run folder inside the sweep's."""
    overrides: tuple[str, ...]
    value: float | None
    """The selecting metric on validation rows at the best step; None where training failed."""
    best_step: int | None
    seconds: float
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class SweepSummary:
    """A finished sweep."""

    path: Path
    metric: str
    trials: tuple[Trial, ...]
    winner: str
    """Name of the best trial, the first of equals."""
    run: RunSummary
    """The winner's run, the only one whose test rows were answered by a tuned model."""


def trials_of(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """All combinations of the values that overrides list.

    Args:
        overrides: ``a.b=1,2,3`` each; commas inside brackets or quotes do not part values, and one value alone holds for every trial.

    Returns:
        One tuple of ``a.b=c`` per trial, the last override varying fastest.

    Raises:
        CommandError: an override has no ``=``, or nothing is varied.
    """
    choices = []
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise CommandError("this is not `key=value,value`", where=override, hint="such as train.learning_rate=1e-4,2e-4")
        choices.append([f"{name}={value}" for value in _parted(text)])
    trials = list(itertools.product(*choices))
    if len(trials) < 2:
        raise CommandError("a sweep needs a setting with several values", hint="such as train.learning_rate=1e-4,2e-4")
    return trials


def _parted(text: str) -> list[str]:
    """A text parted at the commas that stand in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "[{(") - (character in ")}]")
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def run_sweep(recipe_path: Path, overrides: Sequence[str], path: Path, mode: runs.Mode = "new") -> SweepSummary:
    """Train every combination, choose by validation rows, and run the winner to its end.

    Args:
        recipe_path: the recipe that all trials start from.
        overrides: as ``trials_of`` takes them.
        path: the sweep's folder; gets a run folder per trial and ``sweep.json``.
        mode: ``resume`` leaves finished trials as they are and goes on with the others; each must have been started with the same settings.

    Returns:
        The trials, the winner, and its comparison with the base on the test rows.

    Raises:
        WeitiaoError: a recipe, the data or the weights are wrong, no trial could be trained, or the folder does not fit the mode.
    """
    wanted = trials_of(overrides)
    recipes = [load_recipe(recipe_path, trial) for trial in wanted]  # all are checked before the first is trained
    _refuse_uneven_judging(recipes)
    names = [f"trial-{number}" for number in range(1, len(wanted) + 1)]
    if mode == "new" and path.exists() and any(path.iterdir()):
        raise CommandError("the sweep's folder exists", where=str(path), hint="--resume goes on with it, -o FOLDER starts another")
    if mode == "resume":
        for name, recipe in zip(names, recipes, strict=True):
            if _facts(path / name):
                runs.read_run(path / name).refuse_other_recipe(recipe, OTHER_SWEEP)
    trials = []
    for name, trial, recipe in zip(names, wanted, recipes, strict=True):
        logger.info("%s of %d: %s", name, len(wanted), " ".join(trial))
        trials.append(_train(path / name, name, trial, recipe, mode))
    task = tasks.make_task(recipes[0].task, recipes[0].data.system)
    metric = recipes[0].evaluate.select_by or task.default_metric
    winner = _best(trials, path, lower_is_better=metric in task.lower_is_better)
    run = pipeline.run_recipe(recipes[names.index(winner)], path / winner, "resume")
    summary = SweepSummary(path, metric, tuple(trials), winner, run)
    runs.Run(path).save(SUMMARY, {name: getattr(summary, name) for name in ("metric", "trials", "winner")})
    return summary


def _refuse_uneven_judging(recipes: Sequence[Recipe]) -> None:
    """Raise where trials would be judged by other rows or another metric: the luckiest rows would win, not the best setting."""
    all_settings = [runs.settings(recipe) for recipe in recipes]
    # Without rows of its own, validation takes a part of the training data.
    judging = JUDGING if recipes[0].data.valid else (*JUDGING, "data.train", "data.limit")
    for name in dict.fromkeys(name for each in all_settings for name in each):
        if f"{name}.".startswith(tuple(f"{each}." for each in judging)) and len({str(each.get(name)) for each in all_settings}) > 1:
            hint = "start a run for each value, and hold them side by side: weitiao compare RUN RUN"
            raise CommandError(
                f"`{name}` cannot be tried in a sweep: trials would be judged by different rows or metrics", where="--sweep", hint=hint
            )


def _train(path: Path, name: str, overrides: tuple[str, ...], recipe: Recipe, mode: runs.Mode) -> Trial:
    facts = _facts(path) if mode == "resume" else {}
    started = time.monotonic()
    failure = None
    if facts.get("status") != "finished":
        try:
            pipeline.train_recipe(recipe, path, mode if facts or mode == "replace" else "new")
        except TrainingError as error:
            failure = str(error)
            logger.warning("%s: %s", name, failure)
        facts = _facts(path)
    training = facts.get("training") or {}
    seconds = float(training.get("seconds", time.monotonic() - started))
    return Trial(name, overrides, None if failure else training.get("best_metric"), training.get("best_step"), seconds, failure)


def _facts(path: Path) -> Mapping[str, Any]:
    try:
        return dict(runs.read_run(path).read("run"))
    except CommandError:
        return {}


def _best(trials: Sequence[Trial], path: Path, *, lower_is_better: bool) -> str:
    judged = [(trial.value, trial.name) for trial in trials if trial.value is not None]
    if not judged:
        hint = trials[0].failure or "validation rows are needed: data.split.valid, or data.valid"
        raise TrainingError("no trial has a score on validation rows", where=str(path), hint=hint)
    return (min if lower_is_better else max)(judged, key=lambda pair: pair[0])[1]
