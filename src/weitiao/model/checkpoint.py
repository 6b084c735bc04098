"""Checkpoints: ordinary PEFT or Hugging Face folders, with a ``weitiao.json`` that says what else answering needs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from weitiao.errors import ModelError
from weitiao.model.facts import pick_device, pick_dtype
from weitiao.model.hub import HUB_ID
from weitiao.model.load import load_network, thin_dtype
from weitiao.model.weights import resolve_weights
from weitiao.seams import LoadedModel

FACTS_FILE = "weitiao.json"
BLOCK_BYTES = 64 << 20
"""Of a file, read and hashed at once: a thread that hashes asks for the interpreter twice a block, and then waits for it."""


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What answering needs besides weights and tokenizer; the content of ``weitiao.json``."""

    base: str
    """What the recipe called the base model."""
    base_path: str
    """Folder that the base was read from."""
    revision: str | None
    tuning: Mapping[str, Any]
    chat: Mapping[str, Any]
    task: Mapping[str, Any]
    system: str | None
    max_tokens: int
    max_prompt_tokens: int
    keep: str
    dtype: str
    is_vision: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(model: LoadedModel, chat_template: str, facts: CheckpointFacts, folder: Path) -> None:
    """Write adapter or weights, tokenizer with the run's chat template, and the facts; the folder appears whole or not at all.

    Args:
        model: the model as trained.
        chat_template: the template that the renderer used.
        facts: what answering needs to know.
        folder: where; replaced when it exists.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.network.save_pretrained(partial)
    (partial / "README.md").unlink(missing_ok=True)
    if hasattr(model.network, "peft_config"):
        generation_settings(model).save_pretrained(partial)  # PEFT writes none, and the base's may lack stop tokens
    model.processor.save_pretrained(partial)
    tokenizer_config = partial / "tokenizer_config.json"
    if not (partial / "chat_template.jinja").exists():
        settings = json.loads(tokenizer_config.read_text(encoding="utf-8"))
        settings["chat_template"] = chat_template
        tokenizer_config.write_text(json.dumps(settings, ensure_ascii=False, indent=2), encoding="utf-8")
    else:
        (partial / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    (partial / FACTS_FILE).write_text(json.dumps(asdict(facts), ensure_ascii=False, indent=2), encoding="utf-8")
    aside = _aside(folder)
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    partial.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def generation_settings(model: LoadedModel) -> Any:
    """Greedy, as the run's figures were got; every stop token, so that no server runs on.

    Args:
        model: the run's model.

    Returns:
        transformers' ``GenerationConfig``: what ``generation_config.json`` says beside the weights.
    """
    from transformers import GenerationConfig

    network, tokenizer = model.network, getattr(model.processor, "tokenizer", model.processor)
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        eos_token_id=network.generation_config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=network.config.get_text_config().bos_token_id,
    )


def _aside(folder: Path) -> Path:
    """Where a checkpoint lies while another one takes its place."""
    return folder.with_name(folder.name + ".old")


def read_facts(folder: Path) -> CheckpointFacts:
    """Read a checkpoint's ``weitiao.json``.

    Args:
        folder: a checkpoint, e.g. ``RUN/best``.

    Returns:
        The facts.

    Raises:
        ModelError: the folder is no checkpoint of ours.
    """
    try:
        return CheckpointFacts(**json.loads((folder / FACTS_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ModelError(
            "there is no trained checkpoint here", where=str(folder), hint="finish the run first: `weitiao run … --resume`"
        ) from error
    except (json.JSONDecodeError, TypeError) as error:
        raise ModelError(f"{FACTS_FILE} is damaged: {error}", where=str(folder)) from error


def base_folder(checkpoint: Path) -> Path:
    """Folder of the base model that an adapter checkpoint belongs to.

    Args:
        checkpoint: an adapter folder with facts.

    Returns:
        Where the base lay, or where its name leads now if it moved.
    """
    facts = read_facts(checkpoint)
    lay = Path(facts.base_path)
    return lay if (lay / "config.json").exists() else resolve_weights(facts.base, facts.revision)


def hub_id(facts: CheckpointFacts) -> str | None:
    """The name by which a hub has the base model, so that others find it too.

    Args:
        facts: of the checkpoint.

    Returns:
        ``OWNER/NAME``; None where the recipe named a folder, a file or bundled weights.
    """
    named = Path(facts.base)
    is_local = Path(facts.base_path) in (named, named / "best") or named.suffix == ".gguf" or named.exists()
    return facts.base if HUB_ID.fullmatch(facts.base) and not is_local else None


def restore_weights(model: LoadedModel, folder: Path) -> LoadedModel:
    """Put a checkpoint's weights into the network that wrote it, without a second copy of the base in memory.

    Args:
        model: as it was when ``save_checkpoint`` wrote the folder, but for the values of its trained weights.
        folder: the checkpoint.

    Returns:
        The same model in eval mode.

    Raises:
        ModelError: the folder lacks weights of the network, or holds others.
    """
    from safetensors.torch import load_file

    network = model.network
    if not folder.exists() and _aside(folder).exists():
        _aside(folder).rename(folder)  # killed between the two steps of a replacement
    if hasattr(network, "peft_config"):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(network, load_file(folder / "adapter_model.safetensors"))
    else:
        _copy_weights(folder, network)
    network.eval()
    return model


@torch.no_grad()
def _copy_weights(folder: Path, network: Any) -> None:
    """Copy every tensor of a folder's files into the network, whose own names for them differ from the published ones in some families."""
    from safetensors import safe_open
    from transformers.core_model_loading import revert_weight_conversion

    places = revert_weight_conversion(network, network.state_dict())
    copied: set[int] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if name not in places:
                    raise ModelError(f"the checkpoint holds `{name}`, which the network does not have", where=str(path))
                places[name].copy_(file.get_tensor(name))
                copied.add(places[name].data_ptr())
    missing = [name for name, tensor in places.items() if tensor.data_ptr() not in copied]
    if missing:
        raise ModelError(f"the checkpoint lacks {len(missing)} of the network's tensors, such as `{missing[0]}`", where=str(folder))


def weights_hash(folder: Path) -> str:
    """SHA-256 over a folder's safetensors files, in the order of their names.

    Args:
        folder: an ordinary Hugging Face folder.

    Returns:
        64 hexadecimal digits.
    """
    digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES))
    for path in sorted(folder.glob("*.safetensors")):
        of_file = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while n_read := file.readinto(block):
                of_file.update(block[:n_read])
        digest.update(of_file.digest())
    return digest.hexdigest()


def load_checkpoint(
    folder: Path, *, device: str = "auto", dtype: torch.dtype | None = None, adapter: bool = True, trust_remote_code: bool = False
) -> LoadedModel:
    """Load what a run trained.

    Args:
        folder: a checkpoint, e.g. ``RUN/best``.
        device: as in the recipe.
        dtype: of the weights in memory; None for the device's own arithmetic, a LoRA run's frozen matrices in their file's 16 bits.
        adapter: False loads the base that the adapter was trained on instead.
        trust_remote_code: whether Python code in the base's folder may run.

    Returns:
        The model in eval mode; a LoRA adapter stays beside its base.

    Raises:
        ModelError: the folder or its base cannot be read.
    """
    facts = read_facts(folder)
    place = pick_device(device)
    wanted = dtype or pick_dtype("auto", place)
    if facts.tuning["kind"] == "full":
        source = folder if adapter else base_folder(folder)
        network, processor = load_network(source, wanted, place, trust_remote_code=trust_remote_code)
        return LoadedModel(network, processor, source, facts.base, wanted, facts.is_vision)
    from peft import PeftModel

    source = base_folder(folder)
    narrow = thin_dtype(source, wanted) if dtype is None else None
    network, processor = load_network(source, wanted, place, narrow=narrow, trust_remote_code=trust_remote_code)
    if adapter:
        network = PeftModel.from_pretrained(network, str(folder)).eval()
    return LoadedModel(network, processor, source, facts.base, wanted, facts.is_vision)
