"""Every kind of file, in the encodings and with the faults that people bring."""

import gzip
import json
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.rows import load, task_of, texts, write

from weitiao.data import stream_file
from weitiao.errors import DataError, Problems
from weitiao.recipe.sections import Data, Source

ROWS = [{"text": "第一行", "label": "好"}, {"text": "第二行，带逗号", "label": "坏"}, {"text": "第三\n行", "label": "好"}]


def classify(path, **data):
    return load(path, "classification", **data)


def origins(samples):
    return [sample.origin for sample in samples.train]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_csv_of_any_encoding_and_delimiter(tmp_path, encoding, delimiter):
    path = tmp_path / "rows.csv"
    lines = ["text", "第一行", "第二行，带逗号, ; 和|号", '第三\n行 "引号"']
    cells = ['"' + line.replace('"', '""') + '"' for line in lines]
    labels = ["label", "好", "坏", "好"]
    path.write_bytes("\r\n".join(f"{cell}{delimiter}{label}" for cell, label in zip(cells, labels, strict=True)).encode(encoding))
    samples = classify(path)
    assert texts(samples) == [text for text in texts(samples) if text]
    assert [lines[i] in texts(samples)[i - 1] for i in (1, 2, 3)] == [True, True, True]
    assert [sample.reference for sample in samples.train] == ["好", "坏", "好"]
    assert origins(samples) == ["rows.csv:2", "rows.csv:3", "rows.csv:4"]


def test_a_named_delimiter_and_encoding(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes("text^label\n你好，世界^好\n再見，世界^壞\n".encode("big5"))
    samples = classify(path, delimiter="^", encoding="big5")
    assert [sample.reference for sample in samples.train] == ["好", "壞"]


def test_rows_of_another_width_are_listed(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,x\nb,y,z\nc\n\nd,y\n", encoding="utf-8")
    samples = classify(path, allow_dropped=0.5)
    assert origins(samples) == ["rows.csv:2", "rows.csv:6"]
    assert sum(samples.report.rejected.values()) == 2
    assert samples.report.n_read == 4
    shown = [line for lines in samples.report.rejected_examples.values() for line in lines]
    assert shown == [
        "rows.csv:3: 3 cells where the first line names 2 columns",
        "rows.csv:4: 1 cells where the first line names 2 columns",
    ]


def test_a_quote_that_is_never_closed_is_no_silent_loss(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('text,label\na,x\n"b,y\nc,x\nd,y\n', encoding="utf-8")
    with pytest.raises(DataError, match="a quote opened in line 3 is never closed; it swallows the 3 lines up to the end"):
        classify(path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_a_quote_inside_a_cell_joins_no_rows_in_silence(tmp_path, name):
    lines = [["text", "label"], ["\"It's nice", "x"], ["foo", "y"], ['"bar" baz', "x"], ["last", "y"]]
    path = tmp_path / name
    path.write_text("\n".join(("," if name.endswith("csv") else "\t").join(cells) for cells in lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="a quote opened in line 2 does not end at a cell's end; 3 lines would be read as one row"):
        classify(path)


@pytest.mark.parametrize(
    "text",
    [
        '[{"text": "a", "label": "x"}]\n[{"text": "b", "label": "y"}]\n',
        '[{"text": "a", "label": "x"}] {"text": "b", "label": "y"}',
        "[]\n[]",
    ],
)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_what_follows_an_array_is_no_silent_loss(tmp_path, text, name):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="more follows the JSON array"):
        classify(tmp_path / name)


def test_lines_of_objects_that_hold_lists_are_rows(tmp_path):
    rows = [{"text": "first", "label": "x", "items": ["a", "b"]}, {"text": "second", "label": "y", "items": ["c"]}]
    (tmp_path / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert [sample.reference for sample in classify(tmp_path / "rows.json").train] == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("我要投訴這家餐廳的服務態度，等了一個小時還沒有上菜。", "big5"),
        ("Herr Müller wohnt in Köln und zahlt fünf Euro für die Tür.", "cp1252"),
    ],
)
def test_text_in_other_encodings_is_refused_and_not_garbled(tmp_path, text, encoding):
    path = tmp_path / "rows.csv"
    path.write_bytes(f"text,label\n{text},x\n{text}!,y\n".encode(encoding))
    with pytest.raises(DataError, match="this is not text in UTF-8, UTF-16 or GB18030") as caught:
        classify(path)
    assert "data.encoding" in caught.value.hint
    assert text in classify(path, encoding=encoding).train[0].messages[-2].text
    traditional = "我要投訴這家餐廳的服務態度，等了一個小時還沒有上菜。"
    path.write_bytes(f"text,label\n{traditional},x\n{traditional}!,y\n".encode("gb18030"))
    assert traditional in classify(path).train[0].messages[-2].text


def test_json_array_and_object_with_data(tmp_path):
    for name, value in (
        ("a.json", ROWS),
        ("b.json", {"version": [1, {}], "data": ROWS, "more": 1}),
        ("c.jsonl", ROWS),
        ("d.json", {"rows": ROWS}),
    ):
        (tmp_path / name).write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
        samples = classify(tmp_path / name)
        assert origins(samples) == [f"{name}:1", f"{name}:2", f"{name}:3"]


def test_json_lines_under_json_and_line_separators_inside_strings(tmp_path):
    rows = [{"text": "one\u2028two\u2029three\x85four\x0bfive"}, {"text": "six"}]
    for name in ("a.json", "a.jsonl"):
        samples = load(write(tmp_path / name, rows))
        assert texts(samples) == [rows[0]["text"], "six"]


def test_a_long_array_is_read_piece_by_piece(tmp_path):
    rows = [{"text": f"{i} " + "长" * 2000} for i in range(1500)]
    (tmp_path / "long.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    assert texts(load(tmp_path / "long.json")) == [row["text"] for row in rows]


def test_broken_lines_are_listed_with_their_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"text": f"row {i}"}) for i in range(1, 201)]
    lines[41] = lines[41][:-1]
    lines[99] = "[1, 2]"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    samples = load(path)
    assert samples.report.n_read == 200
    assert samples.report.n_kept == 198
    assert samples.report.rejected_examples == {
        "not JSON": ("rows.jsonl:42: not JSON: Expecting ',' delimiter at character 18",),
        "not a row": ("rows.jsonl:100: not a row: a JSON list where an object is expected",),
    }


def test_more_rejected_rows_than_allowed_stop_with_reasons_and_the_way_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"\n{"text": "c"}\n{"text": ["d"]}\n', encoding="utf-8")
    with pytest.raises(Problems) as caught:
        load(path)
    assert str(caught.value).splitlines() == [
        "2 of 4 rows cannot be used (50.0%); 1.0% may be left out. Mend them, or allow it: data.allow_dropped: 0.5",
        "not JSON (1 row)",
        "  rows.jsonl:2: not JSON: Expecting ',' delimiter at character 13",
        "column `text` holds no text (1 row)",
        "  rows.jsonl:4: column `text` holds no text: a list",
    ]
    assert load(path, allow_dropped=0.5).report.n_kept == 2


def test_an_array_that_breaks_says_where(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"text": "a"}, {"text": "b"}, {"text": ', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}: the JSON breaks at item 3: Expecting value\n"
        "  items before it are whole (2); nothing after it can be read until it is mended"
    )


def test_bytes_that_do_not_fit_reject_their_row_only(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = [json.dumps({"text": f"第{i}行，这是一段正常的文字。"}, ensure_ascii=False).encode() for i in range(300)]
    good[6] = '{"text": "坏'.encode() + b"\xff" + b'"}'
    path.write_bytes(b"\n".join(good))
    samples = load(path)
    assert samples.report.n_kept == 299
    assert samples.report.rejected_examples == {
        "characters that cannot be decoded": ("rows.jsonl:7: characters that cannot be decoded: byte 0xff",)
    }


def test_half_a_surrogate_pair_rejects_its_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b\\ud83d"}\n', encoding="utf-8")
    samples = load(path, allow_dropped=0.5)
    assert samples.report.rejected_examples == {
        "characters that cannot be decoded": ("rows.jsonl:2: characters that cannot be decoded: \\ud83d",)
    }


def test_an_id_that_cannot_be_decoded_rejects_its_row_too(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"id": "a", "text": "one"}\n{"id": "\xff", "text": "two"}\n')
    samples = load(tmp_path / "rows.jsonl", allow_dropped=0.5)
    assert [sample.id for sample in samples.train] == ["a"]
    assert sum(samples.report.rejected.values()) == 1


def test_text_files_and_folders_of_them(tmp_path):
    (tmp_path / "b.txt").write_bytes("第二篇\n两行".encode("gb18030"))
    (tmp_path / "a.txt").write_text("第一篇\n", encoding="utf-8")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.md").write_text("# third", encoding="utf-8")
    samples = load(tmp_path)
    assert [(sample.origin, sample.messages[0].text) for sample in samples.train] == [
        ("a.txt:1", "第一篇"),
        ("b.txt:1", "第二篇\n两行"),
        ("deep/c.md:1", "# third"),
    ]


def test_a_very_long_text_becomes_several_rows(tmp_path):
    (tmp_path / "novel.txt").write_text("一行文字\n" * 500_000, encoding="utf-8")
    samples = load(tmp_path / "novel.txt")
    assert origins(samples) == ["novel.txt:1", "novel.txt:200001", "novel.txt:400001"]
    assert samples.report.statistics["input_characters"]["max"] == 1_000_000


def test_parquet_and_arrow_with_class_names(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    data = datasets.Dataset.from_dict({"text": ["bad", "good", "fine"], "label": [0, 1, 1]}, features=features)
    data.to_parquet(tmp_path / "rows.parquet")
    data.save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "rows.parquet", tmp_path / "saved"):
        samples = classify(path)
        assert [sample.reference for sample in samples.train] == ["neg", "pos", "pos"]
    assert origins(classify(tmp_path / "rows.parquet")) == ["rows.parquet:1", "rows.parquet:2", "rows.parquet:3"]


def test_several_files_with_weights_and_a_glob(tmp_path):
    write(tmp_path / "a1.jsonl", [{"text": f"a{i}"} for i in range(100)])
    write(tmp_path / "a2.jsonl", [{"text": f"b{i}"} for i in range(100)])
    write(tmp_path / "c.jsonl", [{"text": f"c{i}"} for i in range(200)])
    train = [{"path": str(tmp_path / "a*.jsonl"), "weight": 2}, {"path": str(tmp_path / "c.jsonl"), "weight": 0.5}]
    samples = load(None, train=train)
    seen = texts(samples)
    assert samples.report.n_kept == 400
    assert all(seen.count(f"a{i}") == 2 and seen.count(f"b{i}") == 2 for i in range(100))
    n_half = sum(text.startswith("c") for text in seen)
    assert n_half == len({text for text in seen if text.startswith("c")})
    assert 70 <= n_half <= 130
    assert texts(load(None, train=train)) == seen
    assert next(origin for origin in origins(samples) if origin.startswith("a2")) == "a2.jsonl:1"


def test_limit_takes_the_first_rows_of_each_source(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": f"a{i}"} for i in range(10)])
    write(tmp_path / "b.jsonl", [{"text": f"b{i}"} for i in range(10)])
    samples = load(None, train=[{"path": str(tmp_path / "a.jsonl")}, {"path": str(tmp_path / "b.jsonl")}], limit=2)
    assert texts(samples) == ["a0", "a1", "b0", "b1"]


def test_what_is_not_there_is_named_with_its_nearest(tmp_path):
    write(tmp_path / "complaints.jsonl", ROWS)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "complaint.jsonl")
    assert str(caught.value) == f"{tmp_path}/complaint.jsonl: there is no such file or folder\n  did you mean {tmp_path}/complaints.jsonl?"
    with pytest.raises(DataError, match=r"the pattern fits no file"):
        load(tmp_path / "*.csv")
    with pytest.raises(DataError, match=r"~nouser/x.csv: there is no such user"):
        load("~nouser/x.csv")
    with pytest.raises(DataError, match=r"~nouser/x.csv: there is no such user"):
        list(stream_file("~nouser/x.csv", Data(train=Source(path="unused")), task_of("text"), lambda _origin, _reason: None))


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="a pattern there")
def test_what_is_no_pattern_is_told(tmp_path):
    with pytest.raises(DataError, match=r"this is no pattern\n  `\*\*` stands for folders and needs a part of the path for itself"):
        load(tmp_path / "**.csv")


def test_an_object_per_line_is_a_row_whatever_it_holds(tmp_path):
    rows = [{"text": "x", "id": "1"}, {"text": "y", "id": "2"}]
    assert texts(load(write(tmp_path / "one.json", rows[:1]))) == ["x"]
    with pytest.raises(DataError, match="the rows fit no shape that text can use"):
        load(write(tmp_path / "many.jsonl", [{"a": {"x": 1}, "b": {"y": 2}}] * 2))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "there is no row in it"),
        ("blank.csv", b"\n\n", "there is no row in it"),
        ("header.csv", b"text,label\n", "there is no row in it"),
        ("empty.txt", b"", "remove the file, or put rows into it"),
        ("header.tsv", b"text\tlabel\n", "remove the file, or put rows into it; the first line only names the columns"),
        ("rows.json", b"hello", "this is not JSON: it begins with neither [ nor {"),
        ("keyed.json", b'{"a1": {"text": "x"}, "a2": {"text": "y"}}', "this is one object of objects (`a1`, `a2`, …), not a list of rows"),
        ("keyed.jsonl", b'{\n"a1": {"text": "x"},\n"a2": {"text": "y"}}', "this is one object of objects (`a1`, `a2`, …)"),
        ("rows.jsonl", gzip.compress(b'{"text": "x"}\n'), "the file is packed with gzip"),
        ("rows.parquet", b"PAR1 but no more", "this Parquet file cannot be read"),
        ("rows.arrow", b"ARROW1 but no more", "this Arrow file cannot be read"),
        ("rows.jsonl", bytes(range(256)) * 9 + b"\0\1\2" * 99, "this is not text in UTF-8, UTF-16 or GB18030"),
        ("rows.xlsx", b"PK", "the ending `.xlsx` says nothing of how to read the file"),
        ("rows.csv", b"text,text\na,b\n", "two columns are both named `text`"),
    ],
)
def test_files_that_are_not_what_their_name_says(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    assert message in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_folder_with_several_tables_asks_which(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "labels.json", ROWS)
    with pytest.raises(DataError, match=r"the folder holds several tables: labels.json, train.jsonl"):
        load(tmp_path)
    for number in range(9):
        write(_folder(tmp_path / "many") / f"{'abcdefghi'[number]}.json", ROWS)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "many")
    folder = tmp_path / "many"
    assert str(caught.value) == (
        f"{folder}: the folder holds several tables: a.json, b.json, c.json, d.json, e.json, f.json, g.json, h.json and 1 more\n"
        f"  name one of them (path: {folder}/a.json), several ([{{path: ...}}, {{path: ...}}]), or a pattern ({folder}/*.json)"
    )
    for part in range(2):
        pq.write_table(pa.Table.from_pylist(ROWS[part : part + 1]), _folder(tmp_path / "parts") / f"train-0000{part}-of-00002.parquet")
    assert origins(classify(tmp_path / "parts")) == ["train-00000-of-00002.parquet:1", "train-00001-of-00002.parquet:1"]


def _folder(path):
    path.mkdir(exist_ok=True)
    return path
