# ruff: noqa: ARG005
"""The demo's data: every answer stands in its text, no two questions are alike, and the dirt is there."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from weitiao.cli.demonstrate import run_demo
from weitiao.demo import demo_recipe, is_whole, make_complaints, write_complaints
from weitiao.errors import CommandError

SYSTEM = (
    "将文本中的name、address、email、question提取出来，以json格式输出，字段为name、address、email、question，值为文本中提取出来的内容。"
)


@pytest.fixture(scope="module")
def rows():
    return make_complaints(800)


@pytest.fixture(scope="module")
def answers(rows):
    return [json.loads(row["output"]) for row in rows]


def test_rows_have_the_columns_and_the_system_wording(rows):
    assert len(rows) == 800
    assert {tuple(row) for row in rows} == {("id", "system", "instruction", "input", "output")}
    assert {row["system"] for row in rows} == {SYSTEM}
    assert {row["input"] for row in rows} == {""}
    assert len({row["id"] for row in rows}) == 800


def test_every_value_stands_in_its_text_to_the_letter(rows, answers):
    for row, answer in zip(rows, answers, strict=True):
        assert list(answer) == ["name", "address", "email", "question"]
        assert all(value in row["instruction"] for value in answer.values())
        assert answer["name"]
        assert answer["address"]
        assert len(answer["question"]) >= 8


def test_an_answer_is_json_on_one_line_with_chinese_left_readable(rows, answers):
    for row, answer in zip(rows, answers, strict=True):
        assert row["output"] == json.dumps(answer, ensure_ascii=False)
        assert "\\u" not in row["output"]
        assert "\n" not in row["output"]


@pytest.mark.parametrize("n", [800, 2000])
def test_no_two_questions_are_alike(n):
    questions = [json.loads(row["output"])["question"] for row in make_complaints(n)]
    assert len(set(questions)) == n
    assert most_alike(questions) <= 0.8


def most_alike(texts):
    """Largest 3-gram Jaccard similarity of any two texts, through an index of the grams they share."""
    grams = [{text[i : i + 3] for i in range(len(text) - 2)} for text in texts]
    holders, shared = defaultdict(list), defaultdict(int)
    for i, own in enumerate(grams):
        for gram in own:
            for j in holders[gram]:
                shared[j, i] += 1
            holders[gram].append(i)
    return max(n / len(grams[i] | grams[j]) for (i, j), n in shared.items())


def test_most_texts_are_of_the_length_that_was_meant(rows):
    lengths = [len(row["instruction"]) for row in rows]
    assert sum(60 <= length <= 140 for length in lengths) / 800 > 0.9
    assert max(lengths) <= 165


def test_an_email_that_is_missing_is_empty(rows, answers):
    without = [row for row, answer in zip(rows, answers, strict=True) if answer["email"] == ""]
    assert 0.06 < len(without) / 800 < 0.2
    assert not any("@" in row["instruction"].replace("@@@", "") or "＠" in row["instruction"] for row in without)


def test_of_two_emails_the_one_in_use_counts(rows, answers):
    two = [(row["instruction"], a["email"]) for row, a in zip(rows, answers, strict=True) if row["instruction"].count("example.") > 1]
    stopped = [(text, email) for text, email in two if "已停用，现用" in text]
    spare = [(text, email) for text, email in two if "备用" in text or "抄送" in text]
    assert len(stopped) >= 3
    assert len(spare) >= 3
    assert all(text.index(email) > text.index("已停用") for text, email in stopped)
    assert all(text.index(email) < text.index("备用" if "备用" in text else "抄送") for text, email in spare)


@pytest.mark.parametrize(
    ("dirt", "at_least"),
    [
        (lambda text, a: text.index(a["question"]) < text.index(a["name"]), 100),
        (lambda text, a: a["name"] + a["address"] + a["email"] + a["question"] in text, 30),
        (lambda text, a: "\n" in a["question"], 15),
        (lambda text, a: "＠" in a["email"], 15),
        (lambda text, a: any("０" <= c <= "９" for c in a["address"]), 20),
        (lambda text, a: text.endswith(("asdfgh", "发自我的iPhone", "@@@", "///", "[图片][图片]")), 30),
        (lambda text, a: "师傅再没出现" in a["question"] or "一直不露面" in a["question"] or "也在场" in a["question"], 20),
        (lambda text, a: a["question"][-1] not in "。！？~", 40),
    ],
    ids=[
        "question first",
        "nothing between",
        "line break",
        "full-width e-mail",
        "full-width postcode",
        "junk",
        "another person",
        "no end mark",
    ],
)
def test_the_dirt_of_real_life_is_there(rows, answers, dirt, at_least):
    assert sum(dirt(row["instruction"], answer) for row, answer in zip(rows, answers, strict=True)) >= at_least


def test_greetings_thanks_and_junk_are_no_part_of_the_question(answers):
    for answer in answers:
        assert not answer["question"].startswith(("您好", "你好", "尊敬的", "问题", "投诉内容", "【"))
        assert not answer["question"].endswith(("谢谢！", "敬礼", "iPhone", "】", "麻烦回复。"))


def test_a_seed_gives_the_same_rows_in_any_process(tmp_path):
    code = f"from weitiao.demo import write_complaints; from pathlib import Path; write_complaints(Path({str(tmp_path / 'b')!r}), 60, 7)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "99", "LC_ALL": "C"})
    write_complaints(tmp_path / "a", 60, 7)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert make_complaints(60, 8) != make_complaints(60, 7)


def test_more_rows_than_the_tables_give_are_refused():
    with pytest.raises(ValueError, match="between 1 and 3000"):
        make_complaints(3001)


def test_the_demo_folder_holds_data_and_a_recipe_that_loads(tmp_path):
    from weitiao.recipe import load_recipe

    path = demo_recipe(tmp_path / "new" / "demo")
    recipe = load_recipe(path)
    assert recipe.task.kind == "extraction"
    assert recipe.task.fields == ["name", "address", "email", "question"]
    assert recipe.model.path == "bundled:qwen2.5-coder-0.5b-instruct"
    assert len((tmp_path / "new" / "demo" / "complaints.jsonl").read_text("utf-8").splitlines()) == 800


@pytest.mark.parametrize(("quick", "n_train"), [(False, range(195, 210)), (True, range(48, 58))])
def test_either_slice_of_the_demo_holds_out_more_than_forty_rows(tmp_path, quick, n_train):
    from weitiao.data import load_samples
    from weitiao.recipe import load_recipe
    from weitiao.tasks import make_task

    recipe = load_recipe(demo_recipe(tmp_path, quick=quick))
    samples = load_samples(recipe.data, make_task(recipe.task, recipe.data.system), recipe.run.seed)
    assert len(samples.train) in n_train
    assert len(samples.test) > 40
    assert len(samples.valid) >= 5


@pytest.mark.parametrize("status", ["training", "finished"])
def test_the_whole_demo_does_not_go_on_with_a_short_one(tmp_path: Path, status: str) -> None:
    recipe = demo_recipe(tmp_path, quick=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_bytes(recipe.read_bytes())
    (tmp_path / "run" / "run.json").write_text(json.dumps({"status": status}), encoding="utf-8")
    with pytest.raises(CommandError, match=r"takes some 50 complaints[^$]*--whole --replace"):
        run_demo(tmp_path, replace=False, whole=True)


def test_a_recipe_says_which_demo_it_is(tmp_path: Path) -> None:
    for quick in (True, False):
        demo_recipe(tmp_path, quick=quick)
        assert is_whole(tmp_path) is not quick
