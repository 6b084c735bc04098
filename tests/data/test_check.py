"""What ``weitiao check`` and ``weitiao look`` show: lengths in tokens, image tokens, the worst row, and why there are none."""

import json

import pytest
from PIL import Image
from tests.data.rows import write

from weitiao.cli.show import histogram_lines, show_look, show_report
from weitiao.errors import Problems
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


def test_an_image_that_no_model_takes_is_listed(tmp_path, tiny_qwen2_vl):
    rows = image_rows(tmp_path)
    Image.effect_noise((3000, 10), 80).save(tmp_path / "3.png")
    with pytest.raises(Problems, match="more than 200 times as long as wide") as caught:
        check_recipe(recipe_of(tmp_path, "ocr", rows, tiny_qwen2_vl))
    assert "rows.jsonl:4" in str(caught.value)


def test_a_histogram_as_text():
    lines = histogram_lines("tokens per row", {"edges": [10, 500, 1000], "counts": [80, 2]})
    assert lines == ["tokens per row", f"     10 to   500  {'█' * 40} 80", "    500 to 1,000  █ 2"]
    assert histogram_lines("tokens per row", {}) == []
