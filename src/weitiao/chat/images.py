"""Image files to pixels, by the run's image policy. Sizes and token counts come from a file's header; pixels are read when they are wanted.

Turned as the EXIF note says, transparent parts over the background, 16-bit and palette images to 8-bit RGB, resized with proportions kept
(or to the one size that the recipe names), then cut into patches by transformers' own Pillow image processor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from weitiao.errors import RecipeError, RowError
from weitiao.imagefiles import DECODER_ERRORS, EXIF_ORIENTATION, open_image
from weitiao.recipe.sections import Images
from weitiao.seams import Picture

TURNED = frozenset({5, 6, 7, 8})
"""Orientations that swap width and height."""


def resized(width: int, height: int, section: Images, factor: int = 28) -> tuple[int, int]:
    """The size that an image is brought to.

    Args:
        width: of the image as it is seen, in pixels.
        height: of it.
        section: the recipe's ``chat.images``.
        factor: side of a token in pixels: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL.

    Returns:
        Height and width in pixels, multiples of ``factor``.

    Raises:
        RowError: the image is more than 200 times as long as wide.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    if section.size is not None:
        return section.size
    try:
        return smart_resize(height, width, factor, section.min_pixels, section.max_pixels)  # type: ignore[no-any-return, no-untyped-call]
    except (ValueError, ZeroDivisionError) as error:
        raise RowError(f"the image has {width} x {height} pixels: more than 200 times as long as wide", hint="cut it") from error


def count_image_tokens(width: int, height: int, section: Images, factor: int = 28) -> int:
    """Tokens that an image takes in a row, from its size alone.

    Args:
        width: of the image as it is seen (an EXIF turn applied), in pixels.
        height: of it.
        section: the recipe's ``chat.images``.
        factor: side of a token in pixels: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL (``renderer.images.factor``).

    Returns:
        Placeholder tokens, without the two that stand around them.

    Raises:
        RowError: the image is more than 200 times as long as wide.

    Example: 640 x 480 at most 589,824 pixels gives 17 x 23 = 391 tokens of 28 x 28 pixels.
    """
    to_height, to_width = resized(width, height, section, factor)
    return (to_height // factor) * (to_width // factor)


@dataclass(frozen=True, slots=True)
class ImageReader:
    """The image policy of a run, for one model."""

    section: Images
    processor: Any
    """transformers' Pillow image processor of the model."""

    @property
    def factor(self) -> int:
        """Side of a token in pixels."""
        return int(self.processor.patch_size * self.processor.merge_size)

    @property
    def fingerprint(self) -> str:
        """Everything that pixels depend on besides the file, as text."""
        return json.dumps([self.section.model_dump(mode="json"), self.processor.to_dict()], sort_keys=True, default=str)

    def picture(self, path: Path) -> Picture:
        """What a file is as a picture of this run; only its header is read.

        Args:
            path: an image file.

        Returns:
            Its size after resizing, and its tokens.

        Raises:
            RowError: the file is missing, no image, over-large, or more than 200 times as long as wide.
        """
        with open_image(path) as image:
            width, height = image.size
            # Pillow turns a TIFF by itself, and says its size so.
            if image.format != "TIFF" and image.getexif().get(EXIF_ORIENTATION) in TURNED:
                width, height = height, width
        to_height, to_width = resized(width, height, self.section, self.factor)
        down, across = to_height // self.processor.patch_size, to_width // self.processor.patch_size
        return Picture(path, to_height, to_width, (1, down, across), down * across // self.processor.merge_size**2)

    def pixels(self, pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode pictures into what a vision tower takes.

        Args:
            pictures: at least one.

        Returns:
            ``pixel_values``, float32 (patches of all pictures, values of a patch), and ``image_grid_thw``, int64 (pictures, 3).

        Raises:
            RowError: a file cannot be decoded.
        """
        arrays = [np.asarray(self.rgb(picture)) for picture in pictures]
        found = self.processor(images=arrays, do_resize=False, input_data_format="channels_last", return_tensors="pt")
        grids = torch.tensor([picture.grid for picture in pictures])
        assert torch.equal(found["image_grid_thw"], grids), "the grid is the one that tokens were counted by"
        return found["pixel_values"], grids

    def rgb(self, picture: Picture) -> Image.Image:
        """A picture as it is seen, in the size that the model gets.

        Args:
            picture: of this run.

        Returns:
            8-bit RGB, ``picture.width`` x ``picture.height``.

        Raises:
            RowError: the file cannot be decoded.
        """
        with open_image(picture.path) as image:
            try:
                seen = _in_rgb(_turned(image), self.section.background)
            except DECODER_ERRORS as error:
                raise RowError(f"the image is broken: {type(error).__name__}", where=str(picture.path)) from error
        size = (picture.width, picture.height)
        return seen if seen.size == size else seen.resize(size, Image.Resampling.BICUBIC)


def make_image_reader(processor: Any, section: Images) -> ImageReader | None:
    """The image policy of a run.

    Args:
        processor: a vision model's processor with ``image_processor``; anything else for a text model.
        section: the recipe's ``chat.images``.

    Returns:
        None for a text model.

    Raises:
        RecipeError: the size is no multiple of a token's.
    """
    image_processor = getattr(processor, "image_processor", None)
    if image_processor is None:
        return None
    reader = ImageReader(section, image_processor)
    if section.size is not None and any(side % reader.factor or side < reader.factor for side in section.size):
        near = [max(1, round(side / reader.factor)) * reader.factor for side in section.size]
        raise RecipeError(
            f"{list(section.size)} are no multiples of {reader.factor} pixels, the side of a token of this model",
            where="chat.images.size",
            hint=f"the nearest are {near}",
        )
    return reader


def _turned(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _in_rgb(image: Image.Image, background: str) -> Image.Image:
    """8-bit RGB. Pillow's own conversion cuts larger numbers off at 255, floats up to 1 at 0, and turns transparent pixels black."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0.0, neginf=0.0)
        largest, usual = float(values.max()), (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        white = next((full for full in usual if largest <= full), largest)
        return Image.fromarray(np.rint(values * (255 / white)).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, background), over).convert("RGB")
    return image.convert("RGB")
