"""The project's own cache: where it lies, and how a file or folder gets there whole or not at all.

What lies in it may be deleted at any time between runs: everything there can be made or fetched again.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from weitiao.errors import CacheError
from weitiao.log import logger

ABANDONED_SECONDS = 2 * 86400
"""Age after which what a killed process left half-written is removed."""


def cache_root() -> Path:
    """The cache folder: ``$WEITIAO_CACHE``, else ``weitiao`` below the platform's cache folder. It may not be there yet."""
    if chosen := os.environ.get("WEITIAO_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "weitiao"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weitiao"


def cache_folder(name: str) -> Path:
    """A folder of the cache, made where it is not there.

    Args:
        name: of the folder.

    Returns:
        The folder.

    Raises:
        CacheError: it cannot be made.
    """
    folder = cache_root() / name
    with _said_in_a_sentence(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is whole whenever it exists.

    Args:
        path: where to; its folder exists.
        data: the content.

    Raises:
        CacheError: the disk is full or the folder cannot be written to.
    """
    with _said_in_a_sentence(path):
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)


def build_once(folder: Path, build: Callable[[Path], None], *, needs_bytes: int) -> Path:
    """Return ``folder``, built first if it is not there; processes that ask at the same time build it once.

    Args:
        folder: where the result lies. It appears by a rename, so that it is whole whenever it exists.
        build: fills the empty folder it is given; whatever a failed or killed build left behind is removed.
        needs_bytes: free space below which building is not begun.

    Returns:
        ``folder``.

    Raises:
        CacheError: the disk is full or the cache cannot be written to.
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
            try:
                build(partial)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            partial.rename(folder)
    return folder


def keep_newest(parent: Path, max_bytes: int, *, keep: Path) -> None:
    """Remove the folders of ``parent`` that were used longest ago, until the rest fits; and what killed builds left behind.

    Args:
        parent: of folders that ``build_once`` made; the time of a folder's last use is its modification time (``mark_used``).
        max_bytes: what may stay.
        keep: the folder that is in use now and stays.
    """
    entries = [entry for entry in parent.iterdir() if entry.is_dir()]
    for entry in entries:
        if entry.suffix == ".partial" and time.time() - _last_used(entry) > ABANDONED_SECONDS:
            shutil.rmtree(entry, ignore_errors=True)
    whole = [entry for entry in entries if not entry.suffix and entry != keep]
    n_bytes = _size(keep)
    for entry in sorted(whole, key=_last_used, reverse=True):
        n_bytes += _size(entry)
        if n_bytes > max_bytes:
            _remove(entry)


def mark_used(folder: Path) -> None:
    """Make ``folder`` the most recently used one."""
    with _said_in_a_sentence(folder):
        os.utime(folder)


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another process removed it
        return 0.0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) if folder.is_dir() else 0


def _remove(folder: Path) -> None:
    """Out of sight by a rename first, so that a removal that is killed half-way leaves nothing that looks whole."""
    doomed = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        folder.rename(doomed)
    except OSError:  # gone already, or in use where open files cannot be moved
        return
    shutil.rmtree(doomed, ignore_errors=True)
    folder.with_name(f".{folder.name}.lock").unlink(missing_ok=True)


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
        raise CacheError(
            f"{needs_bytes / 1e9:.1f} GB of disk space are needed and {free / 1e9:.1f} GB are free",
            where=str(parent),
            hint="make room, or point WEITIAO_CACHE at a larger disk",
        )


@contextmanager
def _said_in_a_sentence(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno == errno.ENOSPC:
            raise CacheError(
                "the disk is full", where=str(place.parent), hint="make room, or point WEITIAO_CACHE at a larger disk"
            ) from err
        if err.errno in {errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST}:
            raise CacheError(
                "the cache cannot be written to", where=str(place.parent), hint="point WEITIAO_CACHE at a folder of yours"
            ) from err
        raise
