"""What a device can do and which part of a model is its language model: plain tables, no classes per family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from weitiao.errors import RecipeError

DTYPES: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def pick_device(name: str) -> torch.device:
    """The device that a recipe's ``model.device`` means.

    Args:
        name: ``auto`` or a torch device name.

    Returns:
        CUDA where there is a card, else MPS, else CPU for ``auto``; otherwise the named device.

    Raises:
        RecipeError: the name is no device, or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"`{name}` is no device", where="model.device", hint="use auto, cpu, mps, cuda or cuda:N") from error
    present = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    if not present.get(device.type, False):
        raise RecipeError(f"there is no {device.type} device on this machine", where="model.device", hint="use `auto`")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that a recipe's ``model.dtype`` means on a device.

    Args:
        name: ``auto`` or a key of ``DTYPES``.
        device: where arithmetic is done.

    Returns:
        For ``auto``: bfloat16 where the device computes in it (CUDA from Ampere on, MPS, CPUs with AVX512-BF16 or AMX), else float32.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.bfloat16
    capable = torch.cpu.get_capabilities()
    return torch.bfloat16 if capable.get("avx512_bf16") or capable.get("amx_bf16") or capable.get("bf16") else torch.float32


def stop_token_ids(network: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: those of the generation config and the tokenizer's own.

    Args:
        network: a model with a generation config.
        tokenizer: its tokenizer.

    Returns:
        Distinct ids, the tokenizer's end-of-turn token first.
    """
    configured = network.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [] if configured is None else [configured]
    vocabulary = tokenizer.get_vocab()
    own = [vocabulary[name] for name in ("<|im_end|>", tokenizer.eos_token, "<|endoftext|>") if name in vocabulary]
    return list(dict.fromkeys([*own, *listed]))


@dataclass(frozen=True, slots=True)
class VisionFacts:
    """How a vision model is put together; module names as transformers has them."""

    language: str = "model.language_model"
    tower: str = "model.visual"
    mergers: tuple[str, ...] = ("merger",)
    """Modules of the tower that bring its outputs to the language model's width."""


VISION: dict[str, VisionFacts] = {
    "qwen2_vl": VisionFacts(),
    "qwen2_5_vl": VisionFacts(),
    "qwen3_vl": VisionFacts(mergers=("merger", "deepstack_merger_list")),
}
"""Vision models by ``model_type``. Qwen2.5-VL's tower has layers named as the language model's (``gate_proj``); names are anchored."""


def vision_facts(network: Any) -> VisionFacts | None:
    """What is known of a vision model.

    Args:
        network: a ``transformers`` model.

    Returns:
        None for a text model.
    """
    return VISION.get(network.config.model_type)
