"""The vision model that comes with the package reads what its card says it reads, and the package carries it."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

from weitiao import chat, infer, model
from weitiao.demo.formulas import make_formulas
from weitiao.demo.scenes import draw_scene, make_scene, sentences
from weitiao.demo.typeset import draw, lay_out
from weitiao.recipe.sections import Chat, Model
from weitiao.seams import Message, Part, Sample, Sampling

PROMPT = "你是一个LaText OCR助手,目标是读取用户输入的照片，转换成LaTex公式。"


@pytest.fixture(scope="module")
def read() -> Any:
    loaded = model.load_base(Model(path="bundled:tiny-vl", device="cpu", dtype="float32"))
    assert sum(parameter.numel() for parameter in loaded.network.parameters()) == 5_382_880
    engine = infer.make_engine(loaded, chat.make_renderer(loaded.processor, Chat()), 16)

    def answers(prompt: str, pictures: list[Path]) -> list[str]:
        rows = [
            Sample(str(i), f"rows.jsonl:{i}", (Message("user", (Part("image", image=path), Part("text", prompt))),))
            for i, path in enumerate(pictures)
        ]
        found = dict(engine.generate(rows, Sampling(max_new_tokens=48)))
        return [found[i].text for i in range(len(rows))]

    return answers


def share(said: list[str], truths: list[str]) -> float:
    return sum(a == b for a, b in zip(said, truths, strict=True)) / len(truths)


def test_short_formulas_in_the_font_it_knows_are_read_to_the_letter(read: Any, tmp_path: Path) -> None:
    truths = make_formulas(20, 4711, 1)
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for path, latex in zip(paths, truths, strict=True):
        ImageOps.invert(Image.fromarray(draw(lay_out(latex), 21, margin=8).ink)).convert("RGB").save(path)
    assert share(read(PROMPT, paths), truths) >= 0.6
    assert share(read(PROMPT, [*paths[1:], paths[0]]), truths) <= 0.2, "the picture decides, not the prompt"


def test_plain_scenes_are_described_and_night_scenes_are_not(read: Any, tmp_path: Path) -> None:
    def described(world: Any) -> float:
        rng = random.Random(8)
        scenes = [make_scene(rng, world) for _ in range(12)]
        paths = [tmp_path / f"{world}{i}.png" for i in range(12)]
        for path, scene in zip(paths, scenes, strict=True):
            draw_scene(scene).save(path)
        return sum(said in sentences(scene) for said, scene in zip(read("COCO Yes:", paths), scenes, strict=True)) / 12

    assert described("plain") >= 0.8
    assert described("night") <= 0.2


def test_plain_transformers_loads_the_folder() -> None:
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    folder = next(known.path for known in model.list_models() if known.name == "bundled:tiny-vl")
    network = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    assert type(network).__name__ == "Qwen2VLForConditionalGeneration"
    assert AutoTokenizer.from_pretrained(folder).decode(network.generation_config.eos_token_id) == "<|im_end|><|endoftext|>"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 25e6


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "weitiao", "models", "list"], capture_output=True, text=True, check=True)
    assert "bundled:tiny-vl" in done.stderr
