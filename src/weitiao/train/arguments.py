"""The recipe's ``train`` section as ``TrainingArguments``: the one place that knows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from weitiao.recipe.sections import Train

if TYPE_CHECKING:
    from transformers import TrainingArguments


def number_of_steps(section: Train, n_steps_per_epoch: int) -> int:
    """Optimizer steps of a training.

    Args:
        section: the recipe's ``train``.
        n_steps_per_epoch: of the plan.

    Returns:
        At least 1.
    """
    return section.max_steps or max(1, round(n_steps_per_epoch * section.num_train_epochs))


def training_arguments(
    section: Train,
    names: frozenset[str],
    folder: Path,
    n_steps_per_epoch: int,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    *,
    recompute: bool,
) -> TrainingArguments:
    """Translate the recipe for transformers.

    Args:
        section: the recipe's ``train``.
        names: fast paths in use.
        folder: for checkpoints.
        n_steps_per_epoch: optimizer steps.
        device: where training happens.
        dtype: of the arithmetic; trained weights stay in float32.
        seed: of everything random.
        recompute: whether activations are computed again in the backward pass; the fused MLP does so by itself.

    Returns:
        Arguments under which one batch of the loader is one optimizer step.
    """
    from transformers import TrainingArguments

    by_library = recompute and "fused_mlp" not in names
    n_steps = number_of_steps(section, n_steps_per_epoch)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=section.num_train_epochs,
        max_steps=n_steps,
        learning_rate=section.learning_rate,
        lr_scheduler_type=section.lr_scheduler_type,
        warmup_steps=round(section.warmup_ratio * n_steps),
        weight_decay=section.weight_decay,
        adam_beta2=section.adam_beta2,
        max_grad_norm=section.max_grad_norm,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        activation_checkpointing=by_library,
        activation_checkpointing_kwargs={"use_reentrant": False} if by_library else None,
        use_liger_kernel="liger" in names,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=device.type == "cpu",
        optim="adafactor" if section.optim == "adafactor" else "adamw_torch_fused" if device.type in ("cuda", "cpu") else "adamw_torch",
        eval_strategy="steps",
        eval_steps=section.eval_steps or n_steps_per_epoch,
        save_strategy="steps",
        save_steps=section.eval_steps or n_steps_per_epoch,
        logging_steps=section.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        seed=seed,
        data_seed=seed,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        torch_empty_cache_steps=None,
    )
    if device.type == "cuda" and arguments.world_size == 1:
        _use_card(arguments, device)
    return arguments


def _use_card(arguments: TrainingArguments, device: torch.device) -> None:
    """Train on the recipe's card alone: the library takes the first one, and all of them where there are several."""
    torch.cuda.set_device(device)
    vars(arguments)["_setup_devices"] = device
    arguments._n_gpu = 1
