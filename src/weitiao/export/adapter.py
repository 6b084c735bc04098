"""An ordinary PEFT folder: the run's adapter with its tokenizer and the settings that it answers with."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from weitiao.chat import make_renderer
from weitiao.errors import ExportError
from weitiao.export.check import answer_here, answer_there, check_prompts, compare
from weitiao.export.merged import save_processor
from weitiao.model import CheckpointFacts, generation_settings, hub_id, load_checkpoint, read_facts
from weitiao.recipe.sections import Chat
from weitiao.seams import Sample


def write_adapter(checkpoint: Path, folder: Path, samples: Sequence[Sample]) -> dict[str, object]:
    """Write the adapter and prove that it answers on its base as the checkpoint does.

    Args:
        checkpoint: an adapter, with ``weitiao.json``.
        folder: made; must not exist.
        samples: held-out rows for the comparison; with none, only reading back is tested.

    Returns:
        What the comparison showed; see ``check.compare``.

    Raises:
        ExportError: every weight was trained, the folder cannot be read back, or it answers otherwise than the checkpoint.
        ModelError: the checkpoint or its base cannot be read.
    """
    facts = read_facts(checkpoint)
    if facts.tuning["kind"] != "lora":
        raise ExportError("every weight was trained, so there is no adapter", where=str(checkpoint), hint="export `kind: merged` instead")
    tuned = load_checkpoint(checkpoint, device="cpu", dtype=torch.float32)
    section, base = Chat(**facts.chat), tuned.path
    prompts = check_prompts(make_renderer(tuned.processor, section), samples, facts.max_prompt_tokens)
    expected = answer_here(tuned.network, prompts)
    shutil.copytree(checkpoint, folder)
    _name_base(facts, folder)
    save_processor(tuned, section, folder)
    # PEFT does not read it: the card's example does. Without it the base's settings hold, which often sample.
    generation_settings(tuned).save_pretrained(folder)
    del tuned
    gc.collect()  # The process that reads the folder back needs the memory.
    return compare(expected, answer_there(folder, prompts, base=base), "float32", folder, prompts)


def _name_base(facts: CheckpointFacts, folder: Path) -> None:
    """Where a hub has the base, name it so: its folder on this machine tells nobody else anything."""
    name = hub_id(facts)
    if name is None:
        return
    _change(folder / "adapter_config.json", {"base_model_name_or_path": name, "revision": facts.revision})
    _change(folder / "weitiao.json", {"base_path": name})


def _change(path: Path, values: Mapping[str, str | None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | dict(values), ensure_ascii=False, indent=2), encoding="utf-8")
