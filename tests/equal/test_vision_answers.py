"""Answers to pictures: batches, prefixes and positions of the embedded engine give what transformers' own ``generate`` gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from weitiao.chat import make_renderer
from weitiao.infer import make_engine
from weitiao.model.load import load_network
from weitiao.recipe.sections import Chat
from weitiao.seams import LoadedModel, Message, Part, Sample, Sampling, text_message

SIZES = {"wide": (200, 60), "tall": (56, 140), "small": (30, 30), "photo": (160, 120)}


def draw(folder: Path) -> dict[str, Path]:
    paths = {}
    for seed, (name, (width, height)) in enumerate(SIZES.items()):
        image = Image.new("RGB", (width, height), (250, 240 - 20 * seed, 230))
        pen = ImageDraw.Draw(image)
        pen.ellipse((seed * 5, 4, width - 8, height - 4), fill=(30 * seed, 90, 200))
        pen.line((0, height, width, 0), fill=(200, 30, 30 * seed), width=5)
        paths[name] = folder / f"{name}.png"
        image.save(paths[name])
    return paths


def question(number: int, text: str, *pictures: Path, answer: str | None = None) -> Sample:
    user = Message("user", (*(Part("image", image=path) for path in pictures), Part("text", text)))
    return Sample(str(number), f"rows.jsonl:{number}", (user, *([text_message("assistant", answer)] if answer else [])))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    paths = draw(tmp_path_factory.mktemp("pictures"))
    return [
        question(1, "读出公式", paths["wide"]),
        question(2, "What is this?", paths["tall"]),
        question(3, "no picture at all"),
        question(4, "compare", paths["small"], paths["photo"]),
        question(5, "读出公式", paths["photo"]),
        question(6, "and <|image_pad|> as letters", paths["photo"], paths["photo"], paths["wide"]),
    ]


@pytest.fixture(scope="module")
def model(tiny_vision: Path) -> LoadedModel:
    network, processor = load_network(tiny_vision, torch.float32, torch.device("cpu"))
    return LoadedModel(network, processor, tiny_vision, "tiny", torch.float32, is_vision=True)


def librarys_answer(model: LoadedModel, sample: Sample, n_new: int) -> list[int]:
    renderer: Any = make_renderer(model.processor, Chat())
    row = renderer.prompt(sample.prompt)
    ids = torch.tensor([row.input_ids])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if row.pictures:
        pixels, grids = renderer.images.pixels(row.pictures)
        is_image = (ids == model.network.config.image_token_id).int()
        inputs |= {"pixel_values": pixels, "image_grid_thw": grids, "mm_token_type_ids": is_image}
    with torch.no_grad():
        return model.network.generate(**inputs, do_sample=False, max_new_tokens=n_new)[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_answers_are_those_of_the_librarys_generate(model: LoadedModel, samples: list[Sample], batch_size: int) -> None:
    renderer = make_renderer(model.processor, Chat())
    engine = make_engine(model, renderer, batch_size)
    answers = dict(engine.generate(samples, Sampling(max_new_tokens=8)))
    for i, sample in enumerate(samples):
        expected = librarys_answer(model, sample, 8)
        assert answers[i].text == renderer.decode(expected), sample.origin
        assert answers[i].n_prompt_tokens == len(renderer.prompt(sample.prompt).input_ids)
    assert len({answer.text for answer in answers.values()}) >= 5, "random weights see the difference"


def test_a_shared_beginning_ends_before_the_first_picture(model: LoadedModel, samples: list[Sample]) -> None:
    renderer = make_renderer(model.processor, Chat())
    system = text_message("system", "你是一个助手，" * 8)
    rows = [Sample(s.id, s.origin, (system, *s.messages)) for s in (samples[4], samples[0], samples[1])]
    answers = dict(make_engine(model, renderer, 8).generate(rows, Sampling(max_new_tokens=6)))
    assert [answers[i].text for i in range(3)] == [renderer.decode(librarys_answer(model, row, 6)) for row in rows]


def test_likelihood_and_labels_see_the_picture(model: LoadedModel, samples: list[Sample]) -> None:
    renderer: Any = make_renderer(model.processor, Chat())
    engine = make_engine(model, renderer, 8)
    asked = [Sample(s.id, s.origin, (*s.messages, text_message("assistant", "x^2"))) for s in samples]
    together = dict(engine.likelihood(asked))
    for i, sample in enumerate(asked):
        row = renderer.conversation(sample.messages)
        ids = torch.tensor([row.input_ids])
        inputs: dict[str, Any] = {}
        if row.pictures:
            pixels, grids = renderer.images.pixels(row.pictures)
            is_image = (ids == model.network.config.image_token_id).int()
            inputs = {"pixel_values": pixels, "image_grid_thw": grids, "mm_token_type_ids": is_image}
        with torch.no_grad():
            log_probs = model.network(input_ids=ids, **inputs).logits[0].log_softmax(-1)
        places = [place for place, on in enumerate(row.trained) if on]
        expected = -sum(float(log_probs[place - 1, row.input_ids[place]]) for place in places)
        assert together[i].nll == pytest.approx(expected, rel=1e-4)
        labels = dict(engine.score_labels([sample], lambda _: ["x^2", "y"]))
        assert labels[0].label_probabilities
    alone = [dict(engine.score_labels([sample], lambda _: ["x^2", "y"]))[0].label_probabilities["x^2"] for sample in asked]
    batched = dict(engine.score_labels(asked, lambda _: ["x^2", "y"]))
    assert [batched[i].label_probabilities["x^2"] for i in range(len(asked))] == pytest.approx(alone, rel=1e-4)
