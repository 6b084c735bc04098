"""Weights and tokenizer from a folder into memory, in the dtype and on the device that the recipe means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import torch

from weitiao.errors import ModelError
from weitiao.log import logger
from weitiao.model.facts import VISION, pick_device, pick_dtype, stop_token_ids
from weitiao.model.folder import count_stored, stored_dtype
from weitiao.model.vision import load_vision_processor
from weitiao.model.weights import resolve_weights
from weitiao.recipe.sections import LoraTuning, Model
from weitiao.seams import LoadedModel
from weitiao.thin import keep_thin

SHARE_OF_FREE = 0.25
"""Part of the free memory that widened weights may take; larger ones stay thin, for which a training step takes some 7 % longer."""
THIN_FAMILIES = frozenset({"llama", "qwen2", "qwen3"})
"""Text models whose layers use their matrices through ``nn.Linear`` alone."""


def load_base(section: Model) -> LoadedModel:
    """Load the model that a run starts from.

    Args:
        section: the recipe's ``model``.

    Returns:
        The model in eval mode on its device. Starting from a LoRA run means its merged folder.

    Raises:
        ModelError: the weights cannot be found, fetched or read.
        RecipeError: the device is not there.
    """
    device = pick_device(section.device)
    dtype = pick_dtype(section.dtype, device)
    folder = find_folder(section)
    narrow = frozen_dtype(section, folder, dtype)
    network, processor = load_network(folder, dtype, device, narrow=narrow, trust_remote_code=section.trust_remote_code)
    n_millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    logger.info("loaded %s: %.1f M parameters, %s on %s", section.path, n_millions, str(dtype).removeprefix("torch."), device)
    return LoadedModel(network, processor, folder, section.path, dtype, is_vision=is_vision(folder))


def find_folder(section: Model) -> Path:
    """The folder that a recipe's model lies in; weights are fetched where they are not here.

    Args:
        section: the recipe's ``model``.

    Returns:
        An ordinary Hugging Face folder; of a LoRA run, that of its merged weights.

    Raises:
        ModelError: there is no such model, or it cannot be fetched.
    """
    return _ordinary_folder(resolve_weights(section.path, section.revision))


def load_processor(section: Model) -> Any:
    """Load only the tokenizer of the model that a run starts from; for a vision model its image processor too. No weights are fetched.

    Args:
        section: the recipe's ``model``.

    Returns:
        The tokenizer, or a ``VisionProcessor``.

    Raises:
        ModelError: the folder cannot be found or has no tokenizer that can be read.
    """
    folder = _ordinary_folder(resolve_weights(section.path, section.revision, weights=False))
    return _load_processor(folder, trust_remote_code=section.trust_remote_code)


def load_network(
    folder: Path, dtype: torch.dtype, device: torch.device, *, narrow: torch.dtype | None = None, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Load a folder with the library's own loaders.

    Args:
        folder: an ordinary Hugging Face folder.
        dtype: of the arithmetic, and of the weights in memory.
        device: where they go.
        narrow: that of the layers' matrices in memory where it is another, from ``thin_dtype``; for layers that stay frozen.
        trust_remote_code: whether Python code in the folder may run.

    Returns:
        The network in eval mode, and its tokenizer; for a vision model (a row of ``facts.VISION``) a ``VisionProcessor``.

    Raises:
        ModelError: the folder is not that of a model that can be read.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    processor = _load_processor(folder, trust_remote_code=trust_remote_code)
    tokenizer = getattr(processor, "tokenizer", processor)
    loader = AutoModelForImageTextToText if is_vision(folder) else AutoModelForCausalLM
    try:
        network = loader.from_pretrained(
            folder, dtype=narrow or dtype, attn_implementation="sdpa", trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the weights cannot be loaded: {_first_line(error)}", where=str(folder)) from error
    network.generation_config.eos_token_id = stop_token_ids(network, tokenizer)
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    if narrow is not None:
        keep_thin(network, dtype)
    network = network.to(device)  # type: ignore[arg-type]
    return network.eval(), processor


def frozen_dtype(section: Model, folder: Path, dtype: torch.dtype) -> torch.dtype | None:
    """The dtype in which the matrices that a recipe leaves frozen stay in memory.

    Args:
        section: the recipe's ``model``.
        folder: where the weights lie.
        dtype: of the arithmetic.

    Returns:
        ``thin_dtype`` for LoRA where the recipe names no dtype; None elsewhere.
    """
    return thin_dtype(folder, dtype) if section.dtype == "auto" and isinstance(section.tuning, LoraTuning) else None


def thin_dtype(folder: Path, dtype: torch.dtype) -> torch.dtype | None:
    """The dtype in which a folder's frozen matrices may stay.

    Args:
        folder: an ordinary Hugging Face folder.
        dtype: of the arithmetic.

    Returns:
        That of the files where it has 16 bits, ``dtype`` is float32, the model is of ``THIN_FAMILIES``, and its weights are large for the
        memory that is free; None elsewhere.
    """
    family = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if dtype != torch.float32 or family not in THIN_FAMILIES:
        return None
    narrow = {"BF16": torch.bfloat16, "F16": torch.float16}.get(stored_dtype(folder) or "")
    if narrow is None or dtype.itemsize * count_stored(folder)[0] <= SHARE_OF_FREE * psutil.virtual_memory().available:
        return None
    return narrow


def is_vision(folder: Path) -> bool:
    """Whether a folder holds a vision model.

    Args:
        folder: an ordinary Hugging Face folder.

    Returns:
        False for a text model.

    Raises:
        ModelError: it is a vision model of a family that is not known.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "vision_config" not in config:
        return False
    if config.get("model_type") not in VISION:
        raise ModelError(
            f"vision models of the family {config.get('model_type')} are not known",
            where=str(folder),
            hint=f"start from one of {', '.join(VISION)}",
        )
    return True


def _load_processor(folder: Path, *, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the tokenizer cannot be loaded: {_first_line(error)}", where=str(folder)) from error
    return load_vision_processor(folder, tokenizer) if is_vision(folder) else tokenizer


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _ordinary_folder(folder: Path) -> Path:
    """The folder itself; for the adapter of a run, the run's merged weights."""
    if not (folder / "adapter_config.json").exists():
        return folder
    merged = folder.parent / "merged"
    if not (merged / "config.json").exists():
        raise ModelError(
            "this is an adapter without its merged weights",
            where=str(folder),
            hint=f"make them first: weitiao export {folder.parent} --kind merged",
        )
    return merged
