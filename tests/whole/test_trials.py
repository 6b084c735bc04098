"""Sweeps, comparisons and training again, through the real command on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.command import weitiao

from weitiao import finished, pipeline, records, runs
from weitiao.demo import write_complaints
from weitiao.errors import CommandError, DataError
from weitiao.recipe import load_recipe
from weitiao.sweep import run_sweep, trials_of


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recipe(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trials")
    write_complaints(folder / "complaints.jsonl", 40, 1)
    content = {
        "task": {"kind": "extraction", "fields": ["name", "address", "email", "question"]},
        "data": {"train": {"path": "complaints.jsonl"}, "split": {"valid": 0.2, "test": 0.25}},
        "model": {"path": str(tiny_qwen2)},
        "train": {"num_train_epochs": 1, "batch_rows": 8},
        "evaluate": {"max_new_tokens": 16, "n_valid": 4, "n_bootstrap": 200},
        "track": {"kind": "none"},
        "export": [{"kind": "adapter"}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def sweep(recipe: Path) -> Path:
    folder = recipe.parent / "sweep"
    done = weitiao("run", recipe, "--sweep", "train.learning_rate=1e-5,1e-3", "model.tuning.r=4", "-o", folder)
    assert "winner: trial-" in done.stderr
    return folder


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["a=1,2"], [("a=1",), ("a=2",)]),
        (["a=1,2", "b=x"], [("a=1", "b=x"), ("a=2", "b=x")]),
        (["a=1,2", "b=3,4"], [("a=1", "b=3"), ("a=1", "b=4"), ("a=2", "b=3"), ("a=2", "b=4")]),
        (["a=[q_proj, v_proj],all"], [("a=[q_proj, v_proj]",), ("a=all",)]),
        (["a='x,y',z"], [("a='x,y'",), ("a=z",)]),
    ],
)
def test_values_are_combined(overrides: list[str], expected: list[tuple[str, ...]]) -> None:
    assert trials_of(overrides) == expected


@pytest.mark.parametrize("overrides", [[], ["a=1"], ["a=[1, 2]"], ["a"]])
def test_a_sweep_over_nothing_is_refused(overrides: list[str]) -> None:
    with pytest.raises(CommandError):
        trials_of(overrides)


def test_only_the_winner_meets_the_test_rows(sweep: Path) -> None:
    summary = read(sweep / "sweep.json")
    trials = {trial["name"]: trial for trial in summary["trials"]}
    assert [trial["overrides"] for trial in trials.values()] == [
        ["train.learning_rate=1e-5", "model.tuning.r=4"],
        ["train.learning_rate=1e-3", "model.tuning.r=4"],
    ]
    assert summary["metric"] == "field_f1"
    assert trials[summary["winner"]]["value"] == max(trial["value"] for trial in trials.values())
    assert {name for name in trials if (sweep / name / "tuned").exists()} == {summary["winner"]}
    assert read(sweep / summary["winner"] / "scores.json")["tuned"]["n"] == 11
    loser = next(name for name in trials if name != summary["winner"])
    assert read(sweep / loser / "run.json")["status"] == "finished"
    assert not (sweep / loser / "baseline").exists()


def test_a_sweep_goes_on_without_training_finished_trials_again(sweep: Path, recipe: Path) -> None:
    weights = {path: path.stat().st_mtime_ns for path in sweep.glob("trial-*/best/adapter_model.safetensors")}
    words = ("run", recipe, "--sweep", "train.learning_rate=1e-5,1e-3", "model.tuning.r=4", "-o", sweep)
    assert "--resume" in weitiao(*words, code=2).stderr
    weitiao(*words, "--resume")
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert len(weights) == 2


def test_a_sweep_does_not_go_on_with_trials_of_other_values(sweep: Path, recipe: Path) -> None:
    before = read(sweep / "sweep.json")
    done = weitiao("run", recipe, "--sweep", "train.learning_rate=1e-5,5e-2", "model.tuning.r=4", "-o", sweep, "--resume", code=2)
    shown = " ".join(done.stderr.split())
    assert "trial-2: the recipe has changed since this run was started" in shown
    assert "train.learning_rate: was 0.001, now 0.05" in shown
    assert "-o FOLDER" in shown
    assert "--replace" in shown
    assert read(sweep / "sweep.json") == before


@pytest.mark.parametrize(
    "override",
    ["run.seed=1,2", "evaluate.select_by=field_f1,exact_match", "data.split.valid=0.1,0.2", "data.limit=20,30", "evaluate.n_valid=2,4"],
)
def test_trials_are_judged_by_the_same_rows_and_metric(recipe: Path, tmp_path: Path, override: str) -> None:
    with pytest.raises(CommandError, match=f"`{override.partition('=')[0]}` cannot be tried in a sweep"):
        run_sweep(recipe, [override], tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_every_trial_is_checked_before_the_first_is_trained(recipe: Path, tmp_path: Path) -> None:
    done = weitiao("run", recipe, "--sweep", "train.learning_rate=1e-4,2", "-o", tmp_path / "sweep", code=2)
    assert "train.learning_rate" in done.stderr
    assert not (tmp_path / "sweep").exists()


def test_runs_are_compared_on_the_rows_they_share(sweep: Path, recipe: Path) -> None:
    winner = sweep / read(sweep / "sweep.json")["winner"]
    other = recipe.parent / "other"
    weitiao("run", recipe, "train.learning_rate=5e-4", "-o", other)
    table = json.loads(weitiao("compare", winner, other, "--json").stdout)
    first, second = table["runs"]
    assert second["settings"]["train.learning_rate"] == 5e-4
    assert set(first["settings"]) == {"train.learning_rate", "model.tuning.r"}
    assert first["gain"] == {}
    assert second["n_shared"] == 11
    point, low, high = second["gain"]["field_f1"]
    assert point == pytest.approx(second["tuned"]["metrics"]["field_f1"] - first["tuned"]["metrics"]["field_f1"])
    assert low <= point <= high
    shown = weitiao("compare", winner, other).stderr
    assert "against" in shown
    assert "field_f1, tuned" in shown


def copied(sweep: Path, path: Path) -> Path:
    """The winner's run in another folder."""
    return shutil.copytree(sweep / read(sweep / "sweep.json")["winner"], path)


def rewrite_answers(run: Path, n_rows: int, **texts: Any) -> None:
    """Give the first test rows of a run another text or truth under the same ids."""
    path = run / "tuned" / "answers.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    rows = [row | texts if i < n_rows else row for i, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("texts", [{"prompt": "another complaint"}, {"reference": {"name": "nobody"}}], ids=["text", "truth"])
def test_rows_of_equal_id_and_another_text_are_not_shared(sweep: Path, tmp_path: Path, texts: dict[str, Any]) -> None:
    first, other = copied(sweep, tmp_path / "first"), copied(sweep, tmp_path / "other")
    rewrite_answers(other, 5, **texts)
    (other / "data.json").write_text(json.dumps(read(other / "data.json") | {"fingerprint": "another"}), encoding="utf-8")
    done = weitiao("compare", first, other, "--json")
    second = json.loads(done.stdout)["runs"][1]
    assert (second["n_shared"], second["n_other_text"]) == (6, 5)
    assert "other: 5 test rows have the id of a row of first, but another text or answer" in " ".join(done.stderr.split())
    rewrite_answers(other, 11, **texts)
    second = json.loads(weitiao("compare", first, other, "--json").stdout)["runs"][1]
    assert (second["n_shared"], second["n_other_text"], second["gain"]) == (0, 11, {})


def test_runs_of_the_same_data_share_rows_whatever_the_wording(sweep: Path, tmp_path: Path) -> None:
    first, other = copied(sweep, tmp_path / "first"), copied(sweep, tmp_path / "other")
    rewrite_answers(other, 11, prompt="worded otherwise")
    assert json.loads(weitiao("compare", first, other, "--json").stdout)["runs"][1]["n_shared"] == 11


def test_runs_that_count_other_fields_are_not_compared(sweep: Path, tmp_path: Path) -> None:
    first, other = copied(sweep, tmp_path / "first"), copied(sweep, tmp_path / "other")
    recipe = yaml.safe_load((other / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["task"]["fields"] = {name: {"copied": False} for name in ("question", "email", "address", "name")}
    (other / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    weitiao("compare", first, other)
    recipe["task"]["fields"] = ["name", "email"]
    (other / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    shown = " ".join(weitiao("compare", first, other, code=2).stderr.split())
    assert "the run counts other things as right than the first one" in shown
    assert "here {'name': 'string', 'email': 'string'}" in shown


def test_a_comparison_needs_two_finished_runs(sweep: Path) -> None:
    assert "two different runs" in weitiao("compare", sweep / "trial-1", code=2).stderr
    loser = next(path for path in sorted(sweep.glob("trial-*")) if not (path / "tuned").exists())
    winner = next(path for path in sorted(sweep.glob("trial-*")) if (path / "tuned").exists())
    assert "not finished" in weitiao("compare", winner, loser, code=2).stderr


def test_training_again_keeps_the_baseline_only(sweep: Path) -> None:
    winner = sweep / read(sweep / "sweep.json")["winner"]
    before = {name: (winner / name).stat().st_mtime_ns for name in ("baseline/answers.jsonl", "tuned/answers.jsonl", "report.html")}
    scores = read(winner / "scores.json")
    shown = json.loads(weitiao("train", winner, "--json").stdout)
    after = {name: (winner / name).stat().st_mtime_ns for name in before}
    assert after["baseline/answers.jsonl"] == before["baseline/answers.jsonl"]
    assert after["tuned/answers.jsonl"] > before["tuned/answers.jsonl"]
    assert after["report.html"] > before["report.html"]
    assert shown["comparison"]["tuned"]["metrics"] == pytest.approx(scores["tuned"]["metrics"])  # the same seed, the same model


def test_training_again_on_mended_rows_scores_the_base_on_them_too(sweep: Path, tmp_path: Path) -> None:
    run = copied(sweep, tmp_path / "run")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    mine = shutil.copy(recipe["data"]["train"]["path"], tmp_path / "complaints.jsonl")
    recipe["data"]["train"]["path"] = str(mine)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    first = json.loads((run / "baseline" / "answers.jsonl").read_text(encoding="utf-8").split("\n")[0])
    answer = json.dumps(first["reference"], ensure_ascii=False)
    rows = [json.loads(line) for line in mine.read_text(encoding="utf-8").split("\n") if line]
    other = {"output": answer.replace(first["reference"]["name"], "王五")}
    mended = [row | other if row["instruction"] == first["prompt"] else row for row in rows]
    assert mended != rows
    mine.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in mended), encoding="utf-8")
    with pytest.raises(CommandError, match="the data have changed"):
        pipeline.run_recipe(load_recipe(run / "recipe.yaml"), run, "resume")
    finished.train_run(run)
    before, after = ([row["reference"] for row in runs.Run(run).rows(f"{side}/answers")] for side in ("baseline", "tuned"))
    assert before == after
    assert "王五" in {reference["name"] for reference in before}


def test_training_again_deletes_nothing_where_the_data_are_gone(sweep: Path, tmp_path: Path) -> None:
    run = copied(sweep, tmp_path / "run")
    text = (run / "recipe.yaml").read_text(encoding="utf-8")
    (run / "recipe.yaml").write_text(text.replace("complaints.jsonl", "moved.jsonl"), encoding="utf-8")
    with pytest.raises(DataError):
        finished.train_run(run)
    assert (run / "best" / "adapter_model.safetensors").exists()
    assert (run / "tuned" / "answers.jsonl").exists()


def test_training_again_that_was_interrupted_is_not_taken_for_finished(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(sweep, tmp_path / "run")

    def interrupted(*_: object) -> None:
        (run / "best").mkdir()  # as a validation in mid-training leaves it
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_recipe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finished.train_run(run)
    assert records.finished_training(runs.Run(run, "resume")) is None


@pytest.fixture(scope="module")
def labelled(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a classification."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = [{"text": f"{i} {'ab'[i % 2]}", "category": ["a", "b"], "output": "ab"[i % 2]} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    content = {
        "task": {"kind": "classification"},
        "data": {"train": {"path": "rows.jsonl"}, "split": {"valid": 0.2, "test": 0.25}},
        "model": {"path": str(tiny_qwen2)},
        "train": {"num_train_epochs": 1, "batch_rows": 8},
        "evaluate": {"n_bootstrap": 100, "n_suspects": 0},
        "track": {"kind": "none"},
        "export": [],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    pipeline.run_recipe(load_recipe(folder / "recipe.yaml"), folder / "run")
    return folder / "run"


@pytest.mark.parametrize("side", ["tuned", "baseline"])
def test_scoring_again_uses_the_calibration_of_the_run(labelled: Path, side: str) -> None:
    own = read(labelled / side / "scores.json")["details"]["confidence"]
    again = finished.evaluate_run(labelled, baseline=side == "baseline").details["confidence"]
    for name in ("temperature", "n_valid", "ece", "ece_raw"):
        assert again[name] == pytest.approx(own[name], abs=1e-4)
    assert again["temperature"] != 1.0
    assert [row["precision"] for row in again["coverage"]] == [0.95, 0.98, 0.99]
    (labelled / side / "calibration.json").unlink()
    assert finished.evaluate_run(labelled, baseline=side == "baseline").details["confidence"]["temperature"] == 1.0
