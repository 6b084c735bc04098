"""Whatever stands in a file: a sentence or samples, every row kept or listed, no traceback, no hang."""

import csv
import functools
import io
import json
import tempfile
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter

from weitiao.data import load_file, load_samples
from weitiao.errors import WeitiaoError
from weitiao.recipe.sections import Data
from weitiao.recipe.tasks import TaskSection
from weitiao.tasks import make_task

SECTION = TypeAdapter(TaskSection)
TASKS = {
    kind: make_task(SECTION.validate_python({"kind": kind, **more}))
    for kind, more in {
        "text": {},
        "chat": {},
        "classification": {},
        "ner": {},
        "ocr": {},
        "caption": {},
        "extraction": {"fields": ["name", "email"]},
    }.items()
}
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def assert_kept_or_listed(content, name, kind, n_rows=None, **data):
    """Load a file and hold what must be true of any file.

    ``n_rows`` is how many rows it has, counted by other means than the reader's. Returns the report, or None where the file was refused
    with a sentence.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        image = Image.new("L", (20, 20), 255)
        image.putpixel((1, 1), 0)
        image.save(Path(folder) / "a.png")
        section = Data.model_validate({"train": {"path": str(path)}, "allow_dropped": 1.0, "split": {"valid": 0.1, "test": 0.1}, **data})
        try:
            samples = load_samples(section, TASKS[kind], 1)
        except WeitiaoError as err:
            return None if str(err) else pytest.fail("an error without a sentence")
        report = samples.report
        assert report.n_read == report.n_kept + sum(report.rejected.values())
        assert n_rows in (None, report.n_read)
        assert sum(report.split.values()) == report.n_kept
        everything = [sample for part in (samples.train, samples.valid, samples.test) for sample in part]
        assert len({sample.id for sample in everything}) == report.n_kept == len(everything)
        json.dumps([report.statistics, report.shape, [finding.message for finding in report.findings]], ensure_ascii=False).encode()
        try:
            others = load_file(path, section, TASKS[kind], candidates=("a", "b"), with_answers=False)
        except WeitiaoError:
            return report
        assert others.n_read == len(others) + len(others.rejected)
        return report


# ---- rows of any content ----------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=30) | st.sampled_from(
    ["", " ", "a.png", "{{name}}", '{"name": "x"}', "<|vision_start|>a.png<|vision_end|>", "&&", "\u2028"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=5)
COLUMNS = st.sampled_from(
    [
        "text",
        "label",
        "labels",
        "category",
        "output",
        "instruction",
        "input",
        "system",
        "history",
        "messages",
        "conversations",
        "prompt",
        "completion",
        "entities",
        "tokens",
        "tags",
        "image",
        "images",
        "captions",
        "id",
        "answer",
        "content",
    ]
)
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "x"]), "content": VALUES})
    | st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": VALUES}),
    max_size=4,
)
ENTITIES = st.lists(
    st.fixed_dictionaries({"start_idx": st.integers(-2, 9), "end_idx": st.integers(-2, 9), "entity_label": SCALARS, "entity_text": SCALARS})
    | st.tuples(st.integers(-2, 9), st.integers(-2, 9), TEXTS).map(list),
    max_size=3,
)
ROWS = st.lists(st.dictionaries(COLUMNS, VALUES | TURNS | ENTITIES, max_size=5) | VALUES, min_size=1, max_size=8)
KINDS = st.sampled_from(sorted(TASKS))


@QUICK
@given(ROWS, KINDS)
def test_json_lines_of_anything(rows, kind):
    report = assert_kept_or_listed("\n".join(json.dumps(row) for row in rows).encode(), "rows.jsonl", kind)
    if report is not None and not (len(rows) == 1 and isinstance(rows[0], list)):  # one line that is a list is a JSON array
        assert report.n_read == len(rows)


@QUICK
@given(ROWS, KINDS)
def test_a_json_array_of_anything(rows, kind):
    report = assert_kept_or_listed(json.dumps(rows, ensure_ascii=False).encode(errors="surrogatepass"), "rows.json", kind)
    if report is not None:
        assert report.n_read == len(rows)


NEEDED = {
    "text": ["text"],
    "chat": ["prompt", "completion"],
    "classification": ["text", "label"],
    "ner": ["text", "entities"],
    "ocr": ["image", "text"],
    "caption": ["image", "captions"],
    "extraction": ["text", "answer"],
}
"""Columns that make a table fit a kind of work, whatever stands in them."""


@QUICK
@given(
    st.lists(st.lists(TEXTS, min_size=1, max_size=4), max_size=8),
    st.lists(COLUMNS, max_size=2),
    st.sampled_from(",;\t|"),
    KINDS,
    st.booleans(),
)
def test_csv_of_anything(rows, more, delimiter, kind, is_named):
    out = io.StringIO()
    names = list(dict.fromkeys([*NEEDED[kind], *more]))
    csv.writer(out, delimiter=delimiter).writerows([names, *rows, ["end"] * len(names)])
    records = list(csv.reader(io.StringIO(out.getvalue(), newline=""), delimiter=delimiter))[1:]
    n_rows = sum(record not in ([], [""]) for record in records)
    content = out.getvalue().encode(errors="surrogatepass")
    if is_named:
        assert_kept_or_listed(content, "rows.csv", kind, n_rows, delimiter=delimiter, encoding="utf-8")
    else:
        assert_kept_or_listed(content, "rows.csv", kind)


PIECES = [
    b'{"text": "a text"}',
    b'{"text": "x", "id": 7}',
    b"B\tB-LOC",
    b"in O",
    b"token",
    b"",
    b"  ",
    b'"a, b",c',
    b"plain text",
    b"\xff\xfe",
]
LINES = st.lists(st.sampled_from(PIECES) | st.binary(max_size=9).map(lambda piece: piece.replace(b"\n", b"")), min_size=1, max_size=12)
CONTENT = st.binary(max_size=400) | LINES.map(b"\n".join)


def counted(content, ending):
    """Rows of a file of lines; None where that is not so easily said."""
    text = content.decode("utf-8", "surrogateescape")
    filled = [bool(line.strip()) for line in text.split("\n")]
    if ending == ".jsonl" and not text.lstrip().startswith("["):
        return sum(filled)
    if ending == ".conll":
        return sum(is_filled and not before for before, is_filled in pairwise([False, *filled]))
    return 1 if ending == ".txt" else None


@settings(QUICK, max_examples=200)
@given(CONTENT, st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".txt", ".conll", ".parquet", ".arrow"]), KINDS, st.booleans())
def test_any_bytes_under_any_name(content, ending, kind, is_named):
    if is_named:
        assert_kept_or_listed(content, f"rows{ending}", "ner" if ending == ".conll" else "text", counted(content, ending), encoding="utf-8")
    else:
        assert_kept_or_listed(content, f"rows{ending}", kind)


@pytest.mark.parametrize(("ending", "n_rows"), [(".jsonl", 3), (".conll", 4), (".txt", 1)])
def test_these_files_are_not_refused(ending, n_rows):
    content = {
        ".jsonl": b'{"text": "a text"}\nno JSON\n\n{"text": "x", "id": 7}\n',
        ".conll": b"B\tB-LOC\nin O\n\ntoken\n\n\nC\tB-LOC\n\nD\tO\n",
        ".txt": b"plain text\n\nmore\n",
    }[ending]
    assert counted(content, ending) == n_rows
    assert assert_kept_or_listed(content, f"rows{ending}", "ner" if ending == ".conll" else "text", n_rows).n_read == n_rows


# ---- good files with damage -------------------------------------------------------------------------------------------

GOOD = {
    "classification": [{"text": f"文章{i} body, and more", "label": "ab"[i % 2], "id": i} for i in range(12)],
    "ner": [
        {"text": "我在北京。", "entities": [{"start_idx": 2, "end_idx": 4, "entity_text": "北京", "entity_label": "LOC"}]} for _ in range(6)
    ],
    "chat": [{"messages": [{"role": "user", "content": f"你好{i}"}, {"role": "assistant", "content": "hello"}]} for i in range(8)],
    "extraction": [{"text": f"龙琳{i}，a@b.cn", "answer": '{"name": "龙琳", "email": "a@b.cn"}'} for i in range(8)],
    "ocr": [{"image": "a.png", "text": f"x^{i}"} for i in range(5)],
}


@functools.cache
def good_file(kind, ending):
    rows = GOOD[kind]
    if ending == ".jsonl":
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    if ending == ".json":
        return json.dumps(rows, ensure_ascii=False, indent=1).encode()
    if ending in (".csv", ".gb.csv"):
        lines = [",".join(rows[0])]
        lines += [",".join('"' + str(value).replace('"', '""') + '"' for value in row.values()) for row in rows]
        return "\r\n".join(lines).encode("gb18030" if ending == ".gb.csv" else "utf-8")
    table, out = pa.Table.from_pylist(rows), io.BytesIO()
    if ending == ".parquet":
        pq.write_table(table, out)
    else:
        with pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)
    return out.getvalue()


def damaged(content, damages):
    data = bytearray(content)
    for what, place, value in damages:
        at = place % (len(data) + 1)
        if what == "flip" and at < len(data):
            data[at] ^= value | 1
        elif what == "insert":
            data[at:at] = bytes([value])
        elif what == "delete":
            del data[at : at + value]
        elif what == "repeat":
            data[at:at] = data[at : at + value]
        elif what == "cut":
            del data[at:]
    return bytes(data)


DAMAGES = st.lists(
    st.tuples(st.sampled_from(["flip", "flip", "insert", "delete", "repeat", "cut"]), st.integers(0, 10**6), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".gb.csv", ".parquet", ".arrow"])
@pytest.mark.parametrize("kind", sorted(GOOD))
def test_damaged_files(kind, ending):
    assert assert_kept_or_listed(good_file(kind, ending), f"rows{ending}", kind).n_kept == len(GOOD[kind])

    @settings(QUICK, max_examples=25)
    @given(DAMAGES)
    def holds(damages):
        assert_kept_or_listed(damaged(good_file(kind, ending), damages), f"rows{ending}", kind)

    holds()


@QUICK
@given(DAMAGES)
def test_damaged_images(damages):
    out = io.BytesIO()
    Image.effect_noise((40, 30), 80).save(out, "JPEG")
    png = io.BytesIO()
    Image.effect_noise((40, 30), 80).save(png, "PNG")
    for content in (out.getvalue(), png.getvalue()):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "x.img").write_bytes(damaged(content, damages))
            (Path(folder) / "rows.jsonl").write_text('{"image": "x.img", "text": "x"}\n')
            section = Data.model_validate(
                {"train": {"path": f"{folder}/rows.jsonl"}, "allow_dropped": 1.0, "split": {"valid": 0, "test": 0}}
            )
            try:
                outcome = f"{load_samples(section, TASKS['ocr'], 1).report.n_kept} image kept"
            except WeitiaoError as err:
                outcome = str(err)
            assert "image" in outcome
