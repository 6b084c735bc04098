"""Whether a folder is a model in Hugging Face's form, and what its weights' headers say. Reads no weights."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def lacks(folder: Path, *, weights: bool = True) -> str | None:
    """Say what keeps ``folder`` from being a model, or, without ``weights``, from having a tokenizer; None where nothing does."""
    if not (folder / "config.json").is_file():
        return "it holds no config.json"
    problem = _lacking_weights(folder) if weights else None
    if problem is None and not any((folder / name).is_file() for name in TOKENIZERS):
        return f"it holds no tokenizer ({', '.join(TOKENIZERS)})"
    return problem


def _lacking_weights(folder: Path) -> str | None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            return f"{len(missing)} of its {len(shards)} weight files are missing, {missing[0]} first"
    elif not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth"))
        return (
            "its weights are pickles (.bin, .pt), which can run code; only safetensors are read" if pickled else "it holds no safetensors"
        )
    return None


def stored_dtype(folder: Path) -> str | None:
    """Return the dtype of all weights in ``folder``, as safetensors calls it (``BF16``, ``F16``, ``F32``).

    None where there are several, or where a header cannot be read; loading says so then.
    """
    from safetensors import SafetensorError, safe_open

    found = set()
    try:
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "numpy") as weights:
                found |= {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError):
        return None
    return found.pop() if len(found) == 1 else None


def count_stored(folder: Path) -> tuple[int, int]:
    """Return parameters and bytes of the safetensors in ``folder``; tied matrices count once, as they are stored."""
    from safetensors import safe_open

    n_parameters = n_bytes = 0
    for file in folder.glob("*.safetensors"):
        n_bytes += file.stat().st_size
        with safe_open(file, "numpy") as weights:
            n_parameters += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118 (no mapping)
    return n_parameters, n_bytes
