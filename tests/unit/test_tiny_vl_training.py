"""The script behind ``bundled:tiny-vl``: tokens, patches and loss are those of the model's own processor and forward pass."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scripts.tiny_vl.batches import Encoder, patch_marks, patches
from scripts.tiny_vl.card import write_card
from scripts.tiny_vl.examples import Example, scene_example
from scripts.tiny_vl.network import build_config, build_tokenizer, save
from scripts.tiny_vl.train import exact, rate, said_answers


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="module")
def network(tokenizer: Any) -> Any:
    from transformers import Qwen2VLForConditionalGeneration

    config = build_config(tokenizer)
    config.text_config.num_hidden_layers, config.vision_config.depth = 1, 1
    config.text_config.layer_types = config.text_config.layer_types[:1]
    torch.manual_seed(0)
    return Qwen2VLForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def scenes() -> list[Example]:
    rng = random.Random(0)
    return [scene_example(rng, 150) for _ in range(3)]


@pytest.mark.parametrize("text", [r"\frac{a+b}{c}=\sqrt{x_{i}^{2}}", "a small red circle", "你好 \x00 ünï\n\t🙂", "<|im_end|>"])
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_commands_and_brackets_are_whole(tokenizer: Any) -> None:
    pieces = [tokenizer.decode([token]) for token in tokenizer(r"\frac{xK}{c}").input_ids]
    assert pieces == ["\\frac", "{", "x", "K", "}{", "c", "}"]


def test_patches_are_those_of_the_models_own_processor(scenes: list[Example]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    theirs = Qwen2VLImageProcessorPil(min_pixels=784)([Image.fromarray(scenes[0].pixels)], return_tensors="np")
    assert theirs["image_grid_thw"].tolist() == [[1, 6, 6]]
    assert np.abs(theirs["pixel_values"] - patches(scenes[0].pixels)).max() < 1e-5


def test_a_mark_lies_in_the_patch_that_shows_it() -> None:
    pixels = np.full((56, 84, 3), 255, np.uint8)
    pixels[30:40, 58:68] = 0
    example = Example(pixels, "x", True, ((7, 63.0, 35.0),))
    dark = patches(pixels).sum(axis=1).argmin()
    assert patch_marks(example).nonzero().tolist() == [[int(dark), 7]]


def test_the_loss_is_that_of_the_models_own_forward_pass(network: Any, tokenizer: Any, scenes: list[Example]) -> None:
    batch = Encoder(tokenizer).batch(scenes)
    with torch.no_grad():
        ours = said_answers(network, network.model.visual(batch.pixels, grid_thw=batch.grids), batch)
        theirs = network(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            mm_token_type_ids=batch.is_image,
            pixel_values=batch.pixels,
            image_grid_thw=batch.grids,
            labels=batch.labels,
        ).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    answers = [tokenizer.decode(row[row != -100]) for row in batch.labels]
    assert answers == [f"{scene.answer}<|im_end|>" for scene in scenes]


def test_the_folder_is_read_by_the_package_and_is_small(network: Any, tokenizer: Any, scenes: list[Example], tmp_path: Any) -> None:
    from weitiao.model import load_network

    save(network, tokenizer, tmp_path)
    read, processor = load_network(tmp_path, torch.float32, torch.device("cpu"))
    assert processor.tokenizer.chat_template == tokenizer.chat_template
    assert (tmp_path / "model.safetensors").stat().st_size < 2.1 * sum(p.numel() for p in network.parameters())
    assert 0 <= exact(read, Encoder(tokenizer), scenes) <= 1


def test_the_rate_warms_up_stays_and_falls_to_nothing() -> None:
    assert rate(0, None) < rate(30, None) < rate(60, None) == rate(5000, None)
    assert [rate(step, (100, 200)) / rate(60, None) for step in (100, 150, 200)] == [1.0, 0.5, 0.0]


def test_the_card_holds_the_figures(tmp_path: Any) -> None:
    settings = {"steps": 7200, "ending": 1200, "rate": 1e-3, "tower": 1200, "minutes": 61.2, "n_scenes_and_formulas": 134_400}
    write_card(tmp_path, {"formulas 1": 0.875, "scenes": 1.0}, settings)
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "| formulas 1 | 88 % |\n| scenes | 100 % |" in card
    assert "134,400 pictures, each seen once, in 61 minutes of one core" in card
    assert "--steps 7200 --ending 1200" in card
