"""``weitiao chat`` on a classification run whose labels are those of its training rows: the real command against ``predict``."""

import json
import re
from pathlib import Path

import pytest
import yaml
from tests.command import weitiao

from weitiao import pipeline
from weitiao.cli.show import show_answer
from weitiao.finished import predict_run
from weitiao.recipe import load_recipe
from weitiao.web import Shown

LABELS = ["体育", "财经", "科技"]
TYPED = ["晚上噪音扰人", "the model answers a question"]


@pytest.fixture(scope="module")
def run(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    rows = [{"text": f"{i} 停车难", "output": LABELS[i % 3]} for i in range(30)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    content = {
        "task": {"kind": "classification"},
        "data": {"train": {"path": "rows.jsonl"}, "split": {"valid": 0.2, "test": 0.1}},
        "model": {"path": str(tiny_qwen3), "dtype": "float32"},  # in bfloat16 a row beside others has other last digits
        "train": {"max_steps": 2, "batch_rows": 4},
        "evaluate": {"n_bootstrap": 100, "n_suspects": 0},
        "track": {"kind": "none"},
        "export": [],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return pipeline.run_recipe(load_recipe(folder / "recipe.yaml"), folder / "run").path


def test_typed_texts_get_the_runs_labels_with_the_probabilities_that_predict_gives(run: Path, tmp_path: Path) -> None:
    said = weitiao("chat", run, given="".join(f"{text}\n" for text in TYPED)).stderr
    turns = [turn.splitlines() for turn in said.split("> ")[1:3]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TYPED), encoding="utf-8")
    predict_run(run, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    for turn, row in zip(turns, sorted(written, key=lambda row: str(row["origin"])), strict=True):
        ordered = sorted(row["probabilities"].items(), key=lambda item: -item[1])
        shown = {label: float(share) for share, label in (re.fullmatch(r" *([\d.]+)%  (.+)", line).groups() for line in turn[1:])}
        assert turn[0] == row["prediction"] == next(iter(shown))
        assert set(shown) == set(LABELS)
        assert [shown[label] / 100 for label, _ in ordered] == pytest.approx([p for _, p in ordered], abs=6e-4)


def test_a_text_that_cannot_be_asked_about_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    show_answer(Shown("", None, False, 0.0, problem="the row has no image"))
    assert capsys.readouterr().err == "the row has no image\n"
