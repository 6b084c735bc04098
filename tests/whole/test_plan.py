"""What `weitiao plan` says against what a run then takes, on a tiny model; and the refusal of what cannot fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tests.command import weitiao

from weitiao import model
from weitiao.demo import write_complaints
from weitiao.errors import RecipeError
from weitiao.recipe.sections import FullTuning, LoraTuning, Model


@pytest.fixture
def recipe(tiny_qwen3: Path, tmp_path: Path) -> Path:
    write_complaints(tmp_path / "complaints.jsonl", 40, 1)
    content = {
        "task": {"kind": "extraction", "fields": ["name", "address", "email", "question"]},
        "data": {"train": {"path": "complaints.jsonl"}, "split": {"valid": 0.1, "test": 0.1}},
        "model": {"path": str(tiny_qwen3)},
        "train": {"num_train_epochs": 2, "batch_rows": 8},
        "track": {"kind": "none"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return tmp_path / "recipe.yaml"


def plan(*words: str | Path) -> dict[str, Any]:
    return dict(json.loads(weitiao("plan", *words, "--json").stdout))


def test_a_plan_counts_what_will_be_trained(recipe: Path) -> None:
    before = {path.name for path in recipe.parent.iterdir()}
    planned = plan(recipe)
    assert planned["n_steps"] == 2 * -(-planned["n_rows"] // 8)
    assert planned["memory"]["optimizer"] == 8 * planned["n_trainable"]
    assert planned["memory"]["gradients"] == 4 * planned["n_trainable"]
    assert planned["peak_bytes"] == sum(planned["memory"].values())
    assert planned["measured"] is False
    assert 0 < planned["n_supervised_tokens"] < planned["n_tokens"]
    assert {path.name for path in recipe.parent.iterdir()} == before


def test_measuring_trains_a_few_steps_and_leaves_nothing(recipe: Path) -> None:
    before = {path.name for path in recipe.parent.iterdir()}
    planned = plan(recipe, "--measure", "model.tuning={kind: full}")
    assert planned["measured"] is True
    assert planned["seconds"] > 0
    assert planned["n_trainable"] == planned["n_parameters"]
    assert 100_000_000 < planned["peak_bytes"] < 2_000_000_000
    assert {path.name for path in recipe.parent.iterdir()} == before


@pytest.mark.parametrize("tuning", [LoraTuning(), FullTuning()])
def test_an_outline_has_the_sizes_of_the_real_thing(tiny_qwen2: Path, tuning: LoraTuning | FullTuning) -> None:
    section = Model(path=str(tiny_qwen2), tuning=tuning)
    real = model.attach_tuning(model.load_base(section), tuning).network
    outlined = model.outline(section).network
    assert model.count_parameters(outlined) == model.count_parameters(real)
    assert model.parameter_bytes(outlined) == model.parameter_bytes(real)
    assert {parameter.device.type for parameter in outlined.parameters()} == {"meta"}


def test_what_cannot_fit_is_refused_before_loading(tiny_qwen2: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_qwen2, tmp_path, dirs_exist_ok=True)  # the weights there are never read
    config = json.loads((tmp_path / "config.json").read_text())
    n_layers = int(psutil.virtual_memory().total / 4 / (3 * 8192 * 28672 + 2 * 8192**2))
    wide = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 64}
    config |= wide | {"num_hidden_layers": n_layers // 3, "head_dim": 128, "layer_types": ["full_attention"] * (n_layers // 3)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="GB for weights, gradients and optimizer alone") as caught:
        model.check_memory(Model(path=str(tmp_path), tuning=FullTuning()))
    assert "model.tuning.kind=lora" in str(caught.value)
    config |= {"num_hidden_layers": 3 * n_layers, "layer_types": ["full_attention"] * (3 * n_layers)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="smaller model"):
        model.check_memory(Model(path=str(tmp_path)))
