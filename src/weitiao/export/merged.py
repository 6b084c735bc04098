"""An ordinary Hugging Face folder: adapter merged into the base in float32, cast once, with everything that answering needs."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from weitiao.chat import chat_template, make_renderer
from weitiao.errors import ExportError
from weitiao.export.check import answer_here, answer_there, check_prompts, compare
from weitiao.model import generation_settings, load_checkpoint, read_facts
from weitiao.recipe.sections import Chat, Images
from weitiao.seams import LoadedModel, Sample

DTYPES: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def write_merged(checkpoint: Path, folder: Path, dtype: str, samples: Sequence[Sample]) -> dict[str, object]:
    """Write the merged weights and prove that they answer as the checkpoint does.

    Args:
        checkpoint: an adapter or whole weights, with ``weitiao.json``.
        folder: made; must not exist.
        dtype: of the files: a key of ``DTYPES``, or ``auto`` for that of the base's own files.
        samples: held-out rows for the comparison; with none, only reading back is tested.

    Returns:
        What the comparison showed; see ``check.compare``.

    Raises:
        ExportError: there is no room on the disk, the folder cannot be read back, or it answers otherwise than the checkpoint.
        ModelError: the checkpoint or its base cannot be read.
    """
    facts = read_facts(checkpoint)
    tuned = load_checkpoint(checkpoint, device="cpu", dtype=torch.float32)
    file_dtype = _file_dtype(tuned.path) if dtype == "auto" else dtype
    check_room(tuned.network, DTYPES[file_dtype], folder.parent)
    section = Chat(**facts.chat)
    prompts = check_prompts(make_renderer(tuned.processor, section), samples, facts.max_prompt_tokens)
    expected = answer_here(tuned.network, prompts)
    _save(tuned, section, DTYPES[file_dtype], folder)
    del tuned
    gc.collect()  # The process that reads the folder back needs the memory.
    return compare(expected, answer_there(folder, prompts), file_dtype, folder, prompts)


def _save(tuned: LoadedModel, section: Chat, dtype: torch.dtype, folder: Path) -> None:
    network = merged_network(tuned)
    network.to(dtype)
    network.save_pretrained(folder)
    save_processor(tuned, section, folder)


def save_processor(tuned: LoadedModel, section: Chat, folder: Path) -> None:
    """Write the tokenizer with the run's chat template and, for a vision model, the image processor with the run's limits.

    Args:
        tuned: whose processor it is; changed in place.
        section: the recipe's ``chat``.
        folder: where.
    """
    processor = tuned.processor
    tokenizer = getattr(processor, "tokenizer", processor)
    tokenizer.chat_template = chat_template(tokenizer, section.enable_thinking)
    if tuned.is_vision:
        processor.image_processor.size = pixel_limits(section.images)
    processor.save_pretrained(folder)


def pixel_limits(section: Images) -> dict[str, int]:
    """The run's limits on an image as transformers' Qwen image processors name them, for programs that read the folder without weitiao.

    Args:
        section: the recipe's ``chat.images``.

    Returns:
        ``shortest_edge`` and ``longest_edge``, which are numbers of pixels of the whole image in these processors. One fixed size has no
        name there: both are its area, and a picture of other proportions has to be brought to the size before.
    """
    if section.size is not None:
        area = section.size[0] * section.size[1]
        return {"shortest_edge": area, "longest_edge": area}
    return {"shortest_edge": section.min_pixels, "longest_edge": section.max_pixels}


def merged_network(tuned: LoadedModel) -> Any:
    """The plain network with its adapter merged in, set to answer greedily and to stop at every stop token.

    Args:
        tuned: in float32; its network is used up.

    Returns:
        A transformers model in float32.

    Raises:
        ExportError: the adapter holds numbers that are not finite.
    """
    from peft import PeftModel

    network, settings = tuned.network, generation_settings(tuned)
    if isinstance(network, PeftModel):
        try:
            network = network.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise ExportError(f"the adapter cannot be merged: {error}", where=str(tuned.path)) from error
    network.generation_config = settings
    network.config.use_cache = True
    return network


def _file_dtype(base: Path) -> str:
    """What the base's own files are stored in, as its configuration says; float32 where it does not say."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    named = config.get("dtype") or config.get("torch_dtype") or "float32"
    return named if named in DTYPES else "float32"


def check_room(network: Any, dtype: torch.dtype, folder: Path) -> None:
    """Raise ``ExportError`` where the weights in ``dtype`` do not fit on the disk of ``folder``."""
    needed = sum(parameter.numel() for parameter in network.parameters()) * dtype.itemsize
    free = shutil.disk_usage(folder).free
    if free < 1.1 * needed:
        raise ExportError(
            f"the merged weights take {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB left",
            where=str(folder),
            hint="make room, or export `kind: adapter`",
        )
