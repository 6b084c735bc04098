"""Wrong labels that were planted among right ones come to the top of a trained model's suspects, with the place they came from."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from weitiao import pipeline
from weitiao.errors import RecipeError
from weitiao.recipe import load_recipe

N_ROWS, N_PLANTED = 150, 6
WORDS = {"体育": "the model answers", "财经": "垃圾堆积成山"}


def rows_with_wrong_labels() -> tuple[list[dict[str, Any]], set[str]]:
    chance = random.Random(3)
    rows, wrong = [], set()
    for i in range(N_ROWS):
        label = ("体育", "财经")[i % 2]
        other = ("财经", "体育")[i % 2]
        planted = i % (N_ROWS // N_PLANTED) == 7
        text = f"{i} {WORDS[label]} {chance.randrange(1000)}"
        rows.append({"id": f"row-{i}", "text": text, "category": ["体育", "财经"], "output": other if planted else label})
        wrong |= {f"row-{i}"} if planted else set()
    return rows, wrong


@pytest.fixture(scope="module")
def run(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suspects")
    rows, _ = rows_with_wrong_labels()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    content = {
        "task": {"kind": "classification"},
        "data": {"train": {"path": "rows.jsonl"}, "split": {"valid": 0.1, "test": 0.1}},
        "model": {"path": str(tiny_qwen2), "tuning": {"kind": "full"}},
        "train": {"num_train_epochs": 4, "learning_rate": 3e-3, "batch_rows": 8, "eval_steps": 20},
        "evaluate": {"n_bootstrap": 100},
        "track": {"kind": "none"},
        "export": [],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    pipeline.run_recipe(load_recipe(folder / "recipe.yaml"), folder / "run")
    return folder / "run"


def test_planted_labels_are_on_top_with_their_origin(run: Path) -> None:
    found = [json.loads(line) for line in (run / "suspects.jsonl").read_text(encoding="utf-8").splitlines()]
    _, wrong = rows_with_wrong_labels()
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    n_train = facts["suspects"]["n_train"]
    assert 90 < n_train < 140
    top = [row["id"] for row in found[: len(wrong & {row["id"] for row in found})]]
    assert len(top) >= N_PLANTED - 3, "some planted rows are test or validation rows"
    assert set(top) <= wrong
    first = found[0]
    assert first["origin"] == f"rows.jsonl:{int(first['id'].removeprefix('row-')) + 1}"
    assert {first["answer"], first["model_answer"]} == {"体育", "财经"}
    assert first["probability"] < 0.5 < first["loss"]
    assert facts["suspects"]["n_rows"] == n_train
    assert facts["suspects"]["out_of_time"] is False


def test_what_validation_took_is_in_the_runs_facts_and_on_its_page(run: Path) -> None:
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))["training"]
    assert 0 < facts["validation_seconds"] < facts["seconds"]
    assert facts["loss_last"] < facts["loss_first"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "% of training" in page
    assert "Training rows that look wrong" in page
    assert "rows.jsonl:8" in page


def test_parameters_are_listed_with_their_sizes(run: Path) -> None:
    groups = json.loads((run / "parameters.json").read_text(encoding="utf-8"))
    assert groups[0]["name"] == "model.embed_tokens.weight"
    assert groups[0]["shape"][1] == 32
    assert sum(group["n_parameters"] for group in groups) == json.loads((run / "run.json").read_text())["n_parameters"]
    query = next(group for group in groups if group["name"] == "model.layers.*.self_attn.q_proj.weight")
    assert query == {**query, "shape": [32, 32], "n_tensors": 2, "n_parameters": 2048, "n_trainable": 2048}


def test_without_test_rows_only_the_tuned_model_is_calibrated(run: Path, tmp_path: Path) -> None:
    assert (run / "baseline" / "calibration.json").exists()
    overrides = ["data.split={valid: 0.1, test: 0}", "train.num_train_epochs=1", f"data.train.path={run.parent / 'rows.jsonl'}"]
    pipeline.run_recipe(load_recipe(run.parent / "recipe.yaml", overrides), tmp_path / "run")
    assert not (tmp_path / "run" / "baseline" / "calibration.json").exists()
    assert (tmp_path / "run" / "tuned" / "calibration.json").exists()


def test_a_run_that_was_trained_to_its_end_is_not_trained_on(run: Path, tmp_path: Path) -> None:
    overrides = ["train.early_stopping_patience=1", "train.eval_steps=4", f"data.train.path={run.parent / 'rows.jsonl'}"]
    recipe = load_recipe(run.parent / "recipe.yaml", [*overrides, "train.learning_rate=1e-9"])
    pipeline.run_recipe(recipe, tmp_path / "run")
    before = {name: (tmp_path / "run" / name).read_text(encoding="utf-8") for name in ("events.jsonl", "evaluations.jsonl")}
    training = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["training"]
    assert training["n_steps"] == 8, "two evaluations, the second no better"
    pipeline.run_recipe(recipe, tmp_path / "run", "resume")
    after = {name: (tmp_path / "run" / name).read_text(encoding="utf-8") for name in before}
    assert (after["events.jsonl"], after["evaluations.jsonl"]) == (before["events.jsonl"], before["evaluations.jsonl"])
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["training"] == training


def test_a_metric_that_the_task_does_not_have_is_told_before_anything_is_loaded(run: Path, tmp_path: Path) -> None:
    data = f"data.train.path={run.parent / 'rows.jsonl'}"
    for more in ([], ["data.split={valid: 0.1, test: 0}"]):
        recipe = load_recipe(run.parent / "recipe.yaml", [data, "evaluate.select_by=acuracy", "model.path=/no/such/model", *more])
        with pytest.raises(RecipeError, match=r"evaluate.select_by: the task has no metric `acuracy`") as caught:
            pipeline.run_recipe(recipe, tmp_path / f"run{len(more)}")
        assert caught.value.hint.startswith("choose one of accuracy, macro_f1")
