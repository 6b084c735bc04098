"""Packed rows with pictures give the loss and gradients of single rows through the library's own forward; with the feature store too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.equal.test_vision_answers import draw, question
from torch.nn.functional import cross_entropy

from weitiao.chat import make_renderer, make_vision
from weitiao.encode.steps import pack
from weitiao.model.load import load_network
from weitiao.model.tuning import attach_tuning
from weitiao.recipe.sections import Chat, FullTuning, LoraTuning
from weitiao.seams import IGNORED, EncodedRow, LoadedModel, Vision
from weitiao.train.fast import fast_layers, has_answers_only_layer
from weitiao.train.head import chunked_head_loss
from weitiao.train.segments import micro_batch, segmented

TOLERANCE = 3e-5
"""Largest difference of a gradient relative to the largest gradient of its tensor, float32."""


@pytest.fixture(scope="module")
def base(tiny_vision: Path) -> LoadedModel:
    network, processor = load_network(tiny_vision, torch.float32, torch.device("cpu"))
    return LoadedModel(network, processor, tiny_vision, "tiny", torch.float32, is_vision=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return draw(tmp_path_factory.mktemp("pictures"))


def rows(renderer: Any, pictures: dict[str, Path]) -> list[EncodedRow]:
    samples = [
        question(1, "读出公式", pictures["wide"], answer="x^2 + y"),
        question(2, "no picture", answer="a text row between them"),
        question(3, "compare", pictures["small"], pictures["tall"], answer="two"),
        question(4, "again", pictures["tall"], pictures["tall"], pictures["photo"], answer="three in a row"),
        question(5, "and <|image_pad|> as letters", answer="短"),
    ]
    made = []
    for row in renderer.conversations([sample.messages for sample in samples]):
        labels = [token if on else IGNORED for token, on in zip(row.input_ids, row.trained, strict=True)]
        made.append(EncodedRow(row.input_ids, labels, (len(labels),), 0, row.pictures))
    return made


def tuned(base: LoadedModel, section: LoraTuning | FullTuning) -> Any:
    network, processor = load_network(base.path, torch.float32, torch.device("cpu"))
    network = attach_tuning(LoadedModel(network, processor, base.path, "tiny", torch.float32), section).network
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return network.train()


def gradients(network: Any) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None}
    network.zero_grad()
    return found


def plain(network: Any, renderer: Any, batch: Sequence[EncodedRow]) -> tuple[float, dict[str, torch.Tensor]]:
    """The library's own forward on each row alone: pixels in, its own positions, logits for every token."""
    placeholder = network.config.image_token_id
    total = 0.0
    for row in batch:
        ids = torch.tensor([row.input_ids])
        inputs: dict[str, Any] = {}
        if row.pictures:
            pixels, grids = renderer.images.pixels(row.pictures)
            inputs = {"pixel_values": pixels, "image_grid_thw": grids, "mm_token_type_ids": (ids == placeholder).int()}
        logits = network(input_ids=ids, **inputs).logits[0, :-1]
        loss = cross_entropy(logits, torch.tensor(row.labels[1:]), ignore_index=IGNORED, reduction="sum")
        loss.backward()
        total += loss.item()
    return total, gradients(network)


def packed(network: Any, vision: Vision | None, batch: Sequence[EncodedRow], *, fast: bool) -> tuple[float, dict[str, torch.Tensor]]:
    causal = network.get_base_model() if hasattr(network, "peft_config") else network
    total = 0.0
    names = frozenset({"lora_linear", "fused_attention", "fused_mlp", "last_layer"} if fast else ())
    with segmented(network), fast_layers(network, names):
        assert has_answers_only_layer(causal) == fast
        for row in batch:
            laid = micro_batch(row, torch.device("cpu"), torch.float32, answers_only=fast, vision=vision)
            inputs = {"input_ids": laid.input_ids, "position_ids": laid.position_ids, "segments": laid.segments, "use_cache": False}
            if row.pictures:
                assert vision is not None
                inputs["mm_encoder_outputs"] = vision.encoder_outputs(row.pictures)
            if fast:
                hidden = causal.base_model(**inputs).last_hidden_state[0]
                loss = chunked_head_loss(hidden, causal.get_output_embeddings().weight, laid.targets)
            else:
                loss = cross_entropy(network(**inputs).logits[0, laid.sources], laid.targets, reduction="sum")
            loss.backward()
            total += loss.item()
    return total, gradients(network)


def assert_equal(got: tuple[float, dict[str, torch.Tensor]], wanted: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert got[0] == pytest.approx(wanted[0], rel=1e-5)
    assert got[1].keys() == wanted[1].keys()
    assert wanted[1]
    for name, gradient in wanted[1].items():
        scale = gradient.abs().max().item()
        assert (got[1][name] - gradient).abs().max().item() <= TOLERANCE * scale + 1e-7, name


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
@pytest.mark.parametrize(
    "section",
    [LoraTuning(r=4, lora_dropout=0.0), LoraTuning(r=4, lora_dropout=0.0, vision="all"), FullTuning(vision="merger")],
    ids=["lora", "lora with the tower", "full with the merger"],
)
def test_packed_rows_equal_single_rows(base: LoadedModel, pictures: dict[str, Path], section: LoraTuning | FullTuning, fast: bool) -> None:
    renderer = make_renderer(base.processor, Chat())
    network = tuned(base, section)
    inner = network.get_base_model() if hasattr(network, "peft_config") else network
    batch = rows(renderer, pictures)
    joined = pack(batch, 240)
    assert len(joined) < len(batch)
    assert any(len(row.segment_lengths) > 1 and row.pictures for row in joined)
    assert_equal(packed(network, make_vision(inner, renderer), joined, fast=fast), plain(network, renderer, batch))


def test_a_row_never_sees_its_neighbours_picture(base: LoadedModel, pictures: dict[str, Path]) -> None:
    """Another picture of the same size in one row of a pack leaves the others' logits as they were, to the last bit."""
    renderer = make_renderer(base.processor, Chat())
    vision = make_vision(base.network, renderer)
    first, text, *_ = rows(renderer, pictures)
    other = EncodedRow(first.input_ids, first.labels, first.segment_lengths, 0, (mirrored(first.pictures[0]),))
    found = []
    for row in (first, other):
        packed_row = pack([row, text], 4000)[0]
        laid = micro_batch(packed_row, torch.device("cpu"), torch.float32, vision=vision)
        with segmented(base.network), torch.no_grad():
            output = base.network(
                input_ids=laid.input_ids,
                position_ids=laid.position_ids,
                segments=laid.segments,
                use_cache=False,
                mm_encoder_outputs=vision.encoder_outputs(packed_row.pictures),
            )
        found.append(output.logits[0].split(list(packed_row.segment_lengths)))
    own = 0 if len(found[0][0]) == len(first.input_ids) else 1
    assert torch.equal(found[0][1 - own], found[1][1 - own])
    assert not torch.equal(found[0][own], found[1][own])


def mirrored(picture: Any) -> Any:
    from dataclasses import replace

    from PIL import Image, ImageOps

    path = picture.path.with_name("mirrored.png")
    ImageOps.mirror(Image.open(picture.path)).save(path)
    return replace(picture, path=path)
