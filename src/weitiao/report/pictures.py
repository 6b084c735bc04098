"""Pictures of test rows as small copies inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image, ImageOps

MAX_SIDE = 480
"""Pixels of the longer side of a copy."""
MAX_BYTES = 8_000_000
"""Of all copies of a page together; pictures beyond it are named instead of shown."""


class Album:
    """Makes the copies of one page and keeps count of their size."""

    def __init__(self) -> None:
        self._n_bytes = 0
        self._made: dict[str, Markup] = {}

    def thumbnail(self, row: Mapping[str, Any]) -> Markup | None:
        """The pictures of an answers row.

        Args:
            row: of ``answers.jsonl``; ``images`` holds paths.

        Returns:
            ``img`` elements, a note for a picture that is gone or would make the page too large, None for a row without pictures.
        """
        paths = [str(path) for path in row.get("images") or ()]
        return Markup("").join(self._one(path) for path in paths) if paths else None

    def _one(self, path: str) -> Markup:
        if path not in self._made:
            self._made[path] = self._copy(path)
        return self._made[path]

    def _copy(self, path: str) -> Markup:
        if self._n_bytes > MAX_BYTES:
            return Markup('<p class="quiet">{} (left out to keep this page small)</p>').format(path)
        try:
            with Image.open(Path(path)) as opened:
                picture = ImageOps.exif_transpose(opened)
                has_alpha = "A" in picture.getbands() or "transparency" in picture.info
                picture.thumbnail((MAX_SIDE, MAX_SIDE))
                buffer, kind = io.BytesIO(), "PNG" if has_alpha or picture.mode in {"1", "L", "P"} else "JPEG"
                picture = picture.convert("RGBA" if has_alpha else "L" if picture.mode in {"1", "L"} else "RGB")
                picture.save(buffer, kind, **({"quality": 80} if kind == "JPEG" else {"optimize": True}))
        except (OSError, ValueError, Image.DecompressionBombError):
            return Markup('<p class="quiet">{} (cannot be read any more)</p>').format(path)
        self._n_bytes += len(buffer.getvalue())
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        return Markup('<img src="data:image/{};base64,{}" alt="{}">').format(kind.lower(), data, Path(path).name)
