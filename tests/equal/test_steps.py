"""Prompts that join and leave a batch between its steps are answered as each of them is alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.tiny import sentences

from weitiao import chat, model
from weitiao.errors import EngineError, RowError
from weitiao.infer import StepBatch, make_engine, make_step_batch
from weitiao.recipe.sections import Chat, Model
from weitiao.seams import Answer, Constraint, Message, Part, Sample, Sampling, text_message

SYSTEM = "You are a helpful assistant. The model answers a question about complaint data with name, address, email and text."


def question(name: str, text: str, system: str = SYSTEM) -> Sample:
    return Sample(name, name, (text_message("system", system), text_message("user", text)))


SAMPLES = [question(f"row {i}", text * (1 + i % 3)) for i, text in enumerate(sentences(8, seed=3))]


@pytest.fixture(scope="module")
def loaded(tiny_qwen3: Path) -> tuple[Any, Any]:
    # In float32: random weights' choices are close, and 16 bits round a row beside others to another one.
    base = model.load_base(Model(path=str(tiny_qwen3), dtype="float32"))
    return base, chat.make_renderer(base.processor, Chat())


def alone(loaded: tuple[Any, Any], sample: Sample, sampling: Sampling, constraint: Constraint | None = None) -> Answer:
    return dict(make_engine(*loaded).generate([sample], sampling, lambda _: constraint))[0]


def run_out(batch: StepBatch, answers: dict[int, Answer], written: dict[int, list[int]] | None = None, n_steps: int = 1000) -> None:
    for _ in range(n_steps):
        stepped = batch.step()
        if not stepped:
            return
        for step in stepped:
            if written is not None:
                written.setdefault(step.ticket, []).extend(step.token_ids)
            if step.answer is not None:
                answers[step.ticket] = step.answer


def test_those_who_join_later_get_the_answers_that_they_get_alone(loaded):
    batch, answers, written = make_step_batch(*loaded, batch_size=4), {}, {}
    tickets = {}
    for i, sample in enumerate(SAMPLES):
        tickets[batch.join(sample, Sampling(10 + i)).ticket] = i
        run_out(batch, answers, written, n_steps=2)
    run_out(batch, answers, written)
    assert {tickets[ticket]: answer for ticket, answer in answers.items()} == {
        i: alone(loaded, sample, Sampling(10 + i)) for i, sample in enumerate(SAMPLES)
    }
    for ticket, answer in answers.items():
        assert loaded[1].decode(written[ticket]) == answer.text
        assert len(written[ticket]) == answer.n_new_tokens


def test_who_leaves_is_not_heard_of_and_changes_nobody(loaded):
    batch, answers, written = make_step_batch(*loaded, batch_size=8), {}, {}
    tickets = [batch.join(sample, Sampling(20)).ticket for sample in SAMPLES[:4]]
    waiting = batch.join(SAMPLES[4], Sampling(20)).ticket
    run_out(batch, answers, written, n_steps=5)
    for ticket in (tickets[0], tickets[2], waiting):
        batch.leave(ticket)
    n_written = len(written[tickets[0]])
    run_out(batch, answers, written)
    assert set(answers) == {tickets[1], tickets[3]}
    assert len(written[tickets[0]]) == n_written
    assert [answers[tickets[i]] for i in (1, 3)] == [alone(loaded, SAMPLES[i], Sampling(20)) for i in (1, 3)]


def test_each_row_has_its_own_sampling_and_constraint(loaded):
    asked = [
        (Sampling(12), None),
        (Sampling(12, temperature=1.3, top_p=0.9, seed=5), None),
        (Sampling(12, temperature=1.3, top_p=0.9, seed=6), None),
        (Sampling(40), Constraint(json_schema={"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"]})),
        (Sampling(12), Constraint(choices=("体育", "财经"))),
    ]
    batch, answers = make_step_batch(*loaded, batch_size=8), {}
    tickets = []
    for i, (sampling, constraint) in enumerate(asked):
        tickets.append(batch.join(SAMPLES[i], sampling, constraint).ticket)
        run_out(batch, answers, n_steps=1)
    run_out(batch, answers)
    assert [answers[ticket] for ticket in tickets] == [alone(loaded, SAMPLES[i], *asked[i]) for i in range(len(asked))]
    assert answers[tickets[4]].text in ("体育", "财经")


def test_no_more_rows_than_asked_for_and_the_first_comes_first(loaded):
    batch = make_step_batch(*loaded, batch_size=2)
    tickets = [batch.join(sample, Sampling(4)).ticket for sample in SAMPLES[:5]]
    seen = []
    while stepped := batch.step():
        assert len({step.ticket for step in stepped}) <= 4  # two that end and two that begin
        seen += [step.ticket for step in stepped if step.answer]
    assert seen == tickets


def test_the_cache_is_no_wider_than_its_longest_row(loaded):
    batch = make_step_batch(*loaded, batch_size=2)
    for i in range(30):
        batch.join(question(f"{i}", "a question"), Sampling(3 + i % 4))
    longest = batch.join(question("last", "a question"), Sampling(3)).n_prompt_tokens + 6
    while batch.step():
        assert batch.n_columns <= longest


def test_a_prompt_that_cannot_be_answered_is_refused_and_the_rest_goes_on(loaded):
    batch, answers = make_step_batch(*loaded, batch_size=4), {}
    ticket = batch.join(SAMPLES[0], Sampling(5)).ticket
    with pytest.raises(EngineError, match="2048 positions"):
        batch.join(SAMPLES[1], Sampling(2048))
    with pytest.raises(RowError, match="5 allowed"):
        batch.join(SAMPLES[1], Sampling(5), max_prompt_tokens=5)
    with pytest.raises(EngineError, match="cannot be compiled"):
        batch.join(SAMPLES[1], Sampling(5), Constraint(json_schema={"type": "sausage"}))
    run_out(batch, answers)
    assert answers == {ticket: alone(loaded, SAMPLES[0], Sampling(5))}


def test_another_system_message_is_another_beginning(loaded):
    samples = [
        question(f"{i}", sentences(4)[i % 4], system) for i, system in enumerate([SYSTEM, "a model", SYSTEM, SYSTEM, "a model", SYSTEM])
    ]
    batch, answers = make_step_batch(*loaded, batch_size=4), {}
    for sample in samples:
        batch.join(sample, Sampling(6))
        run_out(batch, answers, n_steps=1)
    run_out(batch, answers)
    assert [answers[i] for i in range(6)] == [alone(loaded, sample, Sampling(6)) for sample in samples]


def test_pictures_join_too(tiny_qwen2_vl: Path, tmp_path: Path):
    base = model.load_base(Model(path=str(tiny_qwen2_vl), dtype="float32"))
    loaded = base, chat.make_renderer(base.processor, Chat())
    samples = []
    for i, (width, height) in enumerate([(60, 40), (90, 120)]):
        path = tmp_path / f"{i}.png"
        Image.effect_noise((width, height), 90).convert("RGB").save(path)
        samples.append(Sample(f"{i}", f"{i}", (Message("user", (Part("image", image=path), Part("text", "a question"))),)))
    samples.append(Sample("text", "text", (text_message("user", "a question about text"),)))
    batch, answers = make_step_batch(*loaded, batch_size=4), {}
    with torch.random.fork_rng():
        for sample in samples:
            batch.join(sample, Sampling(8))
            run_out(batch, answers, n_steps=2)
        run_out(batch, answers)
    assert [answers[i] for i in range(3)] == [alone(loaded, sample, Sampling(8)) for sample in samples]
