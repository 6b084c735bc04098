"""The vision-feature store: where the vision tower is frozen, each picture goes through it once, whatever the epochs and evaluations.

What the tower gave is kept in the cache, by the file's bytes and size in the model, in a folder named after everything else that it
depends on: the tower's weights, the image policy, device and dtype, this code and the libraries it calls.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from weitiao.cache import cache_folder, keep_newest, mark_used
from weitiao.chat import TowerVision, as_encoder_outputs, make_vision
from weitiao.encode.feature_files import KEY_BYTES, FeatureFiles
from weitiao.errors import ModelError, RowError
from weitiao.log import logger, progress
from weitiao.seams import LoadedModel, Picture, Renderer, Sample, SampleSet

CACHE_BYTES = 50_000_000_000
"""What features may take in the cache; beyond it those go that were used longest ago."""
LIBRARIES = ("pillow", "torch", "transformers")
CODE = ("chat/images.py", "chat/vision.py", "encode/features.py", "encode/feature_files.py")
"""Sources of this package that decide about features."""
PICTURES_AT_ONCE = 32
"""Pictures between two writes; the tower takes as many of them at once as fit."""


def see_pictures(base: LoadedModel, renderer: Renderer, samples: SampleSet, *, store: bool) -> LoadedModel:
    """Give a run's model its pictures: from the feature store, filled here, or from its tower each time.

    Args:
        base: a loaded model, not tuned yet.
        renderer: of the run.
        samples: whose pictures, of all three parts, are computed now.
        store: whether the tower stays frozen and its outputs are to be kept.

    Returns:
        The same model with ``vision``; a text model as it is.

    Raises:
        CacheError: the disk cannot hold the features.
        RowError: a file cannot be decoded, which the data's check found whole.
    """
    tower = make_vision(base.network, renderer)
    if tower is None:
        return base
    if not store:
        return replace(base, vision=tower)
    folder = cache_folder("vision") / features_key(tower, base.dtype)
    folder.mkdir(exist_ok=True)
    config = base.network.config
    n_layers = len(getattr(config.vision_config, "deepstack_visual_indexes", None) or ())
    files = FeatureFiles(folder, config.text_config.hidden_size * (1 + n_layers), base.network.dtype)
    vision = StoredVision(tower, files)
    vision.fill(_pictures([*samples.train, *samples.valid, *samples.test], tower))
    mark_used(folder)
    keep_newest(folder.parent, CACHE_BYTES, keep=folder)
    return replace(base, vision=vision)


class StoredVision:
    """Looks pictures up in the feature store; implements ``seams.Vision``."""

    needs_tower = False

    def __init__(self, tower: TowerVision, files: FeatureFiles) -> None:
        """Keep the parts.

        Args:
            tower: computes what is not in the files yet, and knows the model's positions.
            files: features by key.
        """
        self.tower = tower
        self.files = files
        self.placeholder_id = tower.placeholder_id
        self._keys: dict[Picture, bytes] = {}

    def fill(self, pictures: Sequence[Picture]) -> None:
        """Compute what is not in the files.

        Args:
            pictures: any number, each read once to know its content.
        """
        self._keys |= {picture: picture_key(picture) for picture in pictures if picture not in self._keys}
        # Like sizes together; of equal files one.
        missing = {self._keys[picture]: picture for picture in pictures if self._keys[picture] not in self.files}
        wanted = sorted(missing.items(), key=lambda item: item[1].n_tokens, reverse=True)
        if not wanted:
            logger.info("image features: %d pictures from the cache (%s)", len(set(pictures)), self.files.folder)
            return
        self.files.check_room(sum(picture.n_tokens for _, picture in wanted))
        with torch.no_grad(), progress("computing image features", len(wanted), "images") as advance:
            for start in range(0, len(wanted), PICTURES_AT_ONCE):
                batch = wanted[start : start + PICTURES_AT_ONCE]
                found = self.tower.features([picture for _, picture in batch])
                self.files.append([(key, rows) for (key, _), rows in zip(batch, found, strict=True)])
                advance(len(batch))

    def features(self, pictures: Sequence[Picture]) -> list[torch.Tensor]:
        """What the tower gave.

        Args:
            pictures: those that ``fill`` saw; others where the tower is still there.

        Returns:
            Per picture (n_tokens, W), on the network's device.

        Raises:
            ModelError: the picture is new, and the tower has left memory.
        """
        if any(picture not in self._keys for picture in pictures):
            if not hasattr(self.tower.network.model.visual, "blocks"):
                raise ModelError("a picture was not there when the features were computed", hint="start the run again with --resume")
            self.fill([picture for picture in pictures if picture not in self._keys])
        device = self.tower.network.device
        return [self.files.read(self._keys[picture]).to(device, non_blocking=True) for picture in pictures]

    def encoder_outputs(self, pictures: Sequence[Picture]) -> dict[str, Any]:
        """The network's ``mm_encoder_outputs``; see ``seams.Vision``."""
        return as_encoder_outputs(self.features(pictures), self.tower.network.config.text_config.hidden_size)

    def positions(self, input_ids: Sequence[int], segment_lengths: Sequence[int], pictures: Sequence[Picture]) -> torch.Tensor:
        """The model's own; see ``seams.Vision``."""
        return self.tower.positions(input_ids, segment_lengths, pictures)


def features_key(tower: TowerVision, dtype: torch.dtype) -> str:
    """Name of a folder of features: everything that they depend on besides the picture.

    Args:
        tower: with its weights and the image policy.
        dtype: of the arithmetic.

    Returns:
        40 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=20)
    package = Path(__file__).parents[1]
    code = {name: hashlib.sha256((package / name).read_bytes()).hexdigest() for name in CODE}
    device = tower.network.device.type
    facts = [code, [version(name) for name in LIBRARIES], tower.images.fingerprint, str(dtype), str(tower.network.dtype), device]
    digest.update(json.dumps([*facts, tower.network.config.vision_config.to_dict()], sort_keys=True, default=str).encode())
    for name, weight in tower.network.model.visual.state_dict().items():
        digest.update(f"\0{name}{tuple(weight.shape)}\0".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def picture_key(picture: Picture) -> bytes:
    """Key of a picture in its folder: what its file holds, and the size it is brought to.

    Args:
        picture: whose file is read.

    Returns:
        ``KEY_BYTES`` bytes.
    """
    digest = hashlib.blake2b(f"{picture.height}x{picture.width}".encode(), digest_size=KEY_BYTES)
    digest.update(picture.path.read_bytes())
    return digest.digest()


def _pictures(samples: Iterable[Sample], tower: TowerVision) -> list[Picture]:
    """Every picture of the samples, once; a file that cannot be one is named where its row is encoded or answered."""
    paths = dict.fromkeys(part.image for sample in samples for message in sample.messages for part in message.parts if part.image)
    found = []
    for path in paths:
        try:
            found.append(tower.images.picture(path))
        except RowError as error:
            logger.debug("no features: %s", error)
    return found
