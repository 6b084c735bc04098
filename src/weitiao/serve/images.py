"""Images of a request: from its address to a file that was looked at, kept until the request is answered."""

from __future__ import annotations

import base64
import binascii
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self

from weitiao.errors import RowError
from weitiao.serve.fetch import fetch_image
from weitiao.serve.limits import Limits
from weitiao.serve.refusal import Refusal

FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
FETCH_SECONDS = 10.0
"""For all images of a request that are fetched, together: so long a reader is kept from others."""

Fetch = Callable[[str, int, float], bytes]
"""From a web address, the most bytes and the most seconds to what lies there."""


class RequestImages:
    """A folder for the images of one request; gone when the request is. Use as a context."""

    def __init__(self, limits: Limits, *, allow_urls: bool, is_vision: bool, fetch: Fetch = fetch_image) -> None:
        """Keep what is allowed; the folder is made for the first image.

        Args:
            limits: of the server.
            allow_urls: whether web addresses are fetched.
            is_vision: whether the model can see.
            fetch: gets what lies at a web address.
        """
        self._limits = limits
        self._allow_urls = allow_urls
        self._is_vision = is_vision
        self._fetch = fetch
        self._fetch_until: float | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._n_kept = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def keep(self, url: str) -> Path:
        """Look at an image and keep it.

        Args:
            url: a ``data:`` address, or a web address.

        Returns:
            A file that decodes and is within the limits.

        Raises:
            Refusal: the model reads text only, the address is not allowed, or the image is damaged or too large.
        """
        if not self._is_vision:
            raise Refusal(
                400, "this run's model reads text only; it cannot be shown an image", code="images_not_supported", param="messages"
            )
        data = self._data(url)
        suffix = _looked_at(data, self._limits.max_pixels)
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="weitiao-images-")
        self._n_kept += 1
        path = Path(self._folder.name) / f"{self._n_kept}{suffix}"
        path.write_bytes(data)
        return path

    def keep_for_row(self, url: str) -> Path:
        """Look at an image of a row and keep it.

        Args:
            url: as for ``keep``.

        Returns:
            A file.

        Raises:
            RowError: the image cannot be used; the other rows go on.
        """
        try:
            return self.keep(url)
        except Refusal as refusal:
            raise RowError(refusal.message) from refusal

    def _data(self, url: str) -> bytes:
        head, comma, body = url.partition(",")
        if head[:5].lower() == "data:":
            try:
                if not comma or not head.lower().endswith(";base64"):
                    raise ValueError("it does not begin with data:image/…;base64,")
                return base64.b64decode(body, validate=True)
            except (binascii.Error, ValueError) as error:
                raise _refused(f"the image's data: address cannot be read: {error}") from error
        if not self._allow_urls:
            raise _refused(
                "this server fetches no images from the web: send the image itself as data:image/png;base64,…"
                " (whoever runs the server can allow it with --allow-image-urls)",
                "image_urls_not_allowed",
            )
        now = time.monotonic()
        self._fetch_until = self._fetch_until or now + FETCH_SECONDS
        return self._fetch(url, self._limits.max_body_bytes, self._fetch_until - now)


def _looked_at(data: bytes, max_pixels: int) -> str:
    """The file suffix of an image that decodes; its size is read before its pixels are."""
    from PIL import Image

    try:
        with Image.open(BytesIO(data), formats=list(FORMATS)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise _refused(
                    f"the image has {width} x {height} pixels, more than the {max_pixels:,} allowed: send a smaller one", "image_too_large"
                )
            image.load()
            return FORMATS[str(image.format)]
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise _refused(f"the image cannot be decoded ({error}); known formats are {', '.join(FORMATS)}") from error


def _refused(message: str, code: str = "invalid_image") -> Refusal:
    return Refusal(400, message, code=code, param="messages")
