"""The order of things: ``run_recipe``, with ``_begin`` beneath it, is the whole path on one screen; the rest are its stages."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weitiao import chat, data, encode, evaluate, export, infer, model, records, report, runs, tasks, track, train
from weitiao.errors import RecipeError
from weitiao.recipe import Recipe
from weitiao.seams import (
    EncodedSet,
    LoadedModel,
    Renderer,
    RunSummary,
    SampleSet,
    Scores,
    Task,
    Tracker,
    TrainResult,
)


@dataclass(frozen=True, slots=True)
class Job:
    """What every stage from the first answer on works with."""

    run: runs.Run
    recipe: Recipe
    task: Task
    samples: SampleSet
    renderer: Renderer
    encoded: EncodedSet
    tracker: Tracker

    @property
    def limit(self) -> int:
        """Longest prompt in tokens."""
        return self.encoded.max_prompt_tokens


def run_recipe(recipe: Recipe, path: Path, mode: runs.Mode = "new", rows: Callable[[], SampleSet] | None = None) -> RunSummary:
    """Train on a person's data and show on held-out rows what came of it.

    Args:
        recipe: everything the run needs.
        path: the run folder.
        mode: ``new``, ``resume`` or ``replace``.
        rows: returns the recipe's samples where they are read already; else they are read here.

    Returns:
        The comparison of base and tuned model, the artifacts, and where the report lies.

    Raises:
        WeitiaoError: the recipe, the data or the weights are wrong, or training could not go on; a sentence says which.
    """
    run = runs.open_run(path, mode)
    with run.recording(recipe), track.open_tracker(recipe.track, run.path, run.path.name) as tracker:
        job, base = _begin(run, recipe, tracker, rows)  # data, model, tokens
        before = _measure(job, "baseline", base)
        trained = _train(job, base)  # from here on `base` is not used again
        after = _measure(job, "tuned", trained.model)
        records.search_suspects(run, trained, job.renderer, job.limit, job.task, job.samples.train, recipe)
        comparison = evaluate.compare(before, after, job.task, recipe.evaluate.n_bootstrap, recipe.run.seed)
        run.save("scores", evaluate.comparison_json(comparison))
        tracker.table("predictions", *_before_and_after(run))
        artifacts = export.export_checkpoint(trained.checkpoint, recipe.export, run.path, job.samples.test)
    return RunSummary(run.path, comparison, report.write_report(run.path), artifacts)  # the report reads the run folder and nothing else


def _begin(run: runs.Run, recipe: Recipe, tracker: Tracker, rows: Callable[[], SampleSet] | None = None) -> tuple[Job, LoadedModel]:
    """Everything before the first answer: the data, the base model, and the rows as tokens."""
    tracker.settings(recipe.model_dump(mode="json"))
    task = tasks.make_task(recipe.task, recipe.data.system)
    samples = rows() if rows else data.load_samples(recipe.data, task, recipe.run.seed)  # read, recognise, audit, split
    run.refuse_other_data(samples.report.fingerprint)
    _refuse_unknown_metric(recipe, task, samples)
    model.check_memory(recipe.model, recipe.train.optim)
    base = model.load_base(recipe.model)
    renderer = chat.make_renderer(base.processor, recipe.chat, recipe.encode.keep)  # the only place where roles become tokens
    with ThreadPoolExecutor(1) as beside:
        weights = beside.submit(model.weights_hash, base.path)
        encoded = encode.encode_samples(samples, renderer, recipe.encode, allow_dropped=recipe.data.allow_dropped)
    refuse_beyond_positions(encoded, base.network.config)
    base = encode.see_pictures(base, renderer, samples, store=_stores_features(recipe))
    job = Job(run, recipe, task, samples, renderer, encoded, tracker)
    _record_inputs(job, base, weights.result())
    return job, base


def train_recipe(recipe: Recipe, path: Path, mode: runs.Mode = "new") -> TrainResult:
    """Train and choose the best checkpoint by validation rows; no test row is answered.

    Args:
        recipe: everything the run needs.
        path: the run folder; ``run_recipe`` in mode ``resume`` goes on from it.
        mode: ``new``, ``resume`` or ``replace``.

    Returns:
        The best checkpoint and its value of the selecting metric.

    Raises:
        WeitiaoError: the recipe, the data or the weights are wrong, or training could not go on; a sentence says which.
    """
    run = runs.open_run(path, mode)
    with run.recording(recipe), track.open_tracker(recipe.track, run.path, run.path.name) as tracker:
        job, base = _begin(run, recipe, tracker)
        return _train(job, base)


# ---- stages -----------------------------------------------------------------------------------------------------------


def _measure(job: Job, name: str, answering: LoadedModel) -> Scores:
    """Score a model on the test rows, its label probabilities calibrated on validation rows; a baseline of the same rows is kept."""
    run, section, seed = job.run, job.recipe.evaluate, job.recipe.run.seed
    finished = evaluate.load_scores(run.path / name, job.task, job.samples.test) if name == "baseline" else None
    if finished is not None:
        return finished
    engine = infer.make_engine(answering, job.renderer, section.batch_size, job.limit, hold=True)
    folder = run.folder(name)
    # A baseline's calibration is for its own test rows; the tuned model's is for every row to come.
    valid = job.samples.valid if job.samples.test or name == "tuned" else []
    calibration = evaluate.calibrate(engine, job.task, valid, folder, section, title=f"calibrating ({name})", seed=seed)
    identity = run.read("run")["hashes"]["weights"] if name == "baseline" else model.weights_hash(run.path / "best")
    title = f"answering ({name})"
    return evaluate.measure(
        engine, job.task, job.samples.test, folder, section, title=title, seed=seed, calibration=calibration, identity=identity
    )


def _train(job: Job, base: LoadedModel) -> TrainResult:
    """Tune the base in place, keep the best checkpoint, and record what that took. A resumed run keeps what is trained to its end."""
    run, recipe = job.run, job.recipe
    tunable = model.attach_tuning(base, recipe.model.tuning, recipe.run.seed)
    records.record_parameters(run, tunable)
    taken = records.finished_training(run)
    if taken:
        return TrainResult(model=model.restore_weights(tunable, run.path / "best"), checkpoint=run.path / "best", **taken)
    trained = train.run_training(
        tunable,
        steps_of(job.encoded, recipe),
        recipe.train,
        _hooks(job, tunable),
        folder=run.folder("checkpoints"),
        best=run.path / "best",
        seed=recipe.run.seed,
        resume=run.mode == "resume",
    )
    records.record_training(run, trained, recipe, job.task)
    return trained


def _stores_features(recipe: Recipe) -> bool:
    return "vision_store" in train.fast_paths(recipe.train) and recipe.model.tuning.vision == "frozen"


def steps_of(encoded: EncodedSet, recipe: Recipe) -> encode.StepPlan:
    """The optimizer steps of a recipe's training.

    Args:
        encoded: the training part.
        recipe: says how rows are dealt into steps.

    Returns:
        The steps of an epoch.
    """
    return encode.plan_steps(
        encoded.rows,
        batch_tokens=recipe.train.batch_tokens,
        batch_rows=recipe.train.batch_rows,
        micro_batch_tokens=recipe.train.micro_batch_tokens,
        packing=recipe.encode.packing,
        share_prefix="shared_prefix" in train.fast_paths(recipe.train),
        seed=recipe.run.seed,
    )


def _hooks(job: Job, tunable: LoadedModel) -> train.TrainHooks:
    recipe, task, valid = job.recipe, job.task, job.samples.valid
    metric = recipe.evaluate.select_by or task.default_metric
    chosen = random.Random(recipe.run.seed).sample(range(len(valid)), min(len(valid), recipe.evaluate.n_valid))
    rows = [valid[i] for i in sorted(chosen)]
    engine = infer.make_engine(tunable, job.renderer, recipe.evaluate.batch_size, job.limit)
    facts = _checkpoint_facts(job, tunable)
    template = chat.chat_template(tunable.processor, recipe.chat.enable_thinking)

    def score(step: int) -> Mapping[str, float]:
        if not rows:
            return {}
        scores = evaluate.measure(engine, task, rows, None, recipe.evaluate, title=f"validating (step {step})", seed=recipe.run.seed)
        job.run.append("evaluations", {"step": step, "seconds": scores.seconds, "metrics": scores.metrics})
        job.tracker.log(step, {f"valid/{name}": value for name, value in scores.metrics.items()})
        return scores.metrics

    def log(values: Mapping[str, float]) -> None:
        job.run.append("events", values)
        job.tracker.log(int(values["step"]), {name: values[name] for name in ("loss", "learning_rate", "grad_norm") if name in values})

    return train.TrainHooks(
        evaluate=score,
        metric=metric,
        lower_is_better=metric in task.lower_is_better,
        save=lambda folder: model.save_checkpoint(tunable, template, facts, folder),
        restore=lambda folder: model.restore_weights(tunable, folder),
        log=log,
    )


def _refuse_unknown_metric(recipe: Recipe, task: Task, samples: SampleSet) -> None:
    metric, rows = recipe.evaluate.select_by, samples.valid or samples.train
    known = evaluate.metric_names(task, rows[0]) if metric else ()
    if metric and metric not in known:
        raise RecipeError(f"the task has no metric `{metric}`", where="evaluate.select_by", hint=f"choose one of {', '.join(known)}")


def refuse_beyond_positions(encoded: EncodedSet, config: Any) -> None:
    """Raise where rows are longer than the model has positions: it would be trained where it never learnt to tell places apart.

    Args:
        encoded: the training rows.
        config: of the network.

    Raises:
        RecipeError: it names the longest row's tokens and the limit.
    """
    longest, limit = max(encoded.lengths), getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest > limit:
        hint = f"encode.max_tokens={limit}, or another model"
        raise RecipeError(f"a training row has {longest:,} tokens, and the model {limit:,} positions", where="encode.max_tokens", hint=hint)


def _checkpoint_facts(job: Job, tunable: LoadedModel) -> model.CheckpointFacts:
    recipe, candidates = job.recipe, job.samples.report.statistics.get("candidates", ())
    return model.CheckpointFacts(
        base=recipe.model.path,
        base_path=str(tunable.path),
        revision=recipe.model.revision,
        tuning=recipe.model.tuning.model_dump(mode="json"),
        chat=recipe.chat.model_dump(mode="json"),
        task=recipe.task.model_dump(mode="json"),
        system=tasks.usual_system(job.task, recipe.data.system, candidates, job.samples.train),
        max_tokens=recipe.encode.max_tokens,
        max_prompt_tokens=job.limit,
        keep=recipe.encode.keep,
        dtype=_dtype_name(tunable),
        is_vision=tunable.is_vision,
    )


def _record_inputs(job: Job, base: LoadedModel, weights_hash: str) -> None:
    recipe, read = job.recipe, job.samples.report
    job.run.save("data", asdict(encode.with_tokens(read, job.encoded, recipe.encode.max_tokens, recipe.data.allow_dropped)))
    hashes = {"data": read.fingerprint, "weights": weights_hash}
    job.run.update(device=str(base.network.device), dtype=_dtype_name(base), hashes=hashes)


def _dtype_name(loaded: LoadedModel) -> str:
    return str(loaded.dtype).removeprefix("torch.")


def _before_and_after(run: runs.Run) -> tuple[list[str], list[list[Any]]]:
    before, after = (_rows(run.path / name / "answers.jsonl") for name in ("baseline", "tuned"))
    columns = ["id", "prompt", "reference", "baseline", "tuned", "images"]
    rows = [
        [a["id"], a["prompt"], str(a["reference"]), b["answer"], a["answer"], a.get("images") or []]
        for b, a in zip(before, after, strict=True)
    ]
    return (columns, rows) if any(row[-1] for row in rows) else (columns[:-1], [row[:-1] for row in rows])


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
