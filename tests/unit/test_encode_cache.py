"""Encoded rows are found again when nothing that decides about them changed, and only then."""

from __future__ import annotations

import contextvars
import errno
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import build_tokenizer

from weitiao.cache import keep_newest
from weitiao.chat import make_renderer
from weitiao.chat.texts import TextTokens
from weitiao.encode import encode_samples, plan_steps
from weitiao.encode.encode import code_version, encoding_key
from weitiao.encode.rows import write_rows
from weitiao.encode.steps import common_prefix
from weitiao.encode.store import RowWriter, StoredRows
from weitiao.errors import CacheError
from weitiao.log import install_display
from weitiao.recipe.sections import Chat, Encode
from weitiao.seams import DataReport, Message, Part, Picture, Rendered, Sample, SampleSet, text_message

PACKAGE = Path(sys.modules["weitiao"].__file__ or "").parent
REPORT = DataReport("test", 0, 0, {}, {}, (), {}, "content of the files")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEITIAO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoded"


@pytest.fixture(scope="module")
def renderer() -> Any:
    return make_renderer(build_tokenizer("qwen3"), Chat())


def sample(i: int, answer: str = "noise") -> Sample:
    user = Message("user", (Part("text", f"第{i}行：小区垃圾堆积成山，停车难上加难", shortenable=True), Part("text", ",类型?")))
    return Sample(
        f"id-{i}", f"rows.jsonl:{i}", (text_message("system", "你是一个文本分类领域的专家"), user, text_message("assistant", answer))
    )


def samples(n: int = 30) -> SampleSet:
    return SampleSet([sample(i) for i in range(n)], [], [], REPORT)


# ---- the key ----------------------------------------------------------------------------------------------------------


def changed_row(i: int, **values: Any) -> SampleSet:
    rows = list(samples().train)
    rows[i] = replace(rows[i], **values)
    return replace(samples(), train=rows)


@pytest.mark.parametrize(
    "other",
    [
        changed_row(3, messages=sample(3, "parking").messages),
        changed_row(3, messages=sample(3).messages[1:]),
        changed_row(3, messages=(*sample(3).messages[:1], text_message("user", sample(3).messages[1].text), sample(3).messages[2])),
        changed_row(3, origin="other.jsonl:3"),
        replace(samples(), train=list(reversed(samples().train))),
        replace(samples(), train=samples().train[:-1]),
        replace(samples(), report=replace(REPORT, fingerprint="an image of that name has another content")),
    ],
    ids=["answer", "no system text", "may not be shortened", "origin", "order", "a row less", "file content"],
)
def test_changed_rows_are_encoded_anew(other: SampleSet, renderer: Any) -> None:
    assert encoding_key(other, renderer, Encode()) != encoding_key(samples(), renderer, Encode())
    assert encoding_key(samples(), renderer, Encode()) == encoding_key(samples(), renderer, Encode())


def test_a_changed_setting_is_another_key(renderer: Any) -> None:
    key = encoding_key(samples(), renderer, Encode())
    assert encoding_key(samples(), renderer, Encode(max_tokens=512)) != key
    assert encoding_key(samples(), make_renderer(build_tokenizer("qwen3"), Chat(), "tail"), Encode()) != key
    assert encoding_key(samples(), make_renderer(build_tokenizer("qwen3"), Chat(enable_thinking=True)), Encode()) != key
    assert encoding_key(samples(), make_renderer(build_tokenizer("qwen3"), Chat()), Encode(packing=False)) == key


def test_a_changed_template_or_tokenizer_is_another_key(renderer: Any) -> None:
    key = encoding_key(samples(), renderer, Encode())
    wordy = build_tokenizer("qwen2")
    before = encoding_key(samples(), make_renderer(wordy, Chat()), Encode())
    wordy.chat_template = wordy.chat_template.replace("'<|im_end|>\\n'", "'<|im_end|>\\n\\n'")
    larger = build_tokenizer("qwen3")
    larger.add_tokens(["小区"])
    special = build_tokenizer("qwen3")
    special.add_special_tokens({"additional_special_tokens": ["<think>"]})
    keys = [encoding_key(samples(), make_renderer(tokenizer, Chat()), Encode()) for tokenizer in (wordy, larger, special)]
    assert len({key, before, *keys}) == 5


@pytest.mark.parametrize("edited", ["chat/render.py", "chat/templates/qwen3.jinja", "encode/rows.py", "tasks/prompt.py"])
def test_edited_code_is_another_version(edited: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(PACKAGE, tmp_path / "weitiao", ignore=shutil.ignore_patterns("__pycache__")))
    assert code_version(copy) == code_version(PACKAGE)
    (copy / "train" / "loop.py").write_text("")
    assert code_version(copy) == code_version(PACKAGE)
    with (copy / edited).open("a") as file:
        file.write("\n")
    assert code_version(copy) != code_version(PACKAGE)


# ---- the entries ------------------------------------------------------------------------------------------------------


def test_the_second_time_rows_come_from_the_cache(renderer: Any, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "weitiao")
    first = encode_samples(samples(), renderer, Encode())
    assert "from the cache" not in caplog.text
    (entry,) = (path for path in cache.iterdir() if path.is_dir())
    written = (entry / "tokens.bin").stat().st_mtime_ns
    second = encode_samples(samples(), make_renderer(build_tokenizer("qwen3"), Chat()), Encode())
    assert "encoded rows: from the cache" in caplog.text
    assert (entry / "tokens.bin").stat().st_mtime_ns == written
    assert list(second.rows) == list(first.rows)
    assert replace(second, rows=[]) == replace(first, rows=[])
    assert len(first.rows) == 30


KILLED = """
import os, signal, sys
from tests.unit.test_encode_cache import Lazy, REPORT, build_tokenizer, make_renderer, encode_samples, sample, Chat, Encode, SampleSet
from weitiao.encode import rows
rows.WINDOW_ROWS = 8
n_made = 0
def make(i):
    global n_made
    n_made += 1
    if n_made == 50:  # in the third window: 30 samples were read for the key
        os.kill(os.getpid(), signal.SIGKILL)
    return sample(i)
encode_samples(SampleSet(Lazy(30, make), [], [], REPORT), make_renderer(build_tokenizer("qwen3"), Chat()), Encode())
"""


class Lazy(Sequence[Sample]):
    """Samples that are made when they are asked for."""

    def __init__(self, n: int, make: Any) -> None:
        self.n, self.make = n, make

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> Any:
        if index >= self.n:
            raise IndexError
        return self.make(index)


def test_a_half_written_entry_is_never_used(renderer: Any, cache: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=Path(__file__).parents[2], env=os.environ, check=False)
    assert done.returncode == -9
    (half,) = (path for path in cache.iterdir() if path.is_dir())
    assert half.suffix == ".partial"
    assert {path.name for path in half.iterdir()} == {"tokens.bin", "pictures.bin"}
    encoded = encode_samples(samples(), renderer, Encode())
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [half.stem]
    for row, read in zip(samples().train, encoded.rows, strict=True):
        assert renderer.conversation(row.messages).input_ids[: len(read.input_ids)] == read.input_ids


def test_a_full_disk_is_said_in_a_sentence_and_leaves_nothing(renderer: Any, cache: Path) -> None:
    n_made = 0

    def make(i: int) -> Sample:
        nonlocal n_made
        n_made += 1
        if n_made == 15:  # 9 samples were read for the key
            raise OSError(errno.ENOSPC, "No space left on device")
        return sample(i)

    with pytest.raises(CacheError, match="the disk is full") as caught:
        encode_samples(SampleSet(Lazy(9, make), [], [], REPORT), renderer, Encode())
    assert caught.value.hint == "make room, or point WEITIAO_CACHE at a larger disk"
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_entries_used_longest_ago_are_removed_first(tmp_path: Path) -> None:
    for age, name in enumerate(["now", "recent", "old", "older"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens.bin").write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (time.time() - 3600 * age,) * 2)
    for name, days in (("left.partial", 3), ("building.partial", 0)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - 86400 * days,) * 2)
    keep_newest(tmp_path, 350, keep=tmp_path / "now")
    assert {path.name for path in tmp_path.iterdir()} == {"now", "recent", "old", "building.partial"}
    keep_newest(tmp_path, 10, keep=tmp_path / "old")
    assert {path.name for path in tmp_path.iterdir()} == {"old", "building.partial"}


def test_rows_stay_readable_when_their_entry_is_removed(renderer: Any, cache: Path) -> None:
    encoded = encode_samples(samples(), renderer, Encode())
    first = encoded.rows[0]
    shutil.rmtree(cache)
    assert encoded.rows[0] == first
    with pytest.raises(CacheError, match="the encoded rows are gone"):
        pickle.loads(pickle.dumps(encoded.rows))


# ---- the files --------------------------------------------------------------------------------------------------------


def test_stored_rows_are_a_sequence(tmp_path: Path) -> None:
    picture = Picture(Path("/photos/a.png"), 56, 84, (1, 4, 6), 6)
    with RowWriter(tmp_path) as writer:
        start = writer.put(Rendered([0, 7, 8, 9], [False, False, True, True]), 3)
        writer.add_row(start, 3, (0, 0))
        start = writer.put(Rendered([5, 0], [True, True]), 2)
        writer.add_row(start, 2, writer.put_pictures([picture]))
    rows = StoredRows(tmp_path)
    assert (rows[0].input_ids, rows[0].labels, rows[0].segment_lengths) == ([0, 7, 8], [-100, -100, 8], (3,))
    assert (rows[-1].input_ids, rows[-1].labels) == ([5, 0], [5, 0])
    assert [row.pictures for row in rows] == [(), (picture,)]
    assert [row.input_ids for row in rows] == [row.input_ids for row in rows[:]] == [[0, 7, 8], [5, 0]]
    assert (len(rows), rows.lengths.tolist(), rows.has_pictures) == (2, [3, 2], True)
    with pytest.raises(IndexError):
        rows[2]
    assert pickle.loads(pickle.dumps(rows))[0] == rows[0]
    assert common_prefix(rows) == 0


def test_a_plan_of_stored_rows_is_that_of_rows_in_memory(renderer: Any) -> None:
    rows = encode_samples(samples(), renderer, Encode()).rows
    settings: Any = {"batch_tokens": 300, "batch_rows": None, "micro_batch_tokens": 150, "packing": True, "share_prefix": True, "seed": 1}
    stored, listed = plan_steps(rows, **settings), plan_steps(list(rows), **settings)
    assert stored.prefix_length == listed.prefix_length > 8
    assert renderer.text(rows[0].input_ids[: stored.prefix_length]).endswith("第")
    assert len(stored) == len(listed) > 2
    assert [stored.step(0, i) for i in range(len(stored))] == [listed.step(0, i) for i in range(len(listed))]


def test_full_texts_that_will_be_shortened_are_not_kept(renderer: Any, cache: Path) -> None:
    long = Message("user", (Part("text", "停车难 " * 3000, shortenable=True),))
    rows = [Sample("a", "a:1", (long, text_message("assistant", "parking"))), sample(2)]
    encoded = encode_samples(SampleSet(rows, [], [], REPORT), renderer, Encode(max_tokens=128))
    assert encoded.n_shortened == 1
    assert next(cache.glob("*/tokens.bin")).stat().st_size == 4 * sum(encoded.lengths)


def test_memory_does_not_grow_with_the_rows(renderer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weitiao.encode.rows.WINDOW_ROWS", 16)
    monkeypatch.setattr("weitiao.chat.texts.N_KNOWN", 32)

    def peak(n: int) -> int:
        folder = tmp_path / str(n)
        folder.mkdir()
        tracemalloc.start()
        write_rows(Lazy(n, sample), renderer, 64, folder)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few = peak(80)
    assert peak(320) - few < 240 * 300, "bytes per further row"


def test_remembered_texts_are_bounded_in_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weitiao.chat.texts.N_CHARACTERS", 100)
    texts = TextTokens(build_tokenizer("qwen3"))

    def held() -> int:
        return sum(map(len, texts._known))

    for i in range(10):
        texts.ids(f"{i} long " * 5)
        assert held() <= 100 + 40
    window = [f"{i} wide " * 5 for i in range(10)]
    texts.remember(window)
    assert held() >= 350, "what is asked for together stays together"
    tokens = [texts.ids(text) for text in window]
    assert held() >= 350
    assert tokens == [TextTokens(texts.tokenizer).ids(text) for text in window]
    texts.ids("new")
    assert held() == len("new")


def test_progress_counts_every_row(renderer: Any) -> None:
    shown: list[tuple[str, int | None, str, int]] = []

    @contextmanager
    def display(title: str, total: int | None, unit: str) -> Iterator[Any]:
        done: list[int] = []
        yield lambda n_done, *_: done.append(n_done)
        shown.append((title, total, unit, sum(done)))

    def shown_while_encoding(rows: list[Sample]) -> None:
        install_display(display)
        encode_samples(SampleSet(rows, [], [], REPORT), renderer, Encode(max_tokens=128))

    long = Message("user", (Part("text", "停车难 " * 300, shortenable=True),))
    contextvars.copy_context().run(shown_while_encoding, [sample(1), Sample("a", "a:1", (long, text_message("assistant", "parking")))])
    assert shown == [("looking for encoded rows", 2, "rows", 2), ("tokenising", 2, "rows", 2), ("shortening", 1, "rows", 1)]
