"""The whole path on pictures with a tiny random Qwen2-VL: run, merged folder checked with pictures, report; a bad picture is listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from weitiao import pipeline, planning
from weitiao.recipe import load_recipe

RECIPE = """
task: {kind: ocr}
data:
  train: {path: rows.jsonl}
  columns: {image: image, answer: text}
  split: {valid: 0.2, test: 0.2}
  allow_dropped: 0.2
model: {path: MODEL, device: cpu, tuning: {kind: lora, r: 2}}
chat: {images: {max_pixels: 9408}}
encode: {max_tokens: 256}
train: {num_train_epochs: 1, learning_rate: 1e-3, batch_rows: 4}
evaluate: {max_new_tokens: 4}
track: {kind: none}
"""


@pytest.fixture
def recipe(tiny_qwen2_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEITIAO_CACHE", str(tmp_path / "cache"))
    rows = []
    for i in range(16):
        image = Image.new("RGB", (60 + 6 * i, 56 + i % 3 * 20), "white")
        ImageDraw.Draw(image).text((5, 5), f"x^{i}", fill="black")
        image.save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "text": f"x^{i}"})
    (tmp_path / "bad.png").write_bytes(b"")
    rows.append({"image": "bad.png", "text": "y"})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("MODEL", str(tiny_qwen2_vl)), encoding="utf-8")
    return tmp_path / "recipe.yaml"


def test_a_run_on_pictures(recipe: Path, tmp_path: Path) -> None:
    summary = pipeline.run_recipe(load_recipe(recipe), tmp_path / "run")
    assert summary.comparison is not None
    assert summary.artifacts[0].check["n_prompts"] > 0
    assert summary.artifacts[0].check["equal_answers"] == 1.0
    data = json.loads((tmp_path / "run" / "data.json").read_text("utf-8"))
    assert sum(data["rejected"].values()) == 1
    facts = json.loads((tmp_path / "run" / "best" / "weitiao.json").read_text("utf-8"))
    assert facts["is_vision"]
    assert facts["chat"]["images"]["max_pixels"] == 9408
    adapter = json.loads((tmp_path / "run" / "best" / "adapter_config.json").read_text("utf-8"))
    assert adapter["target_modules"].startswith(r"model\.language_model\.")
    assert (tmp_path / "run" / "merged" / "preprocessor_config.json").exists()
    assert summary.report.exists()


def test_a_plan_for_pictures_can_be_measured(recipe: Path) -> None:
    plan = planning.plan_recipe(load_recipe(recipe), measure=True)
    assert plan.measured
    assert plan.seconds > 0
