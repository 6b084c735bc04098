"""Images that rows name or hold: to a path, whatever the form."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from weitiao.cache import cache_folder, write_whole
from weitiao.data.rows import RejectedRowError

SUFFIXES = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"))


@dataclass(frozen=True, slots=True)
class PictureFinder:
    """Finds images relative to the table that names them."""

    folder: Path
    """Of the table; images may also lie beside it in a folder named ``images``."""
    fetch: Callable[[str], Path | None] | None = None
    """Fetches an image named from that folder, where the table lies on a hub."""

    def find(self, cell: Any, origin: str) -> Path:
        """The file of an image.

        Args:
            cell: a path, absolute or from the table's folder; a ``file:`` or ``data:`` address; bytes; or an object
                with ``bytes`` or ``path``.
            origin: of the row.

        Returns:
            A path to a file that exists. Images held in the row are kept in the cache, by content.

        Raises:
            RejectedRowError: the file is missing, lies on the web, or the cell is no image.
        """
        if isinstance(cell, Mapping):
            held = cell.get("bytes")
            cell = held if held is not None else cell.get("path", cell.get("url"))
        if isinstance(cell, bytes):
            return _keep(cell)
        if not isinstance(cell, str) or not cell.strip() or "\0" in cell:
            raise RejectedRowError("there is no image", where=origin)
        named = cell.strip().removeprefix("file://")
        if named.startswith("data:"):
            return _keep(_inline(named, origin))
        if named.startswith(("http://", "https://")):
            raise RejectedRowError(
                "the image is a web address", where=origin, detail=named[:80], hint="save the images and name their files"
            )
        for place in (self.folder / named, self.folder / "images" / named, Path(named)):
            try:
                if place.is_file():
                    return place.absolute()
            except OSError:
                break
        fetched = self.fetch(named) if self.fetch is not None else None
        if fetched is not None:
            return fetched
        raise RejectedRowError("the image file is missing", where=origin, detail=named[:200], hint=self._nearest(named))

    def _nearest(self, named: str) -> str:
        place = self.folder / named
        try:
            names = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
        except OSError:
            names = []
        near = get_close_matches(place.name, names, n=1)
        return f"did you mean {near[0]}?" if near else f"it was looked for from {self.folder}"


def _inline(address: str, origin: str) -> bytes:
    head, _, body = address.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise RejectedRowError("the image's data: address is not base64", where=origin) from None


def _keep(data: bytes) -> Path:
    suffix = next((name for start, name in SUFFIXES if data.startswith(start)), ".img")
    path = cache_folder("images") / f"{hashlib.blake2b(data, digest_size=16).hexdigest()}{suffix}"
    if not path.is_file():
        write_whole(path, data)
    return path
