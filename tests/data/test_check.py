"""What ``weitiao check`` and ``weitiao look`` show: lengths in tokens, image tokens, the worst row, and why there are none."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.data.rows import write

from weitiao.cli.preview import check, look
from weitiao.cli.show import balance_lines, histogram_lines, show_look, show_report
from weitiao.data import propose_recipe
from weitiao.errors import DataError, RecipeError
from weitiao.preview import check_recipe, look_at
from weitiao.recipe import load_recipe

NOTHING_SET_ASIDE = {"valid": 0, "test": 0}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WEITIAO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def recipe_of(folder, kind, rows, model, **sections):
    write(folder / "rows.jsonl", rows)
    sections = {"data": {"train": {"path": "rows.jsonl"}, "split": NOTHING_SET_ASIDE}, "task": {"kind": kind}, **sections}
    (folder / "recipe.yaml").write_text(json.dumps({**sections, "model": {"path": str(model)}}), encoding="utf-8")
    return load_recipe(folder / "recipe.yaml")


def labelled(n_long):
    rows = [{"text": f"第{i}天停车难", "label": "ab"[i % 2]} for i in range(40)]
    return rows + [{"text": f"{i} " + "小区垃圾堆积成山，" * 300, "label": "a"} for i in range(n_long)]


def test_rows_that_are_cut_are_counted_before_a_run(tmp_path, tiny_qwen2, capsys):
    report = check_recipe(recipe_of(tmp_path, "classification", labelled(2), tiny_qwen2, encode={"max_tokens": 256}))
    said = {finding.code: finding for finding in report.findings}
    assert said["shortened-rows"].severity == "warning"
    assert said["shortened-rows"].message == "2 of 42 training rows are shortened in the user's text to fit encode.max_tokens 256"
    assert said["shortened-rows"].origins == ("rows.jsonl:41", "rows.jsonl:42")
    assert said["shortened-rows"].hint.startswith("the longest has ")
    assert said["longest-row"].origins[0] in ("rows.jsonl:41", "rows.jsonl:42")
    assert sum(report.tokens["histogram"]["counts"]) == 42
    assert report.tokens["shortened"] == 2
    show_report(report)
    shown = capsys.readouterr().err
    assert "2 of 42 training rows are shortened" in shown
    assert "tokens per row\n" in shown


def test_rows_that_fit_in_no_way_are_an_error_of_the_check(tmp_path, tiny_qwen2):
    rows = [{"instruction": f"第{i}天", "output": "noise " * (400 if i == 3 else 1)} for i in range(20)]
    report = check_recipe(recipe_of(tmp_path, "chat", rows, tiny_qwen2, encode={"max_tokens": 160}))
    finding = report.findings[0]
    assert (finding.code, finding.severity, finding.count, finding.origins) == ("too-long-rows", "error", 1, ("rows.jsonl:4",))
    assert finding.hint == "raise encode.max_tokens"


@pytest.mark.parametrize("model", ["lab/not-there", "/no/such/folder"])
def test_without_the_model_the_data_is_checked_all_the_same(tmp_path, model, capsys):
    report = check_recipe(recipe_of(tmp_path, "classification", labelled(0), model))
    assert report.n_kept == 40
    assert model in report.tokens["not_counted"]
    show_report(report)
    assert f"token lengths were not counted: {model}: " in capsys.readouterr().err


def image_rows(folder):
    sizes = [(56, 56), (280, 56), (1120, 840), (60, 40)]
    for number, size in enumerate(sizes):
        Image.effect_noise(size, 80).save(folder / f"{number}.png")
    return [{"image": f"{number}.png", "text": f"x^{number}"} for number in range(len(sizes))]


def test_image_tokens_are_counted_from_the_sizes_and_the_worst_row_is_named(tmp_path, tiny_qwen2_vl, capsys):
    recipe = recipe_of(tmp_path, "ocr", image_rows(tmp_path), tiny_qwen2_vl, chat={"images": {"max_pixels": 313_600}})
    report = check_recipe(recipe)
    finding = next(finding for finding in report.findings if finding.code == "image-tokens")
    # 1120 x 840 goes down to 644 x 476 pixels of at most 313,600: 23 x 17 tokens of 28 x 28.
    assert (finding.count, finding.origins) == (1, ("rows.jsonl:3",))
    assert finding.message == "images take up to 391 tokens of a row; of half of the rows with images at most 13"
    assert report.tokens["image_histogram"]["max"] == 391
    assert sum(report.tokens["image_histogram"]["counts"]) == 4
    show_look(look_at(recipe, 3), with_ids=False)
    assert "2.png: 644 x 476 pixels in the model, 391 tokens" in capsys.readouterr().err


def test_rows_that_cannot_be_used_are_an_error_beside_all_that_was_found(tmp_path, tiny_qwen2_vl, capsys):
    rows = image_rows(tmp_path)
    Image.effect_noise((3000, 10), 80).save(tmp_path / "3.png")
    recipe_of(tmp_path, "ocr", rows, tiny_qwen2_vl)
    assert check(tmp_path / "recipe.yaml") == 2
    shown = capsys.readouterr().err
    assert "  rejected 1: the image is more than … times as long as wide (rows.jsonl:4: the image is more than 200 times" in shown
    assert "error   1 of 4 rows cannot be used (25.0%); 1.0% may be left out (rows.jsonl:4)\n" in shown
    assert "         mend them, or allow it: data.allow_dropped: 0.25\n" in shown
    assert "images take up to " in shown
    assert shown.endswith("errors: 1; a run would stop here\n")
    assert check(tmp_path / "recipe.yaml", ["data.allow_dropped=0.25"]) == 0


def test_data_alone_is_checked_with_the_recipe_that_init_would_write(tmp_path, monkeypatch, capsys, tiny_qwen2):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mails.jsonl", [{"body": f"第{i}天停车难", "topic": "ab"[i % 2], "label": "ab"[i % 2]} for i in range(40)])
    assert check(Path("mails.jsonl"), [f"model.path={tiny_qwen2}"]) == 0
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("labelled-text (text from `body`, label): classification (a text in, one of a set of labels out); 40 rows")
    assert last == "no errors; next: `weitiao init mails.jsonl` writes the recipe"
    look(Path("mails.jsonl"), [f"model.path={tiny_qwen2}"], n=1)
    assert "mails.jsonl:1: " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "mails.jsonl"]


def test_data_of_one_unknown_column_is_checked_with_a_proposed_mapping(tmp_path, capsys):
    write(tmp_path / "rows.jsonl", [{"latex": f"x^{i} + y^{i} + z^{i} = {i} \\alpha + \\beta"} for i in range(20)])
    assert check(tmp_path / "rows.jsonl", ["model.path=/no/such"]) == 0
    assert "shape: text (text from `latex`)\n20 rows read, 20 kept" in capsys.readouterr().err


def test_what_is_no_data_is_told_as_it_is(tmp_path):
    with pytest.raises(RecipeError, match="no such recipe"):
        check(tmp_path / "recipe.yaml")
    write(tmp_path / "mails.jsonl", [{"text": "x", "label": "a"}])
    with pytest.raises(DataError, match=r"there is no such file or folder\n  did you mean .*mails.jsonl"):
        check(tmp_path / "mail.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        pytest.param(
            "rows.json",
            '{\n "text": "x",\n "label": "a"\n}\n',
            "none of the first rows can be read\n"
            "  rows.json:1: not JSON: Expecting property name enclosed in double quotes at character 2\n"
            "  rows.json:2: not JSON: Extra data at character 8\n"
            "  rows.json:3: not JSON: Extra data at character 9",
            id="one object over several lines",
        ),
        pytest.param(
            "rows.csv",
            "text,label\n",
            "there is no row in it\n  remove the file, or put rows into it; the first line only names the columns",
            id="names of columns alone",
        ),
        pytest.param(
            "rows.json",
            '{"a1": {"text": "x", "label": "a"}, "a2": {"text": "y", "label": "b"}}',
            "this is one object of objects (`a1`, `a2`, …), not a list of rows\n"
            '  write it as a list, [{"id": "…", …}, …], or one row per line, with what names a row inside it',
            id="rows under their ids",
        ),
    ],
)
def test_data_of_which_nothing_can_be_read_says_why(tmp_path, name, content, said):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        propose_recipe(str(tmp_path / name), None)
    assert str(caught.value) == f"{tmp_path / name}: {said}"


def test_the_recipe_of_photos_leaves_room_for_their_tokens(tmp_path, tiny_qwen2_vl):
    for number in range(12):
        Image.effect_noise((1024, 768), 80).save(tmp_path / f"{number}.png")
    write(tmp_path / "rows.jsonl", [{"image": f"{number}.png", "captions": ["a dog", "a cat"]} for number in range(12)])
    (tmp_path / "recipe.yaml").write_text(propose_recipe(str(tmp_path / "rows.jsonl"), None).text, encoding="utf-8")
    report = check_recipe(load_recipe(tmp_path / "recipe.yaml", [f"model.path={tiny_qwen2_vl}"]))
    assert [finding.code for finding in report.findings if finding.severity == "error"] == []
    assert report.tokens["dropped"] == {}


def test_findings_of_single_rows_say_how_many_there_are(tmp_path):
    rows = [
        {"text": f"{name}，a@b.cn", "answer": json.dumps({"name": name, "email": "z@b.cn"})}
        for name in ("龙琳", "王芳\ufffd", "李明\ufffd")
    ]
    task = {"kind": "extraction", "fields": ["name", "email"]}
    report = check_recipe(recipe_of(tmp_path, "extraction", rows, "/no/such", task=task))
    said = {finding.code: finding.message for finding in report.findings}
    assert said["lost-characters"] == "2 rows: holds U+FFFD: characters were lost when the file was decoded"
    assert said["value-not-in-text"] == "3 rows: email: 'z@b.cn' does not stand in the text"
    rows[0]["answer"] = json.dumps({"name": "龙琳", "email": "y@b.cn"})
    report = check_recipe(recipe_of(tmp_path, "extraction", rows, "/no/such", task=task))
    said = {finding.code: finding.message for finding in report.findings}
    assert said["value-not-in-text"] == "3 rows, such as: email: 'y@b.cn' does not stand in the text"


def test_a_list_of_names_is_hardly_a_set_of_documents(tmp_path):
    recipe = recipe_of(tmp_path, "text", [{"text": f"类别{i}"} for i in range(20)], "/no/such")
    finding = next(finding for finding in check_recipe(recipe).findings if finding.code == "short-documents")
    assert (finding.severity, finding.count, finding.message) == ("note", 20, "half of the documents have at most 4 characters")
    write(tmp_path / "rows.jsonl", [{"text": f"第{i}篇：" + "小区垃圾堆积成山，晚上噪音扰人清梦。" * 3} for i in range(20)])
    assert "short-documents" not in [finding.code for finding in check_recipe(recipe).findings]


def test_labels_and_entities_are_shown_with_their_numbers():
    labels = {"a": {"train": 3, "valid": 0, "test": 1}, "b": {"train": 5, "valid": 1, "test": 1}}
    entities = {"rows_without": 1200, "by_type": {"LOC": 30, "PER": 20}}
    assert balance_lines({"labels": labels, "entities": entities}) == [
        "2 labels: b 7, a 4",
        "entities: LOC 30, PER 20; rows without any: 1,200",
    ]
    many = {f"l{i}": {"train": 100 - i} for i in range(20)}
    assert balance_lines({"labels": many}) == [
        "20 labels: l0 100, l1 99, l2 98, l3 97, l4 96, l5 95, l6 94, l7 93, l8 92, l9 91, …, l19 81"
    ]
    assert balance_lines({}) == []


def test_a_histogram_as_text():
    lines = histogram_lines("tokens per row", {"edges": [10, 500, 1000], "counts": [80, 2]})
    assert lines == ["tokens per row", f"     10 to   500  {'█' * 40} 80", "    500 to 1,000  █ 2"]
    assert histogram_lines("tokens per row", {}) == []
    assert histogram_lines("tokens per row", {"edges": [10, 500, 1000], "counts": [1, 2], "min": 10, "max": 1000}) == [
        "tokens per row: 10 to 1,000"
    ]
