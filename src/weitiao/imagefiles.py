"""Image files, wherever they are opened: how one is opened, how large it may be, and what decoders raise. Loads without Pillow."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from weitiao.errors import RowError

if TYPE_CHECKING:
    from PIL import Image

EXIF_ORIENTATION = 0x0112
"""The EXIF entry that says how a photo is turned."""
MAX_FILE_PIXELS = 178_956_970
"""Pixels beyond which a file is not decoded (Pillow's own bound against decompression bombs)."""
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
    struct.error,
    zlib.error,
)
"""What Pillow raises when it meets a broken file."""


def open_image(path: Path) -> Image.Image:
    """Open an image file; only its header is read.

    Args:
        path: a file.

    Returns:
        The image, to be closed by whoever asked.

    Raises:
        RowError: the file is missing, no image, or over-large.
    """
    from PIL import Image

    try:
        # Size alone is judged here, by our own bound.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(path)
    except FileNotFoundError as error:
        raise RowError("the image file is missing", where=str(path)) from error
    except Image.DecompressionBombError as error:
        raise RowError("the image is too large to be decoded", where=str(path), hint="shrink it") from error
    except (*DECODER_ERRORS, MemoryError) as error:
        raise RowError("the image cannot be read", where=str(path)) from error
    if image.width * image.height > MAX_FILE_PIXELS:
        image.close()
        raise RowError("the image is too large to be decoded", where=str(path), hint="shrink it")
    return image
