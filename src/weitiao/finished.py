"""What a finished run is used for: scoring, answering, exporting and reporting again. The data are read again where rows are needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from weitiao import answering, data, evaluate, export, model, pipeline, report, runs
from weitiao.errors import CommandError
from weitiao.predict import PredictSummary, predict_file
from weitiao.recipe import Recipe
from weitiao.recipe.sections import Export
from weitiao.seams import Artifact, Engine, RunSummary, Sample, Scores, Task

KEPT_AT_TRAINING = frozenset({"recipe.yaml", "run.json", "data.json", "baseline", "cache", "track.jsonl", "swanlog"})
"""What a run holds that does not follow from its training."""


def evaluate_run(path: Path, other: Path | None = None, baseline: bool = False) -> Scores:
    """Score a run's model on its test rows or on another file.

    Args:
        path: a run folder.
        other: a file of the same shape; None for the run's own test rows.
        baseline: score the model that the run started from instead.

    Returns:
        The scores, at the temperature and the thresholds that the run's validation rows chose; nothing is written.
    """
    run = runs.read_run(path)
    engine, task, recipe = _tuned_engine(run, tuned=not baseline)
    rows: Sequence[Sample]
    if other is not None:
        rows = data.load_file(other, recipe.data, task, candidates=answering.candidates_of(run))
    else:
        rows = data.load_samples(recipe.data, task, recipe.run.seed).test
    if not rows:
        raise CommandError("there are no rows to score", where=str(path), hint="name a file: --data rows.jsonl")
    calibration = answering.calibration_of(run, "baseline" if baseline else "tuned")
    return evaluate.measure(engine, task, rows, None, recipe.evaluate, title="answering", seed=recipe.run.seed, calibration=calibration)


def predict_run(
    path: Path, source: str | Path, output: Path, *, engine: str = "embedded", min_confidence: float | None = None
) -> PredictSummary:
    """Answer the rows of a file, going on where an earlier call stopped.

    Args:
        path: a run folder.
        source: rows of the shape that the run was trained on, answers are not needed; or a folder of images.
        output: a .jsonl file; rows that it holds already are not answered again.
        engine: ``NAME`` or ``NAME:ARG``; see ``answering.ENGINES``.
        min_confidence: rows below it go to a file of their own, in (0, 1].

    Returns:
        How many rows were answered, were there already, and were rejected.
    """
    run = runs.read_run(path)
    task, recipe = answering.task_of(run)
    with answering.open_engine(run, engine) as opened:
        return predict_file(
            opened,
            task,
            recipe,
            source,
            output,
            answering.candidates_of(run),
            identity=model.weights_hash(run.path / "best"),
            temperature=answering.temperature_of(run),
            min_confidence=min_confidence,
            window=answering.window_of(engine),
        )


def export_run(path: Path, kinds: Sequence[str] = (), dtype: str | None = None) -> tuple[Artifact, ...]:
    """Export a run's best checkpoint again.

    Args:
        path: a run folder.
        kinds: of artifact; none for those of the run's recipe.
        dtype: of the weights in the files, where ``kinds`` are given.

    Returns:
        What was written.

    Raises:
        CommandError: there is no such kind, or it has no such dtype.
    """
    run = runs.read_run(path)
    task, recipe = answering.task_of(run)
    exports = [_export_section(kind, dtype) for kind in kinds] or recipe.export
    return export.export_checkpoint(run.path / "best", exports, run.path, data.load_samples(recipe.data, task, recipe.run.seed).test)


def _export_section(kind: str, dtype: str | None) -> Export:
    try:
        section: Export = TypeAdapter(Export).validate_python({"kind": kind} | ({"dtype": dtype} if dtype else {}))
    except ValidationError as error:
        problem = error.errors()[0]
        where = "--dtype" if "dtype" in problem["loc"] else "--kind"
        raise CommandError(problem["msg"][:1].lower() + problem["msg"][1:], where=where, hint="see docs/export.md") from error
    return section


def train_run(path: Path) -> RunSummary:
    """Train a run again on its data as they are now: everything that follows from training is made anew.

    Args:
        path: a run folder.

    Returns:
        The comparison, the artifacts, and where the report lies. The baseline stays where its test rows are the same.

    Raises:
        WeitiaoError: data or base model are not there, or memory cannot hold it; then nothing was deleted.
    """
    run = runs.read_run(path)
    task, recipe = answering.task_of(run)
    samples = data.load_samples(recipe.data, task, recipe.run.seed)
    model.check_memory(recipe.model, recipe.train.optim)
    model.find_folder(recipe.model)
    runs.forget(run, KEPT_AT_TRAINING)
    run.update(hashes={"data": samples.report.fingerprint}, training=None, suspects=None)
    return pipeline.run_recipe(recipe, run.path, "resume", lambda: samples)


def report_run(path: Path) -> Path:
    """Write a run's report again.

    Args:
        path: a run folder.

    Returns:
        The page.
    """
    return report.write_report(runs.read_run(path).path)


def _tuned_engine(run: runs.Run, *, tuned: bool = True) -> tuple[Engine, Task, Recipe]:
    return answering.embedded_engine(run, tuned=tuned)[0], *answering.task_of(run)
