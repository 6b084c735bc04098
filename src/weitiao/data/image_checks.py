"""What is wrong with image files: empty, unreadable, blank, over-large, animated, turned, transparent, CMYK. Each is opened once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.data.rows import N_EXAMPLES
from weitiao.errors import RowError
from weitiao.imagefiles import DECODER_ERRORS, EXIF_ORIENTATION, open_image
from weitiao.seams import Finding, RowProblem, Severity

LARGE_PIXELS = 12_000_000
"""Pixels beyond which an image is called over-large (a 12-megapixel photo)."""
LONGEST = 200
"""Times as long as wide beyond which Qwen's vision models take no image."""
THUMBNAIL = 64
"""Side to which a JPEG is decoded for the check, in pixels: fast, and it shows whether the file is whole."""


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
    is_animated: bool = False
    is_cmyk: bool = False


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
    if not path.stat().st_size:
        return ImageFacts(problem="the image file has zero bytes")
    try:
        image = open_image(path)
    except RowError as error:
        return ImageFacts(problem=error.what)
    with image:
        width, height = image.size
        if max(width, height) > LONGEST * min(width, height):
            return ImageFacts(width, height, f"the image is more than {LONGEST} times as long as wide")
        try:
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
            has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            is_animated, is_cmyk = getattr(image, "n_frames", 1) > 1, image.mode == "CMYK"
            image.draft("RGB", (THUMBNAIL, THUMBNAIL))
            return ImageFacts(width, height, "", _is_blank(image), has_alpha, orientation not in (None, 1), is_animated, is_cmyk)
        except (*DECODER_ERRORS, MemoryError) as err:
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


CHECKS: tuple[tuple[str, Severity, Callable[[ImageFacts], bool], str, str], ...] = (
    (
        "blank-images",
        "warning",
        lambda fact: fact.is_blank,
        "have an image of one colour only",
        "there is nothing to read in it: leave the rows out",
    ),
    (
        "large-images",
        "warning",
        lambda fact: fact.width * fact.height > LARGE_PIXELS,
        f"have an image of more than {LARGE_PIXELS // 1_000_000} million pixels",
        "it is made smaller before use (chat.images.max_pixels); do it once on disk to save time",
    ),
    (
        "animated-images",
        "warning",
        lambda fact: fact.is_animated,
        "have an image of several frames or pages",
        "only the first one is seen; save the one that is meant",
    ),
    (
        "alpha-images",
        "note",
        lambda fact: fact.has_alpha,
        "have an image with an alpha channel",
        "it is laid over white, or what chat.images.background says",
    ),
    (
        "turned-images",
        "note",
        lambda fact: fact.is_turned,
        "have an image that its EXIF note turns",
        "it is turned as the note says before the model sees it",
    ),
    (
        "cmyk-images",
        "note",
        lambda fact: fact.is_cmyk,
        "have an image in the colours of print (CMYK)",
        "it is converted to RGB without its colour profile; colours may differ a little",
    ),
)
"""Code, severity, what it is told by, and the words and the hint of a finding over rows."""


class ImageCounter:
    """Counts what is remarkable in the images of rows."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._origins: dict[str, list[str]] = {}

    def add(self, origin: str, facts: Sequence[ImageFacts]) -> None:
        """Take the images of a row that is kept.

        Args:
            origin: of the row.
            facts: of its images.
        """
        for code, _, is_so, _, _ in CHECKS:
            if any(is_so(fact) for fact in facts):
                self._counts[code] += 1
                if len(origins := self._origins.setdefault(code, [])) < N_EXAMPLES:
                    origins.append(origin)

    def findings(self) -> list[Finding]:
        """A finding per check that found something; counts are of rows."""
        return [
            Finding(code, severity, self._counts[code], f"{self._counts[code]} rows {words}", tuple(self._origins[code]), hint)
            for code, severity, _, words, hint in CHECKS
            if self._counts[code]
        ]


def image_statistics(images: Sequence[ImageFacts], histogram: Callable[[np.ndarray], dict[str, Any]]) -> dict[str, Any]:
    """Histograms of width, height and pixels over distinct images."""
    sizes = np.array([(fact.width, fact.height) for fact in images], dtype=np.int64).reshape(-1, 2)
    return {
        "n": len(images),
        "width": histogram(sizes[:, 0]),
        "height": histogram(sizes[:, 1]),
        "pixels": histogram(sizes[:, 0] * sizes[:, 1]),
    }
