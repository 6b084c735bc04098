"""Reading recipes: values, overrides, paths, and what is written back."""

from pathlib import Path

import pytest
import yaml

from weitiao.errors import RecipeError
from weitiao.recipe import load_recipe, recipe_yaml

MINIMAL = """\
task:  {kind: extraction, fields: [name, email]}
data:
  train: {path: rows.jsonl}
model:
  path: Qwen/Qwen3-0.6B
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "complaints.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def test_defaults_fill_what_is_not_written(recipe_file):
    recipe = load_recipe(recipe_file)
    assert recipe.task.kind == "extraction"
    assert recipe.model.tuning.kind == "lora"
    assert recipe.train.learning_rate == 1e-4
    assert [export.kind for export in recipe.export] == ["merged"]


def test_yaml_scientific_notation_is_a_number(recipe_file):
    recipe_file.write_text(MINIMAL + "train: {learning_rate: 2e-4}\n", encoding="utf-8")
    assert yaml.safe_load("2e-4") == "2e-4"
    assert load_recipe(recipe_file).train.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        pytest.param("train.learning_rate=3e-5", lambda r: r.train.learning_rate, 3e-5, id="number"),
        pytest.param("data.limit=1000", lambda r: r.data.limit, 1000, id="unwritten setting"),
        pytest.param("data.system=提取 name", lambda r: r.data.system, "提取 name", id="text"),
        pytest.param("data.system='a: b'", lambda r: r.data.system, "a: b", id="quoted text"),
        pytest.param("model.tuning={kind: full}", lambda r: r.model.tuning.kind, "full", id="whole section"),
        pytest.param(
            "model.tuning.r=16", lambda r: (r.model.tuning.kind, r.model.tuning.r), ("lora", 16), id="inside an unwritten variant"
        ),
        pytest.param("track.kind=none", lambda r: r.track.kind, "none", id="kind of an unwritten variant"),
        pytest.param("export.0.kind=adapter", lambda r: [e.kind for e in r.export], ["adapter"], id="position in an unwritten list"),
        pytest.param("export=[{kind: adapter}, {kind: merged}]", lambda r: len(r.export), 2, id="list"),
        pytest.param("task.fields.1=phone", lambda r: r.task.fields, ["name", "phone"], id="position in a list"),
        pytest.param("data.columns.text=body", lambda r: r.data.columns, {"text": "body"}, id="mapping"),
        pytest.param(
            "data.columns={tokens: chars, tags: bio_seq}", lambda r: r.data.columns, {"tokens": "chars", "tags": "bio_seq"}, id="tags"
        ),
        pytest.param("run.seed=7", lambda r: r.run.seed, 7, id="unwritten section"),
    ],
)
def test_override(recipe_file, override, read, value):
    assert read(load_recipe(recipe_file, [override])) == value


def test_later_overrides_win(recipe_file):
    recipe = load_recipe(recipe_file, ["model.tuning.r=4", "model.tuning.r=32", "model.tuning.lora_alpha=64"])
    assert (recipe.model.tuning.r, recipe.model.tuning.lora_alpha) == (32, 64)


def test_data_starts_at_the_recipes_folder_then_the_working_folder(recipe_file, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_recipe(recipe_file).data.train.path == str(tmp_path / "rows.jsonl")
    (elsewhere / "rows.jsonl").write_text("", encoding="utf-8")
    assert load_recipe(recipe_file).data.train.path == str(elsewhere / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text("", encoding="utf-8")
    assert load_recipe(recipe_file).data.train.path == str(tmp_path / "rows.jsonl")


def test_an_overridden_path_starts_at_the_working_folder(recipe_file, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for folder in (tmp_path, elsewhere):
        (folder / "mine.jsonl").write_text("", encoding="utf-8")
    assert load_recipe(recipe_file, ["data.train.path=mine.jsonl"]).data.train.path == str(elsewhere / "mine.jsonl")


@pytest.mark.parametrize("name", ["hub:OWNER/NAME", "/somewhere/rows.csv"])
def test_hub_and_absolute_paths_stay(recipe_file, name):
    assert load_recipe(recipe_file, [f"data.train.path={name}"]).data.train.path == name


def test_globs_and_lists_of_sources_become_absolute(recipe_file, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "part1.csv").write_text("", encoding="utf-8")
    recipe_file.write_text(MINIMAL.replace("{path: rows.jsonl}", "[{path: part*.csv}, {path: b.csv, weight: 2}]"), encoding="utf-8")
    assert [source.path for source in load_recipe(recipe_file).data.train] == [str(tmp_path / "part*.csv"), str(tmp_path / "b.csv")]


def test_what_is_no_pattern_is_left_to_whoever_reads_the_data(recipe_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(recipe_file, ["data.train.path=data/**.csv"]).data.train.path == str(tmp_path / "data/**.csv")


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "bundled:smollm2-135m-instruct", "gpt2"])
def test_model_names_stay(recipe_file, name):
    assert load_recipe(recipe_file, [f"model.path={name}"]).model.path == name


def test_a_model_folder_and_a_gguf_file_become_absolute(recipe_file, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "tiny").mkdir()
    for written in ("tiny", "weights.gguf", "./somewhere/model"):
        recipe_file.write_text(MINIMAL.replace("Qwen/Qwen3-0.6B", written), encoding="utf-8")
        assert load_recipe(recipe_file).model.path == str(tmp_path / written)


def test_environment_variables_are_not_expanded(recipe_file, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", "/secret")
    monkeypatch.chdir(tmp_path)
    assert load_recipe(recipe_file, ["data.train.path=$DATA/x.csv"]).data.train.path == str(tmp_path / "$DATA/x.csv")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data.test={path: held-out.csv}", "data.split.valid=0.2"],
        ["data.valid={path: v.csv}", "data.test={path: 'hub:a/b', subset: zh, split: test}"],
        ["train.lr_scheduler_type=constant", "model.tuning={kind: full}", "data.split.valid=0"],
        ["data.system=第一行\n第二行: 提取", "export=[]", "track={kind: none}", "task.fields={a: {type: enum, values: [x, y]}}"],
    ],
)
def test_yaml_reads_back_as_the_same_recipe(recipe_file, tmp_path, overrides):
    recipe = load_recipe(recipe_file, overrides)
    copy = tmp_path / "run" / "recipe.yaml"
    copy.parent.mkdir()
    copy.write_text(recipe_yaml(recipe), encoding="utf-8")
    assert load_recipe(copy) == recipe
    assert recipe_yaml(load_recipe(copy)) == recipe_yaml(recipe)


def test_a_recipe_cannot_be_written_into(recipe_file):
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(recipe_file).train.learning_rate = 1  # type: ignore[misc]


def test_anchors_and_merge_keys_work(recipe_file):
    recipe_file.write_text(
        MINIMAL.replace("{path: rows.jsonl}", "[&first {path: a.csv, weight: 2}, {<<: *first, path: b.csv}]"), encoding="utf-8"
    )
    assert [source.weight for source in load_recipe(recipe_file).data.train] == [2, 2]


def test_a_byte_order_mark_is_read_over(recipe_file):
    recipe_file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_recipe(recipe_file).model.path == "Qwen/Qwen3-0.6B"


def test_loading_does_not_change_the_file(recipe_file):
    load_recipe(recipe_file, ["train.learning_rate=1e-5"])
    assert recipe_file.read_text(encoding="utf-8") == MINIMAL


def test_a_missing_recipe_names_those_nearby(recipe_file):
    with pytest.raises(RecipeError, match="no such recipe") as caught:
        load_recipe(recipe_file.with_name("complaint.yaml"))
    assert "complaints.yaml" in caught.value.hint
