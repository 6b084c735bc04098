"""Records kept as an Arrow file, so that memory does not grow with their number, and the lazy sequences of samples over it.

Few rows stay in memory; more go to the cache folder. Rows are read in blocks with plain reads (no memory map), so that what was read
before does not count as the process's memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from weitiao.cache import cache_folder
from weitiao.errors import DataError
from weitiao.seams import Entity, Message, Part, Record, Sample, Task

BLOCK_ROWS = 256
BLOCKS_KEPT = 8
MEMORY_BYTES = 32 << 20
"""Size up to which a store stays in memory."""
KEPT_DAYS = 14
"""Age after which files of earlier runs are removed from the cache."""


class StoreWriter:
    """Takes records one by one; ``close`` gives the finished store."""

    def __init__(self) -> None:
        import pyarrow as pa

        self._schema = pa.schema([("record", pa.large_binary())])
        self._buffer: io.BytesIO | None = io.BytesIO()
        self._path: Path | None = None
        self._sink: Any = self._buffer
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        self._block: list[bytes] = []
        self.n_rows = 0

    def add(self, record: Record) -> None:
        """Append a record; raises ``DataError`` when the disk is full."""
        self._block.append(_packed(record))
        self.n_rows += 1
        if len(self._block) == BLOCK_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        try:
            self._writer.write_batch(pa.record_batch([pa.array(self._block, pa.large_binary())], schema=self._schema))
            self._block = []
            if self._buffer is not None and self._buffer.tell() > MEMORY_BYTES:
                self._move_to_disk()
        except OSError as err:
            raise DataError(
                f"rows cannot be kept on disk: {err}", where=str(self._path), hint="free some space, or set WEITIAO_CACHE"
            ) from err

    def _move_to_disk(self) -> None:
        """Go on in a file: what was written so far is copied, the Arrow writer keeps writing to the same sink object."""
        assert self._buffer is not None
        import pyarrow as pa

        folder = cache_folder("rows")
        _remove_old(folder)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".part-", suffix=".arrow")
        self._path = Path(name)
        self._writer.close()
        written = self._buffer.getvalue()
        self._buffer = None
        self._sink = os.fdopen(handle, "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        for block in _blocks(pa.BufferReader(written)):
            self._writer.write_batch(block)

    def close(self) -> Store:
        """Finish writing.

        Returns:
            The store, in memory or in the cache folder under the hash of its content.
        """
        if self._block:
            self._flush()
        self._writer.close()
        if self._path is None:
            assert self._buffer is not None
            return Store(self._buffer.getvalue(), self.n_rows)
        self._sink.close()
        with self._path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        target = self._path.with_name(f"{digest[:32]}.arrow")
        self._path.replace(target)
        return Store(target, self.n_rows)

    def discard(self) -> None:
        """Throw away what was written, after a failure."""
        if self._path is not None:
            self._sink.close()
            self._path.unlink(missing_ok=True)


def _blocks(source: Any) -> Iterator[Any]:
    import pyarrow as pa

    reader = pa.ipc.open_file(source)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _remove_old(folder: Path) -> None:
    limit = time.time() - KEPT_DAYS * 86400
    for path in folder.glob("*.arrow"):
        if path.stat().st_mtime < limit:
            path.unlink(missing_ok=True)


class Store:
    """Records by number. Can be pickled; each process opens the file for itself."""

    def __init__(self, content: bytes | Path, n_rows: int) -> None:
        self._content = content
        self._n_rows = n_rows
        self._reader: Any = None
        self._kept: OrderedDict[int, list[bytes]] = OrderedDict()

    def __len__(self) -> int:
        return self._n_rows

    def __getstate__(self) -> dict[str, Any]:
        return {"content": self._content, "n_rows": self._n_rows}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        Store.__init__(self, state["content"], state["n_rows"])

    def __getitem__(self, index: int) -> Record:
        block, row = divmod(index, BLOCK_ROWS)
        return _unpacked(self._read_block(block)[row])

    def __iter__(self) -> Iterator[Record]:
        for block in range(-(-self._n_rows // BLOCK_ROWS)):
            yield from map(_unpacked, self._read_block(block))

    def _read_block(self, number: int) -> list[bytes]:
        rows = self._kept.get(number)
        if rows is not None:
            self._kept.move_to_end(number)
            return rows
        if self._reader is None:
            self._reader = self._open()
        rows = list[bytes](self._reader.get_batch(number).column(0).to_pylist())
        self._kept[number] = rows
        if len(self._kept) > BLOCKS_KEPT:
            self._kept.popitem(last=False)
        return rows

    def _open(self) -> Any:
        import pyarrow as pa

        if isinstance(self._content, bytes):
            return pa.ipc.open_file(pa.BufferReader(self._content))
        try:
            return pa.ipc.open_file(pa.OSFile(str(self._content)))
        except OSError as err:
            raise DataError("the cached rows are gone", where=str(self._content), hint="start again: they are made anew") from err


class StoredSamples(Sequence[Sample]):
    """Samples made from stored records when they are asked for."""

    def __init__(self, store: Store, indices: np.ndarray, task: Task, candidates: tuple[str, ...], repeats: Mapping[int, int]) -> None:
        """Keep what samples are made of.

        Args:
            store: of the records.
            indices: row numbers in the order of the sequence.
            task: makes samples of records.
            candidates: labels for records that name none.
            repeats: row number -> how often its id came before it; such ids get that number behind them.
        """
        self._store = store
        self._indices = indices
        self._task = task
        self._candidates = candidates
        self._repeats = repeats

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> StoredSamples: ...
    def __getitem__(self, index: int | slice) -> Sample | StoredSamples:
        if isinstance(index, slice):
            return StoredSamples(self._store, self._indices[index], self._task, self._candidates, self._repeats)
        row = int(self._indices[index])
        record = completed(self._store[row], self._candidates)
        if row in self._repeats:
            record = replace(record, id=f"{record.id}#{self._repeats[row] + 1}")
        return self._task.make_sample(record)


def completed(record: Record, candidates: tuple[str, ...]) -> Record:
    """The record with the candidates of the data set where it names none."""
    return record if record.candidates or not candidates else replace(record, candidates=candidates)


def _packed(record: Record) -> bytes:
    fields: dict[str, Any] = {"origin": record.origin, "id": record.id}
    for name in ("text", "instruction", "system", "labels", "candidates", "captions", "group"):
        if value := getattr(record, name):
            fields[name] = value
    if record.answer is not None:
        fields["answer"] = record.answer
    if record.entities is not None:
        fields["entities"] = [(entity.start, entity.end, entity.surface, entity.label) for entity in record.entities]
    if record.images:
        fields["images"] = [str(path) for path in record.images]
    if record.messages:
        fields["messages"] = [
            (message.role, [(part.text, str(part.image) if part.image else None, part.shortenable) for part in message.parts])
            for message in record.messages
        ]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def _unpacked(data: bytes) -> Record:
    fields = json.loads(data)
    for name in ("labels", "candidates", "captions"):
        if name in fields:
            fields[name] = tuple(fields[name])
    if "entities" in fields:
        fields["entities"] = tuple(Entity(*entity) for entity in fields["entities"])
    if "images" in fields:
        fields["images"] = tuple(map(Path, fields["images"]))
    if "messages" in fields:
        fields["messages"] = tuple(Message(role, tuple(_part(*part) for part in parts)) for role, parts in fields["messages"])
    return Record(**fields)


def _part(text: str, image: str | None, shortenable: bool) -> Part:
    return Part("image", image=Path(image)) if image else Part("text", text, shortenable=shortenable)
