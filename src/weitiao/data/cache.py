"""The room's own cache folder: rows of data too large for memory, and images that came inside a table."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from weitiao.errors import DataError


def cache_folder(name: str) -> Path:
    """A folder below the user's cache, made where it is not there. What lies in it may be deleted at any time between runs.

    Args:
        name: of the folder.

    Returns:
        ``$WEITIAO_CACHE/name``, or ``name`` below the platform's cache folder.

    Raises:
        DataError: the folder cannot be made.
    """
    if chosen := os.environ.get("WEITIAO_CACHE"):
        root = Path(chosen).expanduser().absolute()
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches" / "weitiao"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weitiao"
    folder = root / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(
            f"the cache folder cannot be made: {err.strerror}", where=str(folder), hint="point WEITIAO_CACHE elsewhere"
        ) from err
    return folder


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is whole whenever it exists.

    Args:
        path: where to; its folder exists.
        data: the content.

    Raises:
        DataError: the disk is full or the folder cannot be written to.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)
    except OSError as err:
        raise DataError(f"cannot write: {err.strerror}", where=str(path), hint="free some space, or point WEITIAO_CACHE elsewhere") from err
