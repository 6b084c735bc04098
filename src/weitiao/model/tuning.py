"""What of a network is trained: LoRA matrices beside frozen weights, or every weight. From here on the network is changed in place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from weitiao.errors import RecipeError
from weitiao.log import logger
from weitiao.model.vision import AbsentTower, adapter_targets, check_vision_choice, freeze_vision, release_tower, trained_parts
from weitiao.recipe.sections import FullTuning, LoraTuning
from weitiao.seams import LoadedModel


def attach_tuning(base: LoadedModel, section: LoraTuning | FullTuning, seed: int = 0) -> LoadedModel:
    """Make a base model trainable. What is trained is kept in float32, whatever the arithmetic.

    Args:
        base: a loaded model; its network is changed in place.
        section: the recipe's ``model.tuning``.
        seed: of the adapter's initial weights.

    Returns:
        The same model, its network wrapped by PEFT for LoRA.

    Raises:
        RecipeError: a target module's name matches no linear layer or the un-embedding, or a text model's vision is to be trained.
    """
    network = base.network
    check_vision_choice(network, section)
    if isinstance(section, FullTuning):
        network.float()
        network.requires_grad_(True)
        freeze_vision(network, section.vision)
        tuned = network
    else:
        from peft import LoraConfig, get_peft_model

        _check_targets(network, section.target_modules)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=section.r,
            lora_alpha=section.lora_alpha,  # type: ignore[arg-type]  # PEFT computes with any number
            lora_dropout=section.lora_dropout,
            target_modules=adapter_targets(network, section.target_modules, section.vision),
            use_rslora=section.use_rslora,
        )
        torch.manual_seed(seed)
        tuned = get_peft_model(network, config)
    if base.vision is not None and not base.vision.needs_tower and hasattr(tuned, "peft_config"):
        release_tower(network)
    n_total, n_trainable = count_parameters(tuned)
    logger.info("training %s of %s parameters (%.4f %%)", f"{n_trainable:,}", f"{n_total:,}", 100 * n_trainable / n_total)
    for part, count in trained_parts(tuned).items():
        logger.info("  %s: %s", part, f"{count:,}")
    return replace(base, network=tuned)


def count_parameters(network: Any) -> tuple[int, int]:
    """Parameters in all and trainable ones; tied tensors count once, a vision tower that has left memory counts.

    Args:
        network: any module.

    Returns:
        Total and trainable counts.
    """
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    absent = sum(module.n_parameters for module in network.modules() if isinstance(module, AbsentTower))
    return absent + sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable)


def _check_targets(network: Any, targets: list[str]) -> None:
    present = {name.rsplit(".", 1)[-1] for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    head = network.get_output_embeddings() if hasattr(network, "get_output_embeddings") else None
    head_names = {name.rsplit(".", 1)[-1] for name, module in network.named_modules() if module is head}
    if wrong := head_names & set(targets):
        raise RecipeError(
            f"`{wrong.pop()}` is the un-embedding, which LoRA leaves as it is (in small models it is the embedding too)",
            where="model.tuning.target_modules",
            hint="take it out, or train every weight: model.tuning: {kind: full}",
        )
    present -= head_names
    missing = [name for name in targets if name not in present]
    if missing:
        raise RecipeError(
            f"no linear layer is called {', '.join(f'`{name}`' for name in missing)}",
            where="model.tuning.target_modules",
            hint=f"this model has {', '.join(sorted(present))}",
        )
