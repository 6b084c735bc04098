"""The order of things: ``run_recipe`` is the whole path on one screen, the rest are its stages."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
    Sample,
    SampleSet,
    Scores,
    Task,
    Tracker,
    TrainResult,
)


def run_recipe(recipe: Recipe, path: Path, mode: runs.Mode = "new") -> RunSummary:
    """Train on a person's data and show on held-out rows what came of it.

    Args:
        recipe: everything the run needs.
        path: the run folder.
        mode: ``new``, ``resume`` or ``replace``.

    Returns:
        The comparison of base and tuned model, the artifacts, and where the report lies.

    Raises:
        WeitiaoError: the recipe, the data or the weights are wrong, or training could not go on; a sentence says which.
    """
    run = runs.open_run(path, mode)
    with run.recording(recipe), track.open_tracker(recipe.track, run.path, run.path.name) as tracker:
        tracker.settings(recipe.model_dump(mode="json"))
        task = tasks.make_task(recipe.task, recipe.data.system)
        samples = data.load_samples(recipe.data, task, recipe.run.seed)  # read, recognise, audit, split
        model.check_memory(recipe.model)
        base = model.load_base(recipe.model)
        renderer = chat.make_renderer(base.processor, recipe.chat, recipe.encode.keep)  # the only place where roles become tokens
        encoded = encode.encode_samples(samples, renderer, recipe.encode, allow_dropped=recipe.data.allow_dropped)
        base = encode.see_pictures(base, renderer, samples, store=_stores_features(recipe))
        _record_inputs(run, samples, encoded, base, recipe)
        before = _measure(run, "baseline", base, renderer, encoded.max_prompt_tokens, task, samples, recipe)
        trained = _train(run, base, renderer, encoded, task, samples, before, recipe, tracker)  # from here on `base` is not used again
        after = _measure(run, "tuned", trained.model, renderer, encoded.max_prompt_tokens, task, samples, recipe)
        records.search_suspects(run, trained, renderer, encoded.max_prompt_tokens, task, samples.train, recipe)
        comparison = evaluate.compare(before, after, task, recipe.evaluate.n_bootstrap, recipe.run.seed)
        run.save("scores", evaluate.comparison_json(comparison))
        tracker.table("predictions", *_before_and_after(run))
        artifacts = export.export_checkpoint(trained.checkpoint, recipe.export, run.path, samples.test)
    return RunSummary(run.path, comparison, report.write_report(run.path), artifacts)  # the report reads the run folder and nothing else


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
        tracker.settings(recipe.model_dump(mode="json"))
        task = tasks.make_task(recipe.task, recipe.data.system)
        samples = data.load_samples(recipe.data, task, recipe.run.seed)
        base = model.load_base(recipe.model)
        renderer = chat.make_renderer(base.processor, recipe.chat, recipe.encode.keep)
        encoded = encode.encode_samples(samples, renderer, recipe.encode, allow_dropped=recipe.data.allow_dropped)
        base = encode.see_pictures(base, renderer, samples, store=_stores_features(recipe))
        _record_inputs(run, samples, encoded, base, recipe)
        return _train(run, base, renderer, encoded, task, samples, evaluate.NOTHING, recipe, tracker)


# ---- stages -----------------------------------------------------------------------------------------------------------


def _measure(
    run: runs.Run, name: str, answering: LoadedModel, renderer: Renderer, limit: int, task: Task, samples: SampleSet, recipe: Recipe
) -> Scores:
    """Score a model on the test rows, its label probabilities calibrated on validation rows. A resumed run keeps its baseline."""
    finished = evaluate.load_scores(run.path / name, task) if name == "baseline" else None
    if finished is not None:
        return finished
    engine = infer.make_engine(answering, renderer, recipe.evaluate.batch_size, limit, hold=True)
    folder, section, seed = run.folder(name), recipe.evaluate, recipe.run.seed
    calibration = evaluate.calibrate(engine, task, samples.valid, folder, section, title=f"calibrating ({name})", seed=seed)
    identity = run.read("run")["hashes"]["weights"] if name == "baseline" else model.weights_hash(run.path / "best")
    return evaluate.measure(
        engine, task, samples.test, folder, section, title=f"answering ({name})", seed=seed, calibration=calibration, identity=identity
    )


def _train(
    run: runs.Run,
    base: LoadedModel,
    renderer: Renderer,
    encoded: EncodedSet,
    task: Task,
    samples: SampleSet,
    before: Scores,
    recipe: Recipe,
    tracker: Tracker,
) -> TrainResult:
    """Tune the base in place, keep the best checkpoint, and record what that took."""
    tunable = model.attach_tuning(base, recipe.model.tuning, recipe.run.seed)
    records.record_parameters(run, tunable)
    trained = train.run_training(
        tunable,
        steps_of(encoded, recipe),
        recipe.train,
        _hooks(run, tunable, renderer, encoded.max_prompt_tokens, task, samples.valid, before, recipe, tracker),
        folder=run.folder("checkpoints"),
        best=run.path / "best",
        seed=recipe.run.seed,
        resume=run.mode == "resume",
    )
    records.record_training(run, trained, recipe, task)
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


def _hooks(
    run: runs.Run,
    tunable: LoadedModel,
    renderer: Renderer,
    limit: int,
    task: Task,
    valid: Sequence[Sample],
    before: Scores,
    recipe: Recipe,
    tracker: Tracker,
) -> train.TrainHooks:
    metric = _selecting_metric(recipe, task, before)
    chosen = random.Random(recipe.run.seed).sample(range(len(valid)), min(len(valid), recipe.evaluate.n_valid))
    rows = [valid[i] for i in sorted(chosen)]
    engine = infer.make_engine(tunable, renderer, recipe.evaluate.batch_size, limit)
    facts = _checkpoint_facts(tunable, limit, recipe)

    def score(step: int) -> Mapping[str, float]:
        if not rows:
            return {}
        scores = evaluate.measure(engine, task, rows, None, recipe.evaluate, title=f"validating (step {step})", seed=recipe.run.seed)
        run.append("evaluations", {"step": step, "seconds": scores.seconds, "metrics": scores.metrics})
        tracker.log(step, {f"valid/{name}": value for name, value in scores.metrics.items()})
        return scores.metrics

    def log(values: Mapping[str, float]) -> None:
        run.append("events", values)
        tracker.log(int(values["step"]), {name: values[name] for name in ("loss", "learning_rate", "grad_norm") if name in values})

    template = chat.chat_template(tunable.processor, recipe.chat.enable_thinking)
    return train.TrainHooks(
        evaluate=score,
        metric=metric,
        lower_is_better=metric in task.lower_is_better,
        save=lambda _network, folder: model.save_checkpoint(tunable, template, facts, folder),
        restore=lambda folder: model.restore_weights(tunable, folder),
        log=log,
    )


def _selecting_metric(recipe: Recipe, task: Task, before: Scores) -> str:
    metric = recipe.evaluate.select_by or task.default_metric
    if before.metrics and metric not in before.metrics:
        known = ", ".join(before.metrics)
        raise RecipeError(f"the task has no metric `{metric}`", where="evaluate.select_by", hint=f"choose one of {known}")
    return metric


def _checkpoint_facts(base: LoadedModel, limit: int, recipe: Recipe) -> model.CheckpointFacts:
    return model.CheckpointFacts(
        base=recipe.model.path,
        base_path=str(base.path),
        revision=recipe.model.revision,
        tuning=recipe.model.tuning.model_dump(mode="json"),
        chat=recipe.chat.model_dump(mode="json"),
        task=recipe.task.model_dump(mode="json"),
        system=recipe.data.system,
        max_tokens=recipe.encode.max_tokens,
        max_prompt_tokens=limit,
        keep=recipe.encode.keep,
        dtype=str(base.dtype).removeprefix("torch."),
        is_vision=base.is_vision,
    )


def _record_inputs(run: runs.Run, samples: SampleSet, encoded: EncodedSet, base: LoadedModel, recipe: Recipe) -> None:
    run.save("data", asdict(encode.with_tokens(samples.report, encoded, recipe.encode.max_tokens, recipe.data.allow_dropped)))
    hashes = {"data": samples.report.fingerprint, "weights": model.weights_hash(base.path)}
    run.update(device=str(base.network.device), dtype=str(base.dtype).removeprefix("torch."), hashes=hashes)


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
