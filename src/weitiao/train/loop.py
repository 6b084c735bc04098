"""Training on transformers' Trainer: one batch is one optimizer step, evaluation is what the task says, checkpoints appear whole.

The Trainer brings schedules, Accelerate, FSDP, DeepSpeed and resuming; what differs here is small: the loss of packed rows, the metric
that chooses ``best/``, and a stop that leaves something to go on from.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from weitiao.errors import TrainingError
from weitiao.log import Advance, logger, progress
from weitiao.recipe.sections import Train
from weitiao.seams import IGNORED, EncodedRow, LoadedModel, Steps, TrainResult, Vision
from weitiao.train.arguments import training_arguments
from weitiao.train.clock import Clock, Spent
from weitiao.train.fast import fast_layers, fast_paths, has_answers_only_layer
from weitiao.train.head import chunked_head_loss
from weitiao.train.interrupt import StopFlag, stop_on_signals
from weitiao.train.memory import free_bytes, held_memory, must_recompute
from weitiao.train.segments import micro_batch, segmented


@dataclass(frozen=True, slots=True)
class TrainHooks:
    """What training needs of other rooms."""

    evaluate: Callable[[int], Mapping[str, float]]
    """Step -> metrics on validation rows; empty where there are none."""
    metric: str
    """The metric that chooses the best checkpoint."""
    lower_is_better: bool
    save: Callable[[Path], None]
    """Writes the network's weights as a folder that answers can be got from."""
    restore: Callable[[Path], LoadedModel]
    """Puts such a folder's weights back into the network."""
    log: Callable[[Mapping[str, float]], None]
    """Takes the numbers of a step."""


def run_training(
    model: LoadedModel, steps: Steps, section: Train, hooks: TrainHooks, *, folder: Path, best: Path, seed: int, resume: bool = False
) -> TrainResult:
    """Train, and keep the best checkpoint by the task's metric.

    Args:
        model: a tunable model; its network is changed in place and must not be used afterwards.
        steps: what each optimizer step computes.
        section: the recipe's ``train``.
        hooks: evaluation, saving and logging.
        folder: for checkpoints that training can go on from (``step-N``).
        best: for the best one.
        seed: of order and dropout.
        resume: go on from the newest checkpoint in ``folder``.

    Returns:
        The best checkpoint, loaded, with what training took.

    Raises:
        TrainingError: the loss is not finite.
        KeyboardInterrupt: the user asked to stop; a checkpoint is left.
    """
    device = model.network.device
    names = fast_paths(section, device.type)
    free = free_bytes(device)
    recompute = section.gradient_checkpointing or must_recompute(model.network, steps.micro_batch_tokens, section.optim, free, names)
    arguments = training_arguments(section, names, folder, len(steps), device, model.dtype, seed, recompute=recompute)
    newest = newest_checkpoint(folder) if resume else None
    with ExitStack() as stack:
        stack.enter_context(held_memory())
        flag = stack.enter_context(stop_on_signals())
        advance = stack.enter_context(progress("training", arguments.max_steps, "steps"))
        reporter = _Reporter(hooks.log, flag, advance)
        trainer = _SegmentTrainer(model.network, model.vision, arguments, steps, hooks, section, names, best, reporter)
        trainer.recompute = recompute
        if newest:
            trainer.clock.spent = Spent.read(newest)
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        spent = trainer.clock.until_now()
    if flag.is_set:
        raise KeyboardInterrupt(f"after step {trainer.state.global_step}; a checkpoint was saved")
    if trainer.state.best_global_step is None:
        hooks.save(best)
    return TrainResult(
        model=hooks.restore(best),
        checkpoint=best,
        best_step=trainer.state.best_global_step or trainer.state.global_step,
        best_metric=trainer.state.best_metric,
        n_steps=trainer.state.global_step,
        seconds=spent.seconds,
        tokens_per_second=spent.n_tokens / max(spent.compute_seconds, 1e-9),
        peak_memory_bytes=peak_memory_bytes(device),
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps.

    Args:
        folder: of ``step-N`` folders; may be missing.

    Returns:
        The folder, or None where there is none. Half-written ones have another name and do not count.
    """
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory that this process has held.

    Args:
        device: CUDA counts the card's memory, all else the process's resident memory.

    Returns:
        Bytes.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _StepData(torch.utils.data.Dataset[list[EncodedRow]]):
    """The steps of the current epoch, in order; the Trainer's loader calls ``set_epoch``."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> list[EncodedRow]:
        return self.steps.step(self.epoch, index)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class _SegmentTrainer(Trainer):
    """A Trainer whose batch is a step's packed rows, computed one after another."""

    def __init__(
        self,
        network: Any,
        vision: Vision | None,
        arguments: Any,
        steps: Steps,
        hooks: TrainHooks,
        section: Train,
        names: frozenset[str],
        best: Path,
        reporter: TrainerCallback,
    ) -> None:
        self.step_data = _StepData(steps)
        super().__init__(network, arguments, train_dataset=self.step_data, eval_dataset=[], callbacks=[reporter])
        self.remove_callback(PrinterCallback)
        self.hooks, self.section, self.best, self.folder = hooks, section, best, Path(arguments.output_dir)
        # The head's gradient has to go through the wrapper that sums up the processes' gradients.
        self.names = names if self.accelerator.num_processes == 1 else names - {"answer_logits"}
        self.vision, self.recompute = vision, False
        self.clock = Clock()
        self.add_callback(self.clock)
        self.step_supervised = 0

    def get_train_dataloader(self) -> Any:
        """One step after another; rows were dealt and shuffled by the plan."""
        loader = torch.utils.data.DataLoader(self.step_data, batch_size=1, shuffle=False, collate_fn=_only)
        return self.accelerator.prepare(loader)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:  # noqa: ARG002
        """Forward and backward of one optimizer step, ``inputs`` being its rows; the loss is the mean over its trained tokens."""
        model.train()
        n_supervised = sum(_n_targets(row) for row in inputs)
        total = torch.zeros((), device=self.args.device)
        # Within the step alone: answers to validation rows come from the plain layers, which keep keys and values.
        inner = self.accelerator.unwrap_model(model)
        with segmented(inner), fast_layers(inner, self.names, recompute=self.recompute):
            for row in inputs:
                with self._arithmetic(inner):
                    loss = self._summed_loss(model, row) / n_supervised
                self.accelerator.backward(loss)
                total += loss.detach()
        if not math.isfinite(total.item()):
            raise TrainingError(
                f"the loss is {total.item()} at step {self.state.global_step + 1}",
                hint=f"lower train.learning_rate; the last good checkpoint is {newest_checkpoint(self.folder) or 'the base model'}",
            )
        self.clock.step_tokens, self.step_supervised = sum(len(row.input_ids) for row in inputs), n_supervised
        return total

    def _arithmetic(self, network: Any) -> AbstractContextManager[None]:
        """Autocast where the weights are wider than the arithmetic: layers are called one by one here, past the wrapper that brings it."""
        return self.accelerator.autocast() if network.dtype == torch.float32 else nullcontext()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """As the best checkpoint is loaded: the library's own way passes over weights that it knows by another name."""
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.hooks.restore(Path(resume_from_checkpoint))

    def _summed_loss(self, model: Any, row: EncodedRow) -> torch.Tensor:
        inner = self.accelerator.unwrap_model(model)
        dtype = torch.get_autocast_dtype(self.args.device.type) if torch.is_autocast_enabled(self.args.device.type) else inner.dtype
        causal = inner.get_base_model() if hasattr(inner, "peft_config") else inner
        batch = micro_batch(row, self.args.device, dtype, answers_only=has_answers_only_layer(causal), vision=self.vision)
        inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "segments": batch.segments, "use_cache": False}
        if self.vision is not None and row.pictures:
            inputs["mm_encoder_outputs"] = self.vision.encoder_outputs(row.pictures)
        wanted = slice(None) if batch.segments.sources is not None else batch.sources
        if "answer_logits" in self.names:
            hidden = causal.base_model(**inputs).last_hidden_state[0, wanted]
            return chunked_head_loss(hidden, causal.get_output_embeddings().weight, batch.targets)
        logits = model(**inputs).logits[0, wanted]
        return torch.nn.functional.cross_entropy(logits.float(), batch.targets, reduction="sum")

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        """Not counted: the Trainer's formula knows nothing of packed rows."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what a step saw to the Trainer's numbers."""
        if "loss" in logs:
            seconds = round(self.clock.spent.compute_seconds, 3)
            logs = logs | {"tokens": self.clock.step_tokens, "supervised_tokens": self.step_supervised, "seconds": seconds}
        super().log(logs, start_time)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:  # noqa: ARG002
        """Score validation rows, and keep the network where it is the best so far."""
        metrics = dict(self.hooks.evaluate(self.state.global_step))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        value = metrics.get(self.hooks.metric)
        if value is None:
            return metrics
        better = self.state.best_metric is None or (
            value < self.state.best_metric if self.hooks.lower_is_better else value > self.state.best_metric
        )
        self.state.log_history.append({"step": self.state.global_step, "evaluation": value})
        if better:
            self.state.best_metric, self.state.best_global_step = value, self.state.global_step
            self.hooks.save(self.best)
        since = [entry for entry in self.state.log_history if "evaluation" in entry and entry["step"] > (self.state.best_global_step or 0)]
        if self.section.early_stopping_patience and len(since) >= self.section.early_stopping_patience:
            logger.info("no better %s in %d evaluations: stopping early", self.hooks.metric, len(since))
            self.control.should_training_stop = True
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ARG002
        """Everything needed to go on, as ``step-N``: written beside and renamed, so that a kill leaves no half checkpoint."""
        final = self.folder / f"step-{self.state.global_step}"
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        self.save_model(str(partial), _internal_call=True)
        self._save_optimizer_and_scheduler(str(partial))
        self._save_scaler(str(partial))
        self._save_rng_state(str(partial))
        self.state.stateful_callbacks = {"TrainerControl": self.control.state()}  # type: ignore[assignment]  # a dict, whatever it is annotated
        self.state.save_to_json(str(partial / "trainer_state.json"))
        self.clock.until_now().write(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        old = sorted(final.parent.glob("step-*[0-9]"), key=lambda path: int(path.name.removeprefix("step-")))
        for path in old[: -self.section.save_total_limit]:
            shutil.rmtree(path)


class _Reporter(TrainerCallback):
    """Numbers of a step to the run, progress to people, and the user's wish to stop to the Trainer."""

    def __init__(self, log: Callable[[Mapping[str, float]], None], flag: StopFlag, advance: Advance) -> None:
        self.write, self.flag, self.advance = log, flag, advance

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:  # noqa: ARG002
        if logs and "loss" in logs:
            self.write({"step": state.global_step, "epoch": state.epoch or 0.0} | logs)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.advance(state.global_step, before=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.advance(1)
        if state.global_step >= state.max_steps:
            control.should_evaluate = True
        if self.flag.is_set:
            control.should_save = True
            control.should_training_stop = True


def _only(items: list[list[EncodedRow]]) -> list[EncodedRow]:
    return items[0]


def _n_targets(row: EncodedRow) -> int:
    """Trained tokens that something predicts: a segment's first token has nothing before it."""
    starts, place = set(), row.prefix_length
    for length in row.segment_lengths:
        starts.add(place)
        place += length
    return sum(label != IGNORED and place not in starts for place, label in enumerate(row.labels))
