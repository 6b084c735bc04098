"""What ``weitiao check`` and ``look`` do for a recipe whose model is a hub id: the small files are fetched, the weights are not."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from tests.data.rows import write
from tests.hubserver import Hub, serve_hub

HAS_MODELSCOPE = importlib.util.find_spec("modelscope") is not None
CLIENTS = pytest.mark.parametrize(
    "client", ["huggingface", pytest.param("modelscope", marks=pytest.mark.skipif(not HAS_MODELSCOPE, reason="needs modelscope"))]
)
WEIGHTS = "model.safetensors"


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


LOOKS = """
import sys
from pathlib import Path
from weitiao import model, preview
from weitiao.recipe import load_recipe
recipe = load_recipe(Path(sys.argv[1]))
report = preview.check_recipe(recipe)
print(report.tokens["rows"], report.tokens["image_histogram"].get("max"), preview.look_at(recipe, 1)[0].origin)
if "weights" in sys.argv:
    model.resolve_weights(recipe.model.path)
"""


def look(hub, client, home, *words):
    """Check and look in a process of its own, whose caches are empty at first; what it printed."""
    env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and name != "HF_HUB_OFFLINE"}
    env |= {"HOME": str(home), "HF_HOME": str(home / "hf"), "MODELSCOPE_CACHE": str(home / "ms"), "MODELSCOPE_HOME": str(home / "msh")}
    env |= {"WEITIAO_CACHE": str(home / "w"), "HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url, "WEITIAO_HUB": client}
    env |= {"HF_HUB_DISABLE_XET": "1", "MODELSCOPE_API_MAX_RETRIES": "1"}
    done = subprocess.run([sys.executable, "-c", LOOKS, *words], env=env, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def recipe(folder, kind, rows):
    write(folder / "rows.jsonl", rows)
    split = {"valid": 0, "test": 0}
    whole = {"task": {"kind": kind}, "data": {"train": {"path": "rows.jsonl"}, "split": split}, "model": {"path": "lab/tiny"}}
    (folder / "recipe.yaml").write_text(json.dumps(whole), encoding="utf-8")
    return str(folder / "recipe.yaml")


@CLIENTS
def test_of_a_text_model_only_the_tokenizer_is_fetched(client, tmp_path, tiny_qwen2):
    path = recipe(tmp_path, "classification", [{"text": f"第{i}天停车难", "label": "ab"[i % 2]} for i in range(20)])
    with serve_hub(Hub({"lab/tiny": files_of(tiny_qwen2)})) as hub:
        assert look(hub, client, tmp_path, path, "weights") == "20 None rows.jsonl:1"
        # What needs the weights fetches them afterwards, and nothing twice.
        assert hub.bodies[-1] == WEIGHTS
        assert len(hub.bodies) == len(set(hub.bodies))
        assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= set(hub.bodies)


def test_of_a_vision_model_the_image_processor_is_fetched_too(tmp_path, tiny_qwen2_vl):
    Image.effect_noise((56, 56), 80).save(tmp_path / "a.png")
    path = recipe(tmp_path, "ocr", [{"image": "a.png", "text": "x^2"}])
    with serve_hub(Hub({"lab/tiny": files_of(tiny_qwen2_vl)})) as hub:
        assert look(hub, "huggingface", tmp_path, path) == "1 4 rows.jsonl:1"
        assert "preprocessor_config.json" in hub.bodies
        assert WEIGHTS not in hub.bodies
