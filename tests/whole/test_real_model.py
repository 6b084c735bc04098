"""The main job on the bundled 0.5B model, a few steps long: real weights, real tokenizer, real templates."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from weitiao.demo import write_complaints

WEITIAO = str(Path(sys.executable).with_name("weitiao"))

RECIPE = """\
task: {kind: extraction, fields: [name, address, email, question]}
data: {train: {path: complaints.jsonl}, split: {valid: 0.1, test: 0.1}}
model: {path: "bundled:qwen2.5-coder-0.5b-instruct"}
train: {max_steps: 4, learning_rate: 3e-4, batch_rows: 3}
evaluate: {max_new_tokens: 160, n_valid: 2}
track: {kind: none}
"""


@pytest.mark.real
@pytest.mark.timeout(1200)
def test_a_few_steps_on_the_real_model(tmp_path: Path) -> None:
    write_complaints(tmp_path / "complaints.jsonl", 24, 3)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    done = subprocess.run([WEITIAO, "run", "recipe.yaml", "-o", "run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(events) == 4
    assert events[0]["loss"] < 1.0, "the model knows Chinese and JSON before it is tuned"
    scores = json.loads((tmp_path / "run" / "scores.json").read_text(encoding="utf-8"))
    assert scores["tuned"]["metrics"]["json_valid"] == 1.0
    assert scores["tuned"]["metrics"]["field_f1"] > 0.5
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["n_trainable"] == 4_399_104
