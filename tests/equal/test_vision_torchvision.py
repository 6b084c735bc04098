"""Token ids and pixels against the models' own processors, in an environment of their own with torchvision (some 5 GB, some minutes).

    pytest -m torchvision tests/equal/test_vision_torchvision.py

``WEITIAO_TORCHVISION_PYTHON`` names a Python that has torch, torchvision and transformers already; otherwise one is made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.equal.test_vision_answers import draw, question
from transformers import __version__ as transformers_version

from weitiao.chat import make_renderer
from weitiao.model import load_processor
from weitiao.recipe.sections import Chat, Images, Model

PACKAGES = ("torch==2.14.1", "torchvision==0.29.1", f"transformers=={transformers_version}", "pillow", "safetensors", "jinja2")
ROUNDING = 1 / 255
"""Largest mean difference of pixels, in parts of the full range; torchvision rounds its resizing elsewhere than Pillow."""

SCRIPT = """
import json, sys
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2VLProcessor, Qwen3VLProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

folder, request, result, pixels = sys.argv[1:]
asked = json.load(open(request))
tokenizer = AutoTokenizer.from_pretrained(folder)
images = AutoImageProcessor.from_pretrained(folder, backend="torchvision", size=asked["size"])
kinds = (Qwen3VLProcessor, Qwen3VLVideoProcessor) if asked["family"] == "qwen3_vl" else (Qwen2VLProcessor, Qwen2VLVideoProcessor)
processor = kinds[0](image_processor=images, tokenizer=tokenizer, video_processor=kinds[1](), chat_template=tokenizer.chat_template)
ids, held = [], {}
for i, (text, paths) in enumerate(asked["prompts"]):
    content = [{"type": "image"}] * len(paths) + [{"type": "text", "text": text}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
    found = processor(text=[prompt], images=[Image.open(path).convert("RGB") for path in paths], return_tensors="pt")
    ids.append(found["input_ids"][0].tolist())
    held |= {f"{i}.pixel_values": found["pixel_values"].contiguous(), f"{i}.grid": found["image_grid_thw"]}
json.dump(ids, open(result, "w"))
save_file(held, pixels)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if named := os.environ.get("WEITIAO_TORCHVISION_PYTHON"):
        return Path(named)
    folder = tmp_path_factory.mktemp("torchvision")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", *PACKAGES], check=True)
    return folder / "bin" / "python"


@pytest.mark.torchvision
@pytest.mark.timeout(3600)
def test_tokens_and_pixels_are_those_of_the_models_own_processor(python: Path, tiny_vision: Path, tmp_path: Path) -> None:
    paths = draw(tmp_path)
    prompts = [("读出公式", ["wide"]), ("compare", ["small", "photo"]), ("three in a row", ["tall", "tall", "wide"])]
    policy = Images(min_pixels=4096, max_pixels=40_000)
    renderer = make_renderer(load_processor(Model(path=str(tiny_vision))), Chat(images=policy))
    family = json.loads((tiny_vision / "config.json").read_text())["model_type"]
    asked = {
        "family": family,
        "size": {"shortest_edge": policy.min_pixels, "longest_edge": policy.max_pixels},
        "prompts": [(text, [str(paths[name]) for name in names]) for text, names in prompts],
    }
    files = [tmp_path / name for name in ("request.json", "result.json", "pixels.safetensors")]
    files[0].write_text(json.dumps(asked))
    subprocess.run([python, "-c", SCRIPT, tiny_vision, *files], check=True)
    ids, pixels = json.loads(files[1].read_text()), load_file(files[2])
    for i, (text, names) in enumerate(prompts):
        row = renderer.prompt(question(i, text, *(paths[name] for name in names)).prompt)
        assert row.input_ids == ids[i]
        values, grids = renderer.images.pixels(row.pictures)
        assert torch.equal(grids, pixels[f"{i}.grid"])
        deviation = np.mean(renderer.images.processor.image_std)
        difference = (values - pixels[f"{i}.pixel_values"]).abs() * deviation
        print(f"{family} prompt {i}: mean {difference.mean() * 255:.4f}, most {difference.max() * 255:.2f} of 255")
        assert difference.mean() <= ROUNDING
        assert difference.max() <= 4 * ROUNDING
