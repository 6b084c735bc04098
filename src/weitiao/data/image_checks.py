"""What is wrong with image files: unreadable, blank, turned by EXIF, with an alpha channel, or over-large. Each file is opened once."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.data.rows import N_EXAMPLES
from weitiao.seams import Finding, RowProblem, Severity

EXIF_ORIENTATION = 0x0112
LARGE_PIXELS = 12_000_000
"""Pixels beyond which an image is called over-large (a 12-megapixel photo)."""
MAX_PIXELS = 178_956_970
"""Pixels beyond which an image is not decoded at all: Pillow's own bound against decompression bombs."""
THUMBNAIL = 64
"""Side to which a JPEG is decoded for the check, in pixels: fast, and it shows whether the file is whole."""

DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise when they meet a broken file."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What was seen in an image file."""

    width: int = 0
    height: int = 0
    problem: str = ""
    """Why it cannot be used; empty for one that can."""
    is_blank: bool = False
    has_alpha: bool = False
    is_turned: bool = False


def look_at_images(paths: Iterable[Path]) -> dict[Path, ImageFacts]:
    """Open image files, two or more at a time.

    Args:
        paths: of files that exist.

    Returns:
        What was seen, by path.
    """
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(zip(distinct, pool.map(_look, distinct, chunksize=16), strict=True))


def _look(path: Path) -> ImageFacts:
    from PIL import Image

    try:
        # Size alone is judged here, by our own bounds.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(path)
    except Image.DecompressionBombError:
        return ImageFacts(problem="the image is too large to be decoded")
    except DECODER_ERRORS:
        return ImageFacts(problem="the image cannot be read")
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            return ImageFacts(width, height, "the image is too large to be decoded")
        try:
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
            has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            image.draft("RGB", (THUMBNAIL, THUMBNAIL))
            return ImageFacts(width, height, "", _is_blank(image), has_alpha, orientation not in (None, 1))
        except DECODER_ERRORS as err:
            return ImageFacts(width, height, f"the image is broken: {type(err).__name__}")


def _is_blank(image: Any) -> bool:
    """Whether every pixel has the same colour, as seen on white; decodes the image."""
    image.load()
    if image.mode in ("RGBA", "LA", "PA", "P") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[1] == 0:
            return True
        if image.getchannel("A").getextrema()[0] < 255:
            return False
        image = image.convert("RGB")
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(high == low for low, high in bands)


def image_problem(facts: Sequence[ImageFacts]) -> RowProblem | None:
    """The first image of a row that makes the row unusable, as a problem."""
    for fact in facts:
        if fact.problem:
            return RowProblem("unreadable-image", "error", fact.problem, "replace the file, or leave the row out")
    return None


def image_findings(rows: Sequence[tuple[str, Sequence[ImageFacts]]]) -> list[Finding]:
    """Findings over the images of all rows.

    Args:
        rows: origin and images of each kept row.

    Returns:
        ``blank-images``, ``alpha-images``, ``turned-images`` and ``large-images``, those that are found; counts are of rows.
    """
    checks: tuple[tuple[str, Severity, Callable[[ImageFacts], bool], str, str], ...] = (
        (
            "blank-images",
            "warning",
            lambda fact: fact.is_blank,
            "show one colour only",
            "there is nothing to read in them: leave the rows out",
        ),
        (
            "alpha-images",
            "note",
            lambda fact: fact.has_alpha,
            "have an alpha channel",
            "see how they look once they are encoded: weitiao look",
        ),
        (
            "turned-images",
            "note",
            lambda fact: fact.is_turned,
            "are to be turned by their EXIF note",
            "see how they look once they are encoded: weitiao look",
        ),
        (
            "large-images",
            "warning",
            lambda fact: fact.width * fact.height > LARGE_PIXELS,
            f"have more than {LARGE_PIXELS // 1_000_000} million pixels",
            "they are made smaller before use; do it once on disk to save time",
        ),
    )
    out = []
    for code, severity, is_so, words, hint in checks:
        origins = [origin for origin, facts in rows if any(is_so(fact) for fact in facts)]
        if origins:
            message = f"{len(origins)} images {words}"
            out.append(Finding(code, severity, len(origins), message, tuple(origins[:N_EXAMPLES]), hint))
    return out


def image_statistics(images: Sequence[ImageFacts], histogram: Callable[[np.ndarray], dict[str, Any]]) -> dict[str, Any]:
    """Histograms of width, height and pixels over distinct images."""
    sizes = np.array([(fact.width, fact.height) for fact in images], dtype=np.int64).reshape(-1, 2)
    return {
        "n": len(images),
        "width": histogram(sizes[:, 0]),
        "height": histogram(sizes[:, 1]),
        "pixels": histogram(sizes[:, 0] * sizes[:, 1]),
    }
