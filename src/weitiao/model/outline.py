"""A model without its weights: how many parameters there are, which of them are trained, and what all that takes in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from weitiao.errors import ModelError, RecipeError
from weitiao.log import logger
from weitiao.model.facts import pick_device, pick_dtype
from weitiao.model.load import find_folder, frozen_dtype, is_vision
from weitiao.model.tuning import attach_tuning
from weitiao.recipe.sections import FullTuning, LoraTuning, Model
from weitiao.seams import LoadedModel
from weitiao.thin import keep_thin

LIBRARIES_BYTES = 700_000_000
"""What a process takes that has imported PyTorch and transformers and holds no weights."""
OPTIMIZER_BYTES = {"adamw": 8, "adafactor": 0}
"""Per trained parameter, in float32: AdamW's two averages; Adafactor's, one per row and one per column of a matrix, are next to nothing."""


def outline(section: Model) -> LoadedModel:
    """Build a model on PyTorch's ``meta`` device, with what is trained attached.

    Args:
        section: the recipe's ``model``; weights that are not on this machine are fetched, none are read.

    Returns:
        A model whose parameters have shapes and dtypes and no memory; it has no processor.

    Raises:
        ModelError: the weights cannot be found, or their configuration cannot be read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    dtype = pick_dtype(section.dtype, pick_device(section.device))
    folder = find_folder(section)
    narrow = frozen_dtype(section, folder, dtype)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=section.trust_remote_code)
        loader = AutoModelForImageTextToText if is_vision(folder) else AutoModelForCausalLM
        with torch.device("meta"):
            network = loader.from_config(  # type: ignore[no-untyped-call]
                config, dtype=narrow or dtype, attn_implementation="sdpa", trust_remote_code=section.trust_remote_code
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the configuration cannot be read: {error}", where=str(folder)) from error
    network.tie_weights()
    if narrow is not None:
        keep_thin(network, dtype)
    with _silent():
        return attach_tuning(LoadedModel(network, None, folder, section.path, dtype, is_vision=is_vision(folder)), section.tuning)


@contextmanager
def _silent() -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def parameter_bytes(network: Any, optim: str = "adamw") -> dict[str, int]:
    """What parameters take while they are trained, by part.

    Args:
        network: a tuned network, on ``meta`` or not.
        optim: the recipe's ``train.optim``.

    Returns:
        Bytes of ``weights`` (all, as they are kept), ``gradients`` and ``optimizer`` (of what is trained).
    """
    parameters = list(network.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return {
        "weights": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        "gradients": sum(parameter.numel() * parameter.element_size() for parameter in trained),
        "optimizer": OPTIMIZER_BYTES[optim] * sum(parameter.numel() for parameter in trained),
    }


def check_memory(section: Model, optim: str = "adamw") -> None:
    """Refuse a model that cannot be trained in this device's memory, before anything is loaded.

    Args:
        section: the recipe's ``model``.
        optim: the recipe's ``train.optim``.

    Raises:
        RecipeError: weights, gradients and optimizer state alone are more than the device's memory; the message says what would fit.
    """
    total = memory_bytes(pick_device(section.device))
    needed = _needed(section, optim)
    if needed <= total:
        return
    lora = section.model_copy(update={"tuning": LoraTuning()})
    hint = "take a smaller model"
    if isinstance(section.tuning, FullTuning) and _needed(section, "adafactor") <= total:
        hint = "an optimizer that keeps next to nothing would fit: train.optim=adafactor; so would LoRA: model.tuning.kind=lora"
    elif isinstance(section.tuning, FullTuning) and _needed(lora, optim) <= total:
        hint = "LoRA would fit: model.tuning.kind=lora"
    raise RecipeError(
        f"training needs {needed / 1e9:.1f} GB for weights, gradients and optimizer alone; this device has {total / 1e9:.1f} GB",
        where="model",
        hint=hint,
    )


def _needed(section: Model, optim: str) -> int:
    return LIBRARIES_BYTES + sum(parameter_bytes(outline(section).network, optim).values())


def memory_bytes(device: torch.device) -> int:
    """All memory of a device.

    Args:
        device: CUDA counts the card's memory, all else the machine's.

    Returns:
        Bytes.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)
