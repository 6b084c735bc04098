"""Matrices by key in one growing file: what a vision tower gave for each picture.

``features.bin`` holds the matrices one after another in the tower's own dtype; ``index.bin`` has 32 bytes for each: its key, where it
begins, how many rows it has. The matrix is written first, so that a process that is killed leaves nothing that looks whole. Matrices are
read with plain reads (no memory map), so that what was read before does not count as the process's memory.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock

from weitiao.errors import CacheError

DATA, INDEX = "features.bin", "index.bin"
KEY_BYTES = 16
RECORD = struct.Struct("<16sqq")


class FeatureFiles:
    """Matrices of one width and dtype; several processes may read and append at once."""

    def __init__(self, folder: Path, width: int, dtype: torch.dtype) -> None:
        """Open the files; they are made where they are not there.

        Args:
            folder: that exists.
            width: columns of every matrix.
            dtype: of its numbers.
        """
        self.folder, self.width, self.dtype = folder, width, dtype
        for name in (DATA, INDEX):
            (folder / name).touch()
        self._data = (folder / DATA).open("rb")
        self._places: dict[bytes, tuple[int, int]] = {}
        self._n_indexed = 0
        self._read_index()

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, key: bytes) -> torch.Tensor:
        """A matrix.

        Args:
            key: of ``KEY_BYTES`` bytes, that is there.

        Returns:
            (rows, width), a copy.
        """
        start, n_rows = self._places[key]
        data = bytearray(os.pread(self._data.fileno(), n_rows * self._row_bytes, start))
        return torch.frombuffer(data, dtype=self.dtype).view(n_rows, self.width)

    def append(self, matrices: Sequence[tuple[bytes, torch.Tensor]]) -> None:
        """Add matrices; those whose key is there already are left out.

        Args:
            matrices: (key, matrix) each.

        Raises:
            CacheError: the disk is full or the folder cannot be written to.
        """
        with FileLock(self.folder / ".lock"):
            self._read_index()
            new = [(key, matrix) for key, matrix in dict(matrices).items() if key not in self._places]
            try:
                with (self.folder / DATA).open("ab") as data, (self.folder / INDEX).open("r+b") as index:
                    # Behind the last whole record: a half-written one is what a killed process left.
                    index.seek(self._n_indexed * RECORD.size)
                    index.truncate()
                    for key, matrix in new:
                        start = data.seek(0, os.SEEK_END)
                        data.write(matrix.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().data)
                        data.flush()
                        index.write(RECORD.pack(key, start, len(matrix)))
            except OSError as error:
                raise CacheError(
                    f"image features cannot be written: {error.strerror}",
                    where=str(self.folder),
                    hint="point WEITIAO_CACHE at a larger disk, or leave `vision_store` out of train.fast",
                ) from error
            self._read_index()

    def check_room(self, n_rows: int) -> None:
        """Refuse to begin what the disk cannot hold.

        Args:
            n_rows: of all matrices that are to be added.

        Raises:
            CacheError: there is less room.
        """
        needed, free = n_rows * self._row_bytes, shutil.disk_usage(self.folder).free
        if needed > 0.95 * free:
            raise CacheError(
                f"the image features take {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left",
                where=str(self.folder),
                hint="point WEITIAO_CACHE at a larger disk, lower chat.images.max_pixels, or leave `vision_store` out of train.fast",
            )

    @property
    def _row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    def _read_index(self) -> None:
        """Take in what was added since, by this process or another; a half-written last record waits."""
        with (self.folder / INDEX).open("rb") as file:
            file.seek(self._n_indexed * RECORD.size)
            data = file.read()
        whole = len(data) // RECORD.size * RECORD.size
        for key, start, n_rows in RECORD.iter_unpack(data[:whole]):
            self._places[key] = (start, n_rows)
        self._n_indexed += whole // RECORD.size
