"""What a run writes down of its training: the tensors that are trained, what training took, and training rows that look wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from weitiao import evaluate, infer, model, runs
from weitiao.log import logger
from weitiao.recipe import Recipe
from weitiao.seams import LoadedModel, Renderer, Sample, Task, TrainResult

TAKEN = ("n_steps", "best_step", "best_metric", "seconds", "tokens_per_second", "peak_memory_bytes")
"""What is kept of a ``TrainResult`` in ``run.json``."""
SUSPECT_SHARE = 0.1
"""Of the training time: what the search for wrong rows may take."""
SUSPECT_SECONDS = 10.0
"""What it may take however short training was."""


def record_parameters(run: runs.Run, tunable: LoadedModel) -> None:
    """Print every kind of parameter tensor with its size, and write ``parameters.json``.

    Args:
        run: takes the file.
        tunable: the model with what will be trained opened.
    """
    groups = model.parameter_groups(tunable.network)
    run.save("parameters", [asdict(group) for group in groups])
    for line in model.parameter_table(groups, tunable.network):
        logger.info("%s", line)


def record_training(run: runs.Run, trained: TrainResult, recipe: Recipe, task: Task) -> None:
    """Write into ``run.json`` what training took, the share of it that answering validation rows took, and how the loss fell.

    Args:
        run: its ``events.jsonl`` and ``evaluations.jsonl`` are read.
        trained: the outcome.
        recipe: of the run.
        task: names the metric that chose the checkpoint where the recipe does not.
    """
    n_total, n_trainable = model.count_parameters(trained.model.network)
    facts = {name: getattr(trained, name) for name in TAKEN}
    facts["select_by"] = recipe.evaluate.select_by or task.default_metric
    losses = [event["loss"] for event in run.rows("events")]
    checked = run.rows("evaluations") if (run.path / "evaluations.jsonl").exists() else []
    facts |= {"loss_first": losses[0], "loss_last": losses[-1], "validation_seconds": sum(row["seconds"] for row in checked)}
    run.update(n_parameters=n_total, n_trainable=n_trainable, training=facts)
    logger.info(
        "trained %d steps in %.1f s (%.1f s of it answering validation rows, %.0f %%), %.0f tokens/s; loss %.4f -> %.4f",
        *(trained.n_steps, trained.seconds, facts["validation_seconds"], 100 * facts["validation_seconds"] / max(trained.seconds, 1e-9)),
        *(trained.tokens_per_second, losses[0], losses[-1]),
    )


def finished_training(run: runs.Run) -> Mapping[str, Any] | None:
    """What training took, where a resumed run was trained to its end before.

    Args:
        run: of any mode.

    Returns:
        The fields of ``TrainResult`` besides model and checkpoint; None where there is training left to do.
    """
    known = run.read("run").get("training") if run.mode == "resume" and (run.path / "best").is_dir() else None
    return {name: known[name] for name in TAKEN} if known else None


def search_suspects(
    run: runs.Run, trained: TrainResult, renderer: Renderer, limit: int, task: Task, samples: Sequence[Sample], recipe: Recipe
) -> None:
    """Search the training rows for wrong answers: ``suspects.jsonl``, and how far the search went in ``run.json``.

    Args:
        run: takes both.
        trained: whose model is asked.
        renderer: the run's renderer.
        limit: longest prompt in tokens.
        task: says how to ask.
        samples: training rows.
        recipe: of the run; ``evaluate.n_suspects`` bounds the rows.
    """
    engine = infer.make_engine(trained.model, renderer, recipe.evaluate.batch_size, limit, hold=True)
    path, seconds = run.path / "suspects.jsonl", max(SUSPECT_SECONDS, SUSPECT_SHARE * trained.seconds)
    search = evaluate.find_suspects(engine, task, samples, path, recipe.evaluate, seed=recipe.run.seed, max_seconds=seconds)
    run.update(suspects=asdict(search))
