"""What `weitiao plan` says against what a run then takes, on a tiny model; and the refusal of what cannot fit."""

from __future__ import annotations

import json
import platform
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from tests.command import weitiao

from weitiao import infer, model, pipeline, planning, train
from weitiao.demo import write_complaints
from weitiao.errors import RecipeError
from weitiao.infer.network import plain_network
from weitiao.infer.packed import PackedReader
from weitiao.recipe import load_recipe
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
    assert planned["training_bytes"] == sum(planned["memory"].values())
    held = sum(planned["memory"][part] for part in ("libraries", "weights", "optimizer"))
    assert planned["answering_bytes"] > held
    assert planned["peak_bytes"] == max(planned["training_bytes"], planned["answering_bytes"])
    assert planned["memory"]["workspace"] < 50e6, "a tiny model needs next to nothing"
    assert planned["measured"] is False
    assert 0 < planned["n_supervised_tokens"] < planned["n_tokens"]
    assert {path.name for path in recipe.parent.iterdir()} == before


def test_a_plan_knows_what_is_computed_again(recipe: Path) -> None:
    kept, again = (plan(recipe, f"train.gradient_checkpointing={value}")["memory"]["activations"] for value in ("false", "true"))
    assert 0 < again < kept


def test_a_plan_counts_the_steps_that_are_trained(recipe: Path) -> None:
    n_steps = plan(recipe, "train.num_train_epochs=0.55", "train.batch_rows=9")["n_steps"]
    assert n_steps == round(4 * 0.55)


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


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="weights are laid out on x86 CPUs only")
@pytest.mark.parametrize("tuning", [LoraTuning(), FullTuning()])
def test_answering_takes_the_copy_and_the_cache(tiny_qwen2: Path, tuning: LoraTuning | FullTuning) -> None:
    section = Model(path=str(tiny_qwen2), tuning=tuning)
    network = model.attach_tuning(model.load_base(section), tuning).network
    reader = PackedReader(plain_network(network), torch.float32)
    copied = sum(linear.weight.numel() for layer in reader._layers for linear in (layer.qkv, layer.out, layer.gate_up, layer.down))
    cache = reader.new_cache()
    cache.reserve(3, 40)
    held = sum(tensor.nbytes for tensor in (*cache.keys, *cache.values))
    outlined = model.outline(section).network
    found = infer.answering_bytes(outlined, torch.float32, torch.device("cpu"), 3, cache.keys[0].shape[2])
    assert found == 4 * (copied + reader._head.weight.numel()) + held


def test_the_un_embedding_has_no_adapter(tiny_qwen2: Path) -> None:
    section = Model(path=str(tiny_qwen2), tuning=LoraTuning(target_modules=["q_proj", "lm_head"]))
    with pytest.raises(RecipeError, match="`lm_head` is the un-embedding") as caught:
        model.attach_tuning(model.load_base(section), section.tuning)
    assert caught.value.where == "model.tuning.target_modules"


def test_rows_beyond_the_models_positions_are_refused(tiny_qwen2: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_qwen2, tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    (tmp_path / "texts").mkdir()
    for i in range(4):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"{i} " + "one document of many words " * 20)
    content = {
        "task": {"kind": "text"},
        "data": {"train": {"path": str(tmp_path / "texts")}, "split": {"valid": 0, "test": 0}},
        "model": {"path": str(folder)},
        "encode": {"max_tokens": 128},
        "track": {"kind": "none"},
        "export": [],
    }
    (tmp_path / "texts.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    for act in (planning.plan_recipe, partial(pipeline.run_recipe, path=tmp_path / "run")):
        with pytest.raises(RecipeError, match="a training row has 128 tokens, and the model 64 positions") as caught:
            act(load_recipe(tmp_path / "texts.yaml"))
        assert (caught.value.where, caught.value.hint) == ("encode.max_tokens", "encode.max_tokens=64, or another model")


def test_layers_that_are_not_fused_keep_more(tiny_qwen3: Path) -> None:
    """Counted against the bytes that autograd keeps of a micro-batch."""
    loaded = model.attach_tuning(model.load_base(Model(path=str(tiny_qwen3))), LoraTuning(lora_dropout=0.0))
    everywhere = frozenset({"lora_linear", "last_layer", "answer_logits"})
    counted = [train.kept_bytes_per_token(loaded.network, names) for names in (everywhere | {"fused_attention", "fused_mlp"}, everywhere)]
    assert counted[0] < counted[1]
    n_tokens, kept = 64, 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes if not isinstance(tensor, torch.nn.Parameter) and tensor.shape[:2] == (1, n_tokens) else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loaded.network.train()(input_ids=torch.arange(n_tokens)[None], use_cache=False)
    assert kept > n_tokens * counted[0]


def test_adafactor_takes_next_to_nothing(tiny_qwen2: Path) -> None:
    outlined = model.outline(Model(path=str(tiny_qwen2), tuning=FullTuning())).network
    adamw, adafactor = (model.parameter_bytes(outlined, optim) for optim in ("adamw", "adafactor"))
    assert adamw["optimizer"] == 2 * adamw["weights"]
    assert adafactor == {**adamw, "optimizer": 0}


def widened(source: Path, folder: Path, share: float) -> Path:
    """A model whose frozen weights alone would take ``share`` of this machine's memory; those in the folder are never read."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    n_layers = int(share * psutil.virtual_memory().total / 4 / (3 * 8192 * 28672 + 2 * 8192**2))
    wide = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 64, "head_dim": 128}
    config |= wide | {"num_hidden_layers": n_layers, "layer_types": ["full_attention"] * n_layers}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(bytes(8))
    return folder


def test_what_cannot_fit_is_refused_before_loading(tiny_qwen2: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="GB for weights, gradients and optimizer alone") as caught:
        model.check_memory(Model(path=str(widened(tiny_qwen2, tmp_path / "large", 1 / 3)), tuning=FullTuning()))
    assert str(caught.value).endswith("would fit: train.optim=adafactor; so would LoRA: model.tuning.kind=lora")
    with pytest.raises(RecipeError, match="smaller model"):
        model.check_memory(Model(path=str(widened(tiny_qwen2, tmp_path / "larger", 3))))


def test_every_way_to_train_refuses_what_cannot_fit(recipe: Path, tiny_qwen2: Path, tmp_path: Path) -> None:
    large = load_recipe(recipe, [f"model.path={widened(tiny_qwen2, tmp_path / 'large', 3)}"])
    told = "GB for weights, gradients and optimizer alone"
    for begin, name in ((pipeline.run_recipe, "run"), (pipeline.train_recipe, "trial")):  # the latter is a sweep's trial
        with pytest.raises(RecipeError, match=told):
            begin(large, tmp_path / name)
    assert told in weitiao("train", tmp_path / "run", code=2).stderr
