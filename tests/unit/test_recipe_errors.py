"""What is said of a recipe that is wrong: every problem, with its line, and the nearest name."""

from pathlib import Path

import pytest

from weitiao.errors import RecipeError
from weitiao.recipe import all_settings, load_recipe, nearest_name
from weitiao.recipe.known import NAMES_ELSEWHERE

GOOD = """\
task:  {kind: extraction, fields: [name, email]}
data:
  train: {path: rows.jsonl}
model:
  path: Qwen/Qwen3-0.6B
  tuning:
    kind: lora
    r: 8
train:
  learning_rate: 1e-4
"""


def message_for(tmp_path: Path, text: str, *overrides: str) -> str:
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "r.yaml", overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("written", "instead_of", "message"),
    [
        pytest.param(
            "lerning_rate: 1e-4",
            "learning_rate: 1e-4",
            "r.yaml:10: unknown key `lerning_rate` in `train`\n  did you mean `learning_rate`?",
            id="misspelt key",
        ),
        pytest.param(
            "max_tokens: 512",
            "learning_rate: 1e-4",
            "r.yaml:10: unknown key `max_tokens` in `train`\n  it belongs here: encode.max_tokens",
            id="key of another section",
        ),
        pytest.param(
            "batch_size: 4",
            "learning_rate: 1e-4",
            "r.yaml:10: unknown key `batch_size` in `train`\n  it is called train.batch_rows here",
            id="name that other tools use",
        ),
        pytest.param(
            "lora_r: 4",
            "r: 8",
            "r.yaml:8: unknown key `lora_r` in `model.tuning`\n  it is called model.tuning.r here",
            id="name that other tools use in a variant",
        ),
        pytest.param(
            "1: 4",
            "learning_rate: 1e-4",
            "r.yaml:10: the key `1` in `train` is no text\n"
            "  put it in quotes: YAML reads bare numbers, dates, yes, no, on, off and null as something else than text",
            id="number as a key",
        ),
        pytest.param(
            "fields: {1: {type: date}}",
            "fields: [name, email]",
            "r.yaml:1: the key `1` in `task.fields` is no text\n"
            "  put it in quotes: YAML reads bare numbers, dates, yes, no, on, off and null as something else than text",
            id="number as a name",
        ),
        pytest.param(
            "{path: 2024-30-01}",
            "{path: rows.jsonl}",
            "r.yaml:3: `2024-30-01` looks like a date or a number and is none (month must be in 1..12)\n  put it in quotes",
            id="date that is none",
        ),
        pytest.param(
            "kind: lorra", "kind: lora", "r.yaml:7: `model.tuning.kind` is `lorra`, which is not known\n  did you mean `lora`?", id="kind"
        ),
        pytest.param("r: eight", "r: 8", "r.yaml:8: `model.tuning.r` is `eight`, and should be a whole number", id="type"),
        pytest.param("r: 0", "r: 8", "r.yaml:8: `model.tuning.r` is `0`, and should be greater than or equal to 1", id="bound"),
        pytest.param(
            "rows.jsonl", "{path: rows.jsonl}", "r.yaml:3: `data.train` is `rows.jsonl`, and should be a mapping or a list", id="union"
        ),
    ],
)
def test_wrong_value(tmp_path, written, instead_of, message):
    assert message_for(tmp_path, GOOD.replace(instead_of, written)) == message


def test_a_misspelt_section(tmp_path):
    assert message_for(tmp_path, GOOD.replace("train:\n", "trian:\n")) == "r.yaml:9: unknown key `trian`\n  did you mean `train`?"


def test_text_that_yaml_reads_as_something_else(tmp_path):
    text = message_for(tmp_path, GOOD.replace("rows.jsonl", "2024"))
    assert text.startswith("r.yaml:3: `data.train.path` is `2024`, and should be text\n  put it in quotes")


def test_all_problems_are_named_in_the_order_of_the_file(tmp_path):
    text = GOOD.replace("fields", "feilds").replace("{path: rows.jsonl}", "{pth: rows.jsonl}").replace("r: 8", "r: x")
    lines = message_for(tmp_path, text).splitlines()
    assert lines[0] == "r.yaml: 5 things are wrong"
    assert [line.strip().split(": ")[0] for line in lines if "r.yaml:" in line[2:]] == [
        "r.yaml:1",
        "r.yaml:1",
        "r.yaml:3",
        "r.yaml:3",
        "r.yaml:8",
    ]


def test_missing_sections(tmp_path):
    text = message_for(tmp_path, "model: {path: x/y}\n")
    assert "`task` is missing" in text
    assert "`data` is missing" in text


def test_missing_kind_lists_the_kinds(tmp_path):
    text = message_for(tmp_path, GOOD.replace("kind: extraction, ", ""))
    assert text.startswith("r.yaml:1: `task.kind` is missing\n  one of: extraction, classification, ner, ocr, caption, chat, text")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "r.yaml: the file is empty", id="empty"),
        pytest.param("# only a comment\n", "r.yaml: the file is empty", id="comment"),
        pytest.param("- a\n- b\n", "r.yaml:1: a recipe is a mapping of keys to values, and this file holds a list", id="list"),
        pytest.param("hello\n", "r.yaml:1: a recipe is a mapping of keys to values, and this file holds a single value", id="scalar"),
        pytest.param("task:\n\tkind: ner\n", "r.yaml:2: a tab stands where YAML wants blanks", id="tab"),
        pytest.param("task: {kind: ner\ndata: {\n", "r.yaml:2: this is not YAML", id="open brace"),
        pytest.param("train:\n  r: 1\n  r: 2\n", "r.yaml:3: the key `r` stands twice, first in line 2", id="duplicate"),
        pytest.param("a: 1\nb: &x [*x]\n", "r.yaml:2: a YAML alias refers to what it stands in", id="alias of itself"),
        pytest.param("a: !!python/object:os.system {}\n", "r.yaml:1: this is not YAML", id="python object"),
    ],
)
def test_broken_file(tmp_path, text, message):
    assert message_for(tmp_path, text).startswith(message)


def test_bytes_that_are_not_utf8(tmp_path):
    (tmp_path / "r.yaml").write_bytes("task: 提取".encode("gb18030"))
    with pytest.raises(RecipeError, match="not text in UTF-8"):
        load_recipe(tmp_path / "r.yaml")


def test_a_folder_instead_of_a_file(tmp_path):
    (tmp_path / "recipe.yaml").write_text(GOOD, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param(
            "train.learning_rat=1",
            "override train.learning_rat=1: unknown key `learning_rat` in `train`\n  did you mean `learning_rate`?",
            id="key",
        ),
        pytest.param(
            "learning_rate=1",
            "override learning_rate=1: unknown key `learning_rate`\n  it belongs here: train.learning_rate",
            id="without section",
        ),
        pytest.param(
            "train.learning_rate",
            "override train.learning_rate: this is not `key=value`\n  an override looks like this: train.learning_rate=1e-4",
            id="no equals sign",
        ),
        pytest.param(
            "model.tuning.kind=full",
            "override model.tuning.kind=full: `r` of `model.tuning` belongs to kind lora, not to full\n"
            "  replace the whole section: model.tuning={kind: full}",
            id="kind whose keys are left over",
        ),
        pytest.param(
            "export.3.kind=adapter",
            "override export.3.kind=adapter: `export` has 1 items, counted from 0\n  replace the whole list: export=[...]",
            id="position",
        ),
        pytest.param(
            "train.learning_rate.x=1",
            "override train.learning_rate.x=1: `train.learning_rate` is the value '1e-4' and has no `x`\n  write train.learning_rate=VALUE",
            id="through a value",
        ),
        pytest.param(
            "task.fields.first=a",
            "override task.fields.first=a: `task.fields` is a list\n  name the item by its position: task.fields.0.first=VALUE",
            id="name in a list",
        ),
        pytest.param("train=null", "override train=null: `train` is empty, and should be a mapping of keys to values", id="empty section"),
    ],
)
def test_wrong_override(tmp_path, override, message):
    assert message_for(tmp_path, GOOD, override) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("batch_size=4", "unknown key `batch_size`\n  it is called train.batch_rows here", id="name that other tools use"),
        pytest.param(
            "evaluate.max_length=64",
            "unknown key `max_length` in `evaluate`\n  it is called evaluate.max_new_tokens here",
            id="name of another section",
        ),
        pytest.param(
            "data.delimiter=\\t",
            "`data.delimiter` is `\\t`, and should be at most 1 character long\n"
            "  YAML reads it as one character where it stands in double quotes: 'data.delimiter=\"\\t\"'",
            id="two characters",
        ),
        pytest.param(
            "chat.images.size=280",
            "`chat.images.size` is `280`, and should be a list\n"
            "  One size for all, ``[height, width]`` in pixels, whatever their proportions; multiples of 28 (Qwen3-VL: 32).",
            id="one number of two",
        ),
        pytest.param("data.train=[]", "`data.train` is an empty list, and should be at least 1 long", id="no source"),
        pytest.param(
            "track.experiment=2024-30-01",
            "the value looks like a date or a number and is none (month must be in 1..12)\n"
            "  put it in quotes, and these in the shell's: 'track.experiment=\"2024-30-01\"'",
            id="date that is none",
        ),
        pytest.param(
            "data.train.path=~nouser/x",
            "`~nouser/x`: there is no such user\n  a path that begins with ~NAME is in that user's home folder; write the whole path",
            id="user that is none",
        ),
    ],
)
def test_override_that_many_write(tmp_path, override, message):
    assert message_for(tmp_path, GOOD, override) == f"override {override}: {message}"


def test_names_of_other_tools_lead_to_settings():
    names = {setting.name for setting in all_settings()}
    assert {here for section in NAMES_ELSEWHERE.values() for here in section.values()} <= names


def test_an_open_brace_in_an_override(tmp_path):
    assert "open bracket or quote" in message_for(tmp_path, GOOD, "model.tuning={kind: full")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        pytest.param(["data.test={path: t.csv}", "data.split.test=0.3"], "data.split.test", id="share beside a source"),
        pytest.param(["train.lr_scheduler_type=constant", "train.warmup_ratio=0.1"], "train.warmup_ratio", id="warm-up of a constant rate"),
        pytest.param(["data.train.subset=zh"], "data.train.subset", id="subset of a file"),
        pytest.param(["data.test={path: t.csv, weight: 2}"], "data.test.weight", id="weight of test rows"),
        pytest.param(["data.split.valid=0", "train.early_stopping_patience=2"], "train.early_stopping_patience", id="no validation rows"),
        pytest.param(["model.path=bundled:x", "model.revision=main"], "model.revision", id="revision of bundled weights"),
    ],
)
def test_a_setting_without_effect(tmp_path, overrides, name):
    text = message_for(tmp_path, GOOD, *overrides)
    assert f"`{name}` has no effect: " in text
    assert text.startswith("override ")


def test_an_adapter_of_full_tuning_cannot_be_exported(tmp_path):
    text = message_for(tmp_path, GOOD, "model.tuning={kind: full}", "export=[{kind: adapter}]")
    assert "there is no adapter to export" in text


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("lerning_rate", "learning_rate"), ("Learning-Rate", "learning_rate"), ("batchtokens", "batch_tokens"), ("zzz", None)],
)
def test_nearest_name(name, nearest):
    assert nearest_name(name, ["learning_rate", "batch_tokens"]) == nearest
