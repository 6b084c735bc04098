"""The project's own cache of weights: where it lies, and how a folder gets there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from weitiao.errors import ModelError
from weitiao.log import logger


def cache_root() -> Path:
    """The folder for fetched and converted weights: ``$WEITIAO_CACHE``, else the platform's cache folder."""
    if chosen := os.environ.get("WEITIAO_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "weitiao"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weitiao"


def build_once(folder: Path, build: Callable[[Path], None], *, needs_bytes: int) -> Path:
    """Return ``folder``, built first if it is not there; processes that ask at the same time build it once.

    Args:
        folder: where the result lies. It appears by a rename, so that it is whole whenever it exists.
        build: fills the empty folder it is given; whatever a killed build left behind is removed first.
        needs_bytes: free space below which building is not begun.

    Returns:
        ``folder``.

    Raises:
        ModelError: the disk is full or the cache cannot be written to.
    """
    if folder.is_dir():
        return folder
    with _said_in_a_sentence(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if folder.is_dir():
                return folder
            _check_space(folder.parent, needs_bytes)
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            build(partial)
            partial.rename(folder)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is preparing %s; waiting for it", folder.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_space(parent: Path, needs_bytes: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needs_bytes:
        raise ModelError(
            f"{needs_bytes / 1e9:.1f} GB of disk space are needed and {free / 1e9:.1f} GB are free",
            where=str(parent),
            hint="make room, or point WEITIAO_CACHE at a larger disk",
        )


@contextmanager
def _said_in_a_sentence(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno == errno.ENOSPC:
            raise ModelError(
                "the disk is full", where=str(folder.parent), hint="make room, or point WEITIAO_CACHE at a larger disk"
            ) from err
        if err.errno in {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise ModelError(
                "the cache cannot be written to", where=str(folder.parent), hint="point WEITIAO_CACHE at a folder of yours"
            ) from err
        raise
