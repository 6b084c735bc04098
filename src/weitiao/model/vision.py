"""What a vision model has besides a text model: an image processor, a tower that may be trained or frozen, or leave memory."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from weitiao.errors import ModelError, RecipeError
from weitiao.model.facts import VisionFacts, vision_facts
from weitiao.recipe.sections import FullTuning, LoraTuning, TrainedVision

CHAT_TEMPLATE = "chat_template.json"
"""Where older folders keep the chat template of a vision model."""
OTHER_FILES = ("video_preprocessor_config.json",)
"""Files of a vision model that only other programs read; passed on as they are."""


@dataclass
class VisionProcessor:
    """Tokenizer and image processor of a vision model, without torchvision."""

    tokenizer: Any
    image_processor: Any
    """transformers' Pillow image processor; ``patch_size`` x ``merge_size`` is the side of a token in pixels."""
    folder: Path
    """Where they were read from."""

    @property
    def chat_template(self) -> Any:
        """The tokenizer's."""
        return self.tokenizer.chat_template

    @chat_template.setter
    def chat_template(self, template: Any) -> None:
        self.tokenizer.chat_template = template

    def save_pretrained(self, folder: Path) -> None:
        """Write both, and the files of the model that only other programs read.

        Args:
            folder: made where it does not exist.
        """
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        for name in OTHER_FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)


def load_vision_processor(folder: Path, tokenizer: Any) -> VisionProcessor:
    """Read a vision model's image processor.

    Args:
        folder: an ordinary Hugging Face folder.
        tokenizer: read from there.

    Returns:
        Both; the tokenizer knows the model's chat template, wherever the folder keeps it.

    Raises:
        ModelError: the folder says nothing of images, or something that cannot be read.
    """
    from transformers import AutoImageProcessor

    try:
        image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"the image processor cannot be loaded: {(str(error).strip().splitlines() or ['?'])[0]}",
            where=str(folder),
            hint="a vision model's folder needs preprocessor_config.json",
        ) from error
    if tokenizer.chat_template is None and (folder / CHAT_TEMPLATE).is_file():
        tokenizer.chat_template = json.loads((folder / CHAT_TEMPLATE).read_text(encoding="utf-8"))["chat_template"]
    return VisionProcessor(tokenizer, image_processor, folder)


# ---- what is trained --------------------------------------------------------------------------------------------------


def check_vision_choice(network: Any, section: LoraTuning | FullTuning) -> None:
    """Refuse to train the vision of a model that has none.

    Args:
        network: any ``transformers`` model.
        section: the recipe's ``model.tuning``.

    Raises:
        RecipeError: it is a text model, and something of vision is to be trained.
    """
    if section.vision != "frozen" and vision_facts(network) is None:
        raise RecipeError("this is a text model: it has no vision to train", where="model.tuning.vision", hint="remove it")


def adapter_targets(network: Any, names: list[str], vision: TrainedVision) -> list[str] | str:
    """Which linear layers get an adapter, in PEFT's form.

    Args:
        network: any ``transformers`` model.
        names: last parts of the names of the language model's layers.
        vision: what of the tower gets adapters too: all its linear layers.

    Returns:
        The names for a text model. For a vision model a pattern that begins at the language model, so that layers of the tower with
        the same names are not hit, and goes on to whole names within the tower.
    """
    facts = vision_facts(network)
    if facts is None:
        return list(names)
    language = rf"{re.escape(facts.language)}\..*\.({'|'.join(map(re.escape, names))})"
    within = _vision_parts(facts, vision)
    own = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and any(name.startswith(f"{part}.") for part in within)
    ]
    return "|".join([language, *map(re.escape, own)])


def freeze_vision(network: Any, vision: TrainedVision) -> None:
    """Leave only those weights of the tower trainable that are wanted.

    Args:
        network: any ``transformers`` model; one without vision is left as it is.
        vision: what of the tower is trained.
    """
    facts = vision_facts(network)
    if facts is None:
        return
    network.get_submodule(facts.tower).requires_grad_(False)
    for part in _vision_parts(facts, vision):
        network.get_submodule(part).requires_grad_(True)


def _vision_parts(facts: VisionFacts, vision: TrainedVision) -> list[str]:
    merger = [f"{facts.tower}.{name}" for name in facts.mergers]
    return {"frozen": [], "merger": merger, "all": [facts.tower]}[vision]


def trained_parts(network: Any) -> dict[str, int]:
    """Trainable parameters of a vision model by part.

    Args:
        network: the tuned network, a PEFT model or not.

    Returns:
        Counts of the parts that are trained, among ``language model``, ``vision tower`` and ``merger``; empty for a text model.
    """
    inner = network.get_base_model() if hasattr(network, "peft_config") else network
    facts = vision_facts(inner)
    if facts is None:
        return {}
    counts: dict[str, int] = {}
    for name, parameter in inner.named_parameters():
        if parameter.requires_grad:
            is_merger = any(name.startswith(f"{part}.") for part in _vision_parts(facts, "merger"))
            part = "merger" if is_merger else "vision tower" if name.startswith(f"{facts.tower}.") else "language model"
            counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


# ---- a tower that leaves memory ---------------------------------------------------------------------------------------


class AbsentTower(nn.Module):
    """Stands where a vision tower was that has left memory; its outputs lie in the feature store."""

    def __init__(self, n_parameters: int) -> None:
        """Remember how large it was.

        Args:
            n_parameters: of the tower.
        """
        super().__init__()
        self.n_parameters = n_parameters


def release_tower(network: Any) -> None:
    """Take the vision tower out of memory; from here on the network takes image features only.

    Args:
        network: a vision model of ``facts.VISION``.
    """
    facts = vision_facts(network)
    assert facts is not None, "only vision models have a tower"
    parent, name = facts.tower.rsplit(".", 1)
    tower = network.get_submodule(facts.tower)
    setattr(network.get_submodule(parent), name, AbsentTower(sum(parameter.numel() for parameter in tower.parameters())))
