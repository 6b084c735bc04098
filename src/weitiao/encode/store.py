"""Token rows in files, so that memory does not grow with their number.

``tokens.bin`` holds the tokens of all rows one after another, four bytes each; a trained token is stored as its bitwise complement, which
is negative, so that one number says both. ``rows.npy`` says where each row lies. Rows are read with plain reads (no memory map), so that
what was read before does not count as the process's memory.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from weitiao.errors import CacheError
from weitiao.seams import IGNORED, EncodedRow, Picture, Rendered

TOKENS, PICTURES, ROWS = "tokens.bin", "pictures.bin", "rows.npy"
TOKEN_BYTES = 4


class RowWriter:
    """Takes token sequences one by one, then the rows as places in them; a context that closes its files."""

    def __init__(self, folder: Path) -> None:
        """Open the files.

        Args:
            folder: an empty one.
        """
        self.folder = folder
        self._tokens = (folder / TOKENS).open("wb")
        self._pictures = (folder / PICTURES).open("wb")
        self._rows = array("q")
        self._n_tokens = self._n_picture_bytes = 0

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._tokens.close()
        self._pictures.close()
        np.save(self.folder / ROWS, np.frombuffer(self._rows, np.int64).reshape(-1, 4))

    def put(self, rendered: Rendered, n_tokens: int) -> int:
        """Append the first ``n_tokens`` of a conversation; returns the place of the first one, counted in tokens."""
        tokens = np.array(rendered.input_ids[:n_tokens], np.int32)
        trained = np.array(rendered.trained[:n_tokens], bool)
        self._tokens.write(np.where(trained, ~tokens, tokens).astype("<i4").tobytes())
        start, self._n_tokens = self._n_tokens, self._n_tokens + len(tokens)
        return start

    def put_pictures(self, pictures: Sequence[Picture]) -> tuple[int, int]:
        """Append which pictures a conversation holds; returns place and size in bytes, size 0 where there are none."""
        listed = [[str(picture.path), picture.height, picture.width, picture.grid, picture.n_tokens] for picture in pictures]
        data = json.dumps(listed).encode() if listed else b""
        self._pictures.write(data)
        start, self._n_picture_bytes = self._n_picture_bytes, self._n_picture_bytes + len(data)
        return start, len(data)

    def add_row(self, start: int, n_tokens: int, pictures: tuple[int, int]) -> None:
        """Make the tokens from ``start`` on, and these pictures, the next row."""
        self._rows.extend((start, n_tokens, *pictures))


class StoredRows(Sequence[EncodedRow]):
    """Rows read from their files when they are asked for. Can be pickled; each process opens the files for itself."""

    def __init__(self, folder: Path) -> None:
        """Open the files of a ``RowWriter``.

        Args:
            folder: where they lie. It may be removed afterwards: open files stay readable.

        Raises:
            CacheError: they are not there.
        """
        self.folder = folder
        try:
            self._table = np.load(folder / ROWS)
            self._tokens = (folder / TOKENS).open("rb")
            self._pictures = (folder / PICTURES).open("rb")
        except FileNotFoundError as err:
            raise CacheError("the encoded rows are gone", where=str(folder), hint="start again: they are made anew") from err

    def __len__(self) -> int:
        return len(self._table)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        StoredRows.__init__(self, state["folder"])

    @overload
    def __getitem__(self, index: int) -> EncodedRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedRow]: ...
    def __getitem__(self, index: int | slice) -> EncodedRow | list[EncodedRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, length, picture_start, n_picture_bytes = self._table[index].tolist()
        marked = self._read(start, length)
        ids = np.where(marked < 0, ~marked, marked)
        labels = np.where(marked < 0, ids, IGNORED)
        data = os.pread(self._pictures.fileno(), n_picture_bytes, picture_start)
        return EncodedRow(ids.tolist(), labels.tolist(), (length,), 0, _pictures(data) if data else ())

    def _read(self, start: int, length: int) -> np.ndarray:
        return np.frombuffer(os.pread(self._tokens.fileno(), TOKEN_BYTES * length, TOKEN_BYTES * start), "<i4")

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64."""
        return np.asarray(self._table[:, 1])

    @property
    def has_pictures(self) -> bool:
        """Whether any row has pictures."""
        return bool(self._table[:, 3].any())

    def beginning(self, index: int, n_tokens: int) -> np.ndarray:
        """Up to ``n_tokens`` from the start of a row, int32; trained ones as their complement."""
        start, length = self._table[index, :2].tolist()
        return self._read(start, min(length, n_tokens))


def _pictures(data: bytes) -> tuple[Picture, ...]:
    return tuple(
        Picture(Path(path), height, width, (grid[0], grid[1], grid[2]), n_tokens)
        for path, height, width, grid, n_tokens in json.loads(data)
    )


def row_lengths(rows: Sequence[EncodedRow]) -> np.ndarray:
    """Tokens of each row.

    Args:
        rows: in files or in memory.

    Returns:
        int64, one per row.
    """
    return rows.lengths if isinstance(rows, StoredRows) else np.array([len(row.input_ids) for row in rows], np.int64)


def have_pictures(rows: Sequence[EncodedRow]) -> bool:
    """Whether any row has pictures.

    Args:
        rows: in files or in memory.

    Returns:
        True where one has.
    """
    return rows.has_pictures if isinstance(rows, StoredRows) else any(row.pictures for row in rows)


def row_beginning(rows: Sequence[EncodedRow], index: int, n_tokens: int) -> np.ndarray:
    """The start of a row.

    Args:
        rows: in files or in memory.
        index: number of the row.
        n_tokens: most tokens wanted.

    Returns:
        int32 tokens, trained ones as their complement, which is negative.
    """
    if isinstance(rows, StoredRows):
        return rows.beginning(index, n_tokens)
    row = rows[index]
    pairs = zip(row.input_ids[:n_tokens], row.labels[:n_tokens], strict=True)
    return np.array([token if label == IGNORED else ~token for token, label in pairs], np.int32)
