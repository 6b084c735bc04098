"""How a network is given pictures: features of its vision tower in the form of ``mm_encoder_outputs``, and positions by its own rule.

Features are one matrix per picture, a row for each of its tokens: what the merger gives, and beside it, where the model has them
(Qwen3-VL), what each deepstack layer gives. So the feature store and the tower itself come through one door and give the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from weitiao.chat.images import ImageReader
from weitiao.seams import Picture, Renderer

PATCHES_AT_ONCE = 8192
"""Patches that the tower computes at once (a picture is never divided): bounds memory, gains nothing beyond on any device."""


class TowerVision:
    """Asks the network's vision tower each time; implements ``seams.Vision``. Where gradients are on, they reach the tower."""

    needs_tower = True

    def __init__(self, network: Any, images: ImageReader) -> None:
        """Keep the network, whose tower is used as it is then and there.

        Args:
            network: a ``transformers`` vision model, not a PEFT model around one; layers that adapters have changed are used changed.
            images: the run's image policy.
        """
        self.network = network
        self.images = images
        self.placeholder_id: int = network.config.image_token_id

    def features(self, pictures: Sequence[Picture]) -> list[torch.Tensor]:
        """What the language model sees of pictures.

        Args:
            pictures: any number.

        Returns:
            Per picture (n_tokens, W), in the tower's dtype, W being the language model's width times one and the deepstack layers.
        """
        return [rows for batch in _batches(pictures) for rows in self._of_tower(batch)]

    def encoder_outputs(self, pictures: Sequence[Picture]) -> dict[str, Any]:
        """The network's ``mm_encoder_outputs``; see ``seams.Vision``."""
        return as_encoder_outputs(self.features(pictures), self.network.config.text_config.hidden_size)

    def positions(self, input_ids: Sequence[int], segment_lengths: Sequence[int], pictures: Sequence[Picture]) -> torch.Tensor:
        """Positions by the network's own ``get_rope_index``; see ``seams.Vision``."""
        rest, start, found = list(pictures), 0, []
        for length in segment_lengths:
            ids = torch.tensor([input_ids[start : start + length]])
            is_image = ids == self.placeholder_id
            grids = []
            n_left = int(is_image.sum())
            while n_left > 0:
                picture = rest.pop(0)
                grids.append(picture.grid)
                n_left -= picture.n_tokens
            if grids:
                of_segment, _ = self.network.model.get_rope_index(ids, mm_token_type_ids=is_image.int(), image_grid_thw=torch.tensor(grids))
                found.append(of_segment[:, 0])
            else:
                found.append(torch.arange(length).expand(3, -1))
            start += length
        return torch.cat(found, dim=1)

    def _of_tower(self, pictures: Sequence[Picture]) -> Iterator[torch.Tensor]:
        device = self.network.device
        pixel_values, grids = self.images.pixels(pictures)
        output = self.network.get_image_features(pixel_values.to(device), grids.to(device), return_dict=True)
        deepstack = output.get("deepstack_features") or []
        for parts in zip(output.pooler_output, *deepstack, strict=True):
            yield torch.cat(parts, dim=1)


def as_encoder_outputs(features: Sequence[torch.Tensor], width: int) -> dict[str, Any]:
    """Features in the form in which the network takes them.

    Args:
        features: per picture (n_tokens, W), in the order of their tokens.
        width: of the language model's hidden states.

    Returns:
        ``mm_encoder_outputs``; empty without pictures.
    """
    if not features:
        return {}
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    pooled: Any
    deepstack: Any
    pooled, *deepstack = zip(*(torch.split(rows, width, dim=1) for rows in features), strict=True)
    return {"image": BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=deepstack)}


def _batches(pictures: Sequence[Picture]) -> Iterator[list[Picture]]:
    batch: list[Picture] = []
    n_patches = 0
    for picture in pictures:
        size = picture.grid[1] * picture.grid[2]
        if batch and n_patches + size > PATCHES_AT_ONCE:
            yield batch
            batch, n_patches = [], 0
        batch.append(picture)
        n_patches += size
    if batch:
        yield batch


def make_vision(network: Any, renderer: Renderer) -> TowerVision | None:
    """What gives a network its pictures, asking its tower each time.

    Args:
        network: a ``transformers`` model, not a PEFT model around one.
        renderer: of ``make_renderer``.

    Returns:
        None for a text model.
    """
    return TowerVision(network, renderer.images) if renderer.images is not None else None
