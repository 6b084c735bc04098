"""What a micro-batch keeps for its backward pass, whether that fits into the memory that is free, and how memory is used again."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from weitiao.log import logger
from weitiao.train.head import HEAD_CHUNK_ELEMENTS

SHARE_OF_FREE = 0.8
"""Part of the free memory that training may plan with: the rest is for what cannot be counted beforehand."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of ``mallopt``, in glibc's malloc.h."""
SMALL_BLOCK = 128 * 1024
"""Both of them in bytes where nobody sets them (mallopt(3))."""
LARGE_BLOCK = 32 << 20
"""The most that the second one can be: larger blocks always go back to the system. A layer's gradients are smaller."""


@contextmanager
def held_memory() -> Iterator[None]:
    """Keep freed memory for what comes next while the context lasts, blocks up to ``LARGE_BLOCK`` that is; glibc gives it back each time.

    A page that is new costs more than what is written to it, and full tuning frees and takes gigabytes a step. At the end the memory goes
    back to the system. Without glibc nothing is changed.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    libc.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
    try:
        yield
    finally:
        libc.mallopt(M_TRIM_THRESHOLD, SMALL_BLOCK)
        libc.mallopt(M_MMAP_THRESHOLD, SMALL_BLOCK)
        psutil.heap_trim()


def must_recompute(network: Any, n_tokens: int, optim: str, free: int, names: frozenset[str]) -> bool:
    """Whether a micro-batch's activations would not fit beside gradients and optimizer state.

    Args:
        network: the tuned network; its weights may be on ``meta``.
        n_tokens: of the largest micro-batch.
        optim: as in the recipe.
        free: bytes that nothing uses yet once the weights are loaded.
        names: fast paths in use.

    Returns:
        True where the MLP's inner activations, about two thirds of all, have to be computed again in the backward pass.
    """
    trained = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters() if parameter.requires_grad)
    # Gradients, and AdamW's two averages; Adafactor's take a thousandth of that.
    kept = n_tokens * kept_bytes_per_token(network, names)
    needed = (3 if optim == "adamw" else 1) * trained + kept + workspace_bytes(network, n_tokens)
    if needed <= SHARE_OF_FREE * free:
        return False
    logger.info(
        "training would take %.1f GB of %.1f GB free: activations are computed again in the backward pass", needed / 1e9, free / 1e9
    )
    return True


def kept_bytes_per_token(network: Any, names: frozenset[str], *, recompute: bool = False) -> int:
    """What is kept of a token in all layers.

    Args:
        network: the tuned network.
        names: fast paths in use: layers that are not fused keep norms, activations and their products as well.
        recompute: whether the MLP's inner activations are computed again in the backward pass.

    Returns:
        Bytes.
    """
    config = network.config.get_text_config()
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attended = head_size * (2 * heads + 2 * groups)  # queries, keys, values and what came of them: float32 on a CPU, where rows are short
    attention = 2 * config.hidden_size
    if "fused_attention" not in names:
        attention += 2 * config.hidden_size + head_size * (heads + groups)
    mlp = 0 if recompute else (2 if "fused_mlp" in names else 4) * config.intermediate_size
    itemsize = network.dtype.itemsize
    return int(config.num_hidden_layers * ((attention + mlp) * itemsize + attended * (4 if "fused_attention" in names else itemsize)))


def workspace_bytes(network: Any, n_tokens: int) -> int:
    """What a micro-batch takes at most for a moment: a chunk of logits, the same in float32, and two layers' gradients.

    Args:
        network: the tuned network.
        n_tokens: of the micro-batch.

    Returns:
        Bytes.
    """
    config = network.config.get_text_config()
    n_logits = min(HEAD_CHUNK_ELEMENTS, n_tokens * config.vocab_size)
    n_layer = 3 * config.hidden_size * config.intermediate_size + 4 * config.hidden_size**2
    return int((network.dtype.itemsize + 4) * n_logits + 4 * 2 * n_layer)


def free_bytes(device: torch.device) -> int:
    """Memory that nothing uses yet.

    Args:
        device: CUDA counts the card's memory, all else the machine's.

    Returns:
        Bytes.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
