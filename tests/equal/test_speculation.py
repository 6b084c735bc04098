"""Answers with guessed tokens are those without, in fewer passes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.tiny import build_tiny, sentences

from weitiao import chat, model
from weitiao.infer import make_engine
from weitiao.recipe.sections import Chat, Model
from weitiao.seams import Answer, Constraint, LoadedModel, Message, Part, Sample, Sampling, text_message

SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string", "maxLength": 12} for name in ("name", "address", "email")},
    "required": ["name", "address", "email"],
    "additionalProperties": False,
}
CHOICES = ("complaint data about a question", "complaint data about a model", "体育新闻")
PATTERN = r"(the model answers ){1,3}[a-z]{2,9}"
CONSTRAINTS = [None, Constraint(json_schema=SCHEMA), Constraint(choices=CHOICES), Constraint(regex=PATTERN)]


@dataclass
class Found:
    answers: list[Answer]
    n_passes: int
    n_drafted: int
    n_accepted: int


def load(folder: Path, settings: Chat | None = None) -> tuple[LoadedModel, Any]:
    # In float32: random weights' choices are close, and 16 bits round a pass over more tokens to another one.
    base = model.load_base(Model(path=str(folder), dtype="float32"))
    return base, chat.make_renderer(base.processor, settings or Chat())


def ask(text: str, i: int = 0) -> Sample:
    return Sample(str(i), f"rows:{i}", (text_message("system", "Answer with name, address and email."), text_message("user", text)))


def rows(n: int = 14) -> list[Sample]:
    return [ask(text * (1 + i % 2), i) for i, text in enumerate(sentences(n, seed=5))]


def answered(loaded: Sequence[Any], samples: list[Sample], *, speculative: bool = True, **settings: Any) -> Found:
    """Greedy answers of 40 tokens at most; sample ``i`` is held to ``settings["held"][i % len(held)]``."""
    held, n_new = settings.pop("held", [None]), settings.pop("n_new", 40)
    engine = make_engine(*loaded, speculative=speculative, **settings)
    order = {sample.id: i for i, sample in enumerate(samples)}
    found = dict(engine.generate(samples, Sampling(n_new), lambda sample: held[order[sample.id] % len(held)]))
    tally = engine.tally
    assert tally.n_chosen == sum(answer.n_new_tokens for answer in found.values())
    return Found([found[i] for i in range(len(samples))], tally.n_passes, tally.n_drafted, tally.n_accepted)


def rigged(folder: Path, *, copies: bool = False) -> tuple[LoadedModel, Any, str]:
    """A model that writes the longest token that it may; or one that copies, with a text of 30 different tokens that it writes.

    Its layers add nothing, so what comes next depends on the last token alone: 31 of its numbers say which token that is, one is the
    same for all.
    """
    base, renderer = load(build_tiny("qwen2", folder, tied=False))
    network, tokenizer = base.network, base.processor
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in network.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        states = torch.nn.functional.normalize(torch.randn(network.config.vocab_size, 31, generator=draws), dim=-1)
        network.model.embed_tokens.weight.copy_(torch.cat([states, torch.ones(len(states), 1)], dim=-1))
        lengths = torch.tensor([len(tokenizer.decode([token])) if token < 800 else 0 for token in range(len(states))])
        head = torch.zeros_like(network.lm_head.weight)
        head[:, 31] = lengths / 1000
        last = tokenizer.encode("assistant\n")[-1]
        text = unlike_tokens(tokenizer, 30) if copies else ""
        path = [last, *tokenizer.encode(text), renderer.stop_token_ids[0]] if copies else []
        for before, behind in pairwise(path):
            head[behind, :31] += states[before]
        network.lm_head.weight.copy_(head)
    return base, renderer, text


def unlike_tokens(tokenizer: Any, n: int) -> str:
    """A text whose tokens are all different."""
    found: list[int] = []
    for token in range(400, 800):
        text = tokenizer.decode([*found, token])
        if len(found) < n and tokenizer.encode(text) == [*found, token]:
            found.append(token)
    assert len(found) == n
    return str(tokenizer.decode(found))


def test_a_copy_of_the_prompt_takes_few_passes(tmp_path: Path) -> None:
    *loaded, text = rigged(tmp_path / "m", copies=True)
    for packed in (True, False):
        plain = answered(loaded, [ask(text)], speculative=False, packed=packed)
        quick = answered(loaded, [ask(text)], packed=packed)
        assert plain.answers == quick.answers
        assert (quick.answers[0].text, quick.answers[0].n_new_tokens, quick.answers[0].ended_by) == (text, 31, "stop")
        # The first token is chosen after the prompt.
        assert (plain.n_passes, plain.n_drafted) == (30, 0)
        assert quick.n_passes <= 6
        assert quick.n_accepted >= 24


def test_keys_of_json_take_no_passes_of_their_own(tmp_path: Path) -> None:
    *loaded, _ = rigged(tmp_path / "m")
    held = [Constraint(json_schema=SCHEMA)]
    plain = answered(loaded, rows(8), held=held, speculative=False, batch_size=8)
    quick = answered(loaded, rows(8), held=held, batch_size=8)
    assert plain.answers == quick.answers
    assert all(list(json.loads(answer.text)) == ["name", "address", "email"] for answer in quick.answers)
    assert {answer.ended_by for answer in quick.answers} == {"constraint"}
    assert quick.n_passes < 0.6 * plain.n_passes
    assert quick.n_accepted > 0.8 * quick.n_drafted


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_random_weights_answer_the_same(request: pytest.FixtureRequest, family: str, batch_size: int) -> None:
    """Free, held to a schema, to choices and to a pattern, in one batch whose rows end at all lengths and are followed by others."""
    loaded = load(request.getfixturevalue(f"tiny_{family}"))
    loaded[1].stop_token_ids += tuple(range(7, 800, 40))
    samples = rows(7 if batch_size == 1 else 14)
    plain = answered(loaded, samples, held=CONSTRAINTS, batch_size=batch_size, speculative=False)
    for packed in (True, False):
        quick = answered(loaded, samples, held=CONSTRAINTS, batch_size=batch_size, packed=packed)
        assert quick.answers == plain.answers
        assert quick.n_passes < plain.n_passes or batch_size == 16, "of a batch, the row with the most passes counts"
        assert 0 < quick.n_accepted < quick.n_drafted, "some guesses come true and others do not"
    assert {answer.ended_by for answer in plain.answers} >= {"stop", "constraint"}


def test_an_answer_is_no_longer_than_asked_for(tmp_path: Path) -> None:
    *loaded, text = rigged(tmp_path / "m", copies=True)
    for n_new in (1, 2, 3, 11, 30):
        (answer,) = answered(loaded, [ask(text)], n_new=n_new).answers
        assert (answer.n_new_tokens, answer.ended_by) == (n_new, "length")
        assert text.startswith(answer.text)


def test_drawn_tokens_are_not_guessed_and_rows_beside_them_are(tmp_path: Path) -> None:
    *loaded, text = rigged(tmp_path / "m", copies=True)
    drawing = Sampling(20, temperature=1.5, seed=3)

    def written(*, speculative: bool) -> tuple[dict[int, list[int]], int]:
        engine = make_engine(*loaded, batch_size=4, speculative=speculative)
        batch, tokens, longest = engine.step_batch(), {}, {}
        tickets = [batch.join(ask(text, i), drawing if i % 2 else Sampling(40)).ticket for i in range(4)]
        while batch.n_waiting or batch.n_working:
            for stepped in batch.step():
                tokens.setdefault(stepped.ticket, []).extend(stepped.token_ids)
                longest[stepped.ticket] = max(longest.get(stepped.ticket, 0), len(stepped.token_ids))
        assert [longest[ticket] for ticket in tickets[1::2]] == [1, 1]
        return tokens, longest[tickets[0]]

    (plain, one), (quick, several) = written(speculative=False), written(speculative=True)
    assert plain == quick
    assert one == 1
    assert several > 5


def test_thoughts_come_before_the_same_answer(tiny_qwen3: Path) -> None:
    loaded = load(tiny_qwen3, Chat(enable_thinking=True))
    network = loaded[0].network
    opening = loaded[0].processor.convert_tokens_to_ids("<think>")
    with torch.no_grad():
        # The tag's row of the head is made to win at the first place.
        prompt = loaded[1].prompt(rows()[0].prompt).input_ids
        hidden = network.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        network.lm_head.weight = torch.nn.Parameter(network.lm_head.weight.clone())
        network.lm_head.weight[opening] = hidden * 3
    held = [Constraint(json_schema=SCHEMA), Constraint(choices=CHOICES)]
    plain = answered(loaded, rows(6), held=held, n_new=120, packed=False, speculative=False)
    quick = answered(loaded, rows(6), held=held, n_new=120, packed=False)
    assert plain.answers == quick.answers
    assert quick.n_passes < plain.n_passes
    assert any("</think>" in answer.text for answer in quick.answers)


def test_guesses_are_read_behind_pictures_too(tiny_qwen2_vl: Path, tmp_path: Path) -> None:
    loaded = load(tiny_qwen2_vl)
    samples = []
    for i, size in enumerate([(60, 40), (90, 120), (40, 40)]):
        path = tmp_path / f"{i}.png"
        with torch.random.fork_rng():
            Image.effect_noise(size, 90).convert("RGB").save(path)
        samples.append(Sample(f"{i}", f"{i}", (Message("user", (Part("image", image=path), Part("text", "a question"))),)))
    plain = answered(loaded, samples, held=CONSTRAINTS[1:], speculative=False)
    quick = answered(loaded, samples, held=CONSTRAINTS[1:])
    assert plain.answers == quick.answers
    assert quick.n_accepted > 0
