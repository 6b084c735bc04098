"""What a run will take, before it is started: parameters, memory by part, tokens, steps and time, counted or measured on a few steps."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from weitiao import chat, data, encode, infer, model, pipeline, tasks, train
from weitiao.doctor import gemm_gflops
from weitiao.recipe import Recipe
from weitiao.recipe.sections import Train
from weitiao.seams import LoadedModel, Renderer, SampleSet, Steps

N_MEASURED_STEPS = 3
"""Optimizer steps that ``measure`` trains: the first warms caches up, the others are timed."""
SHARE_OF_RATE = 0.65
"""Part of the rate of plain matrix products that a whole training step is expected to reach; the rest is norms, attention and dropout."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe asks of this machine."""

    model: str
    device: str
    dtype: str
    n_parameters: int
    n_trainable: int
    memory: Mapping[str, int]
    """Bytes by part: libraries, weights, gradients, optimizer, activations, workspace (logits and one layer's gradients)."""
    training_bytes: int
    """The sum of the parts, or what was measured."""
    answering_bytes: int
    """While validation rows are answered between steps: libraries, weights, optimizer, weights laid out for the CPU, keys and values."""
    peak_bytes: int
    """The larger of the two."""
    device_bytes: int
    n_rows: int
    n_tokens: int
    """Of the training rows, per epoch, as they are computed (a beginning that all share counts once per packed row)."""
    n_supervised_tokens: int
    n_epochs: float
    n_steps: int
    longest_row: int
    n_shortened: int
    seconds: float
    """Of training, without answering rows."""
    measured: bool
    """Whether time and training's memory were measured on steps of this recipe, not derived."""


def plan_recipe(recipe: Recipe, *, measure: bool = False) -> Plan:
    """Say what a run will take.

    Args:
        recipe: everything the run needs.
        measure: load the weights and train a few steps (nothing is kept), instead of deriving time and memory.

    Returns:
        The plan.

    Raises:
        WeitiaoError: the data or the model cannot be read, or the model cannot fit.
    """
    model.check_memory(recipe.model, recipe.train.optim)
    task = tasks.make_task(recipe.task, recipe.data.system)
    samples = data.load_samples(recipe.data, task, recipe.run.seed)
    renderer = chat.make_renderer(model.load_processor(recipe.model), recipe.chat, recipe.encode.keep)
    encoded = encode.encode_samples(samples, renderer, recipe.encode, allow_dropped=recipe.data.allow_dropped)
    outlined, device = model.outline(recipe.model), model.pick_device(recipe.model.device)
    pipeline.refuse_beyond_positions(encoded, outlined.network.config)
    steps = pipeline.steps_of(encoded, recipe)
    sizes = [[len(row.input_ids) for row in steps.step(0, index)] for index in range(len(steps))]
    n_steps = train.number_of_steps(recipe.train, len(steps))
    n_total, n_trainable = model.count_parameters(outlined.network)
    parts = {"libraries": model.LIBRARIES_BYTES, **model.parameter_bytes(outlined.network, recipe.train.optim)}
    largest = max(max(step) for step in sizes)
    names = train.fast_paths(recipe.train, device.type)
    free = train.free_bytes(device) - parts["libraries"] - parts["weights"]
    recompute = recipe.train.gradient_checkpointing or train.must_recompute(outlined.network, largest, recipe.train.optim, free, names)
    parts["activations"] = train.kept_bytes_per_token(outlined.network, names, recompute=recompute) * largest
    parts["workspace"] = train.workspace_bytes(outlined.network, largest)
    computed = sum(map(sum, sizes))
    if measure:
        seconds_per_token, training = _measured(recipe, steps, renderer, samples)
    else:
        seconds_per_token, training = _derived(outlined, n_trainable, device), sum(parts.values())
    answering = sum(parts[name] for name in ("libraries", "weights", "optimizer"))
    answering += infer.answering_bytes(outlined.network, outlined.dtype, device, recipe.evaluate.batch_size, max(encoded.lengths))
    return Plan(
        model=recipe.model.path,
        device=str(device),
        dtype=str(outlined.dtype).removeprefix("torch."),
        n_parameters=n_total,
        n_trainable=n_trainable,
        memory=parts,
        training_bytes=training,
        answering_bytes=answering,
        peak_bytes=max(training, answering),
        device_bytes=model.memory_bytes(device),
        n_rows=len(encoded.rows),
        n_tokens=computed,
        n_supervised_tokens=encoded.n_supervised_tokens,
        n_epochs=recipe.train.num_train_epochs,
        n_steps=n_steps,
        longest_row=max(encoded.lengths),
        n_shortened=encoded.n_shortened,
        seconds=seconds_per_token * computed / len(steps) * n_steps,
        measured=measure,
    )


def _measured(recipe: Recipe, steps: Steps, renderer: Renderer, samples: SampleSet) -> tuple[float, int]:
    """Seconds per token and the peak of this process's memory, from a few steps that leave nothing behind.

    Pictures go through the tower in each step: what a run keeps of it is not computed for a plan.
    """
    base = encode.see_pictures(model.load_base(recipe.model), renderer, samples, store=False)
    tunable = model.attach_tuning(base, recipe.model.tuning, recipe.run.seed)
    seen: list[tuple[float, float]] = []

    def note(values: Mapping[str, float]) -> None:
        seen.append((float(values["seconds"]), float(values["tokens"])))

    hooks = train.TrainHooks(
        evaluate=lambda _step: {},
        metric="",
        lower_is_better=False,
        save=lambda _folder: None,
        restore=lambda _folder: tunable,
        log=note,
    )
    few: Train = recipe.train.model_copy(update={"max_steps": min(N_MEASURED_STEPS, len(steps)), "logging_steps": 1, "eval_steps": None})
    with tempfile.TemporaryDirectory(prefix="weitiao-plan-") as folder:
        result = train.run_training(
            tunable, steps, few, hooks, folder=Path(folder) / "checkpoints", best=Path(folder) / "best", seed=recipe.run.seed
        )
    warm = seen[1:] or seen
    seconds = seen[-1][0] - (seen[0][0] if len(seen) > 1 else 0.0)
    return seconds / sum(tokens for _, tokens in warm), result.peak_memory_bytes


def _derived(outlined: LoadedModel, n_trainable: int, device: torch.device) -> float:
    """Seconds per token, from the rate of plain matrix products here and now.

    A frozen weight costs 4 FLOP per token (forward, and the gradient of its input), a trained one 6 (and its own gradient); the embedding
    costs nothing, the head only where an answer is.
    """
    network = outlined.network
    embedding = network.get_input_embeddings().weight.numel()
    matrices = sum(parameter.numel() for parameter in network.parameters() if parameter.dim() > 1) - embedding
    n_flop = (6 if n_trainable > 0.5 * matrices else 4) * matrices
    gflops = SHARE_OF_RATE * gemm_gflops(device, outlined.dtype, torch.get_num_threads(), seconds=0.5)
    return float(n_flop / (1e9 * gflops))
