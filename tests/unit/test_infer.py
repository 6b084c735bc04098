"""Batches, prefixes, label trees, and what the engine refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from weitiao.chat import make_renderer
from weitiao.errors import EngineError, RowError
from weitiao.infer import make_engine
from weitiao.infer.batches import Prompt, plan_batches, shared_prefix
from weitiao.infer.labels import ROOT, plant
from weitiao.recipe.sections import Chat
from weitiao.seams import Answer, Constraint, LoadedModel, Message, Part, Sample, Sampling, text_message

GREEDY = Sampling(max_new_tokens=4)


@pytest.fixture(scope="module")
def loaded(tiny_qwen2: Path) -> LoadedModel:
    network = AutoModelForCausalLM.from_pretrained(tiny_qwen2).eval()
    return LoadedModel(network, AutoTokenizer.from_pretrained(tiny_qwen2), tiny_qwen2, "tiny", torch.float32)


def engine_of(model: LoadedModel, **settings: Any) -> Any:
    return make_engine(model, make_renderer(model.processor, Chat(), "head"), **settings)


def ask(text: str, i: int = 1, *, shortenable: bool = False) -> Sample:
    return Sample(str(i), f"rows.jsonl:{i}", (Message("user", (Part("text", text, shortenable=shortenable),)),))


def prompt(*token_ids: int) -> Prompt:
    return Prompt(0, ask(""), list(token_ids))


def lengths(batches: list[list[Prompt]]) -> list[list[int]]:
    return [[len(row.token_ids) for row in batch] for batch in batches]


def test_prompts_of_like_length_share_a_batch_longest_first() -> None:
    prompts = [prompt(*range(n)) for n in (5, 9, 2, 7, 9)]
    assert lengths(plan_batches(prompts, batch_size=2, n_new_tokens=4, cache_tokens=10**6, read_tokens=10**6)) == [[9, 9], [7, 5], [2]]


def test_a_pass_reads_no_more_tokens_than_it_may_but_a_row_is_never_cut() -> None:
    prompts = [prompt(*range(n)) for n in (30, 9, 9, 9)]
    # With its candidates a row of 9 reads 11 tokens: two of them in a pass of 25.
    assert lengths(plan_batches(prompts, batch_size=9, n_new_tokens=2, cache_tokens=10**6, read_tokens=25)) == [[30], [9, 9], [9]]


def test_a_batch_never_outgrows_the_memory_for_keys_and_values() -> None:
    prompts = [prompt(*range(n)) for n in (20, 20, 6, 6, 6, 6)]
    # 24 tokens per row with the answer, then 10: one row of the long ones, three of the short ones fit into 30.
    assert lengths(plan_batches(prompts, batch_size=16, n_new_tokens=4, cache_tokens=30, read_tokens=10**6)) == [[20], [20], [6, 6, 6], [6]]


def test_a_prompt_that_fills_memory_alone_is_still_answered() -> None:
    assert lengths(plan_batches([prompt(1, 2, 3)], batch_size=4, n_new_tokens=4, cache_tokens=1, read_tokens=10**6)) == [[3]]


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        pytest.param([[*range(10), 50], [*range(10), 60, 61], [*range(12)]], list(range(10)), id="common beginning"),
        pytest.param([[*range(10)], [*range(10), 60]], list(range(9)), id="the shortest keeps its last token"),
        pytest.param([[*range(5), 50], [*range(5), 60]], [], id="too short to be worth it"),
        pytest.param([[*range(20)]], [], id="a single row"),
        pytest.param([], [], id="no row"),
    ],
)
def test_shared_prefix(rows: list[list[int]], shared: list[int]) -> None:
    assert shared_prefix([prompt(*row) for row in rows]) == shared


def test_labels_with_a_common_beginning_share_its_tokens() -> None:
    tree = plant([(5, 6, 9), (5, 9), (7, 9), (9,)])
    assert tree.token_ids == [5, 6, 7]
    assert tree.parents == [ROOT, 0, ROOT]
    assert tree.paths == [[ROOT, 0, 1], [ROOT, 0], [ROOT, 2], [ROOT]]


def test_no_rows_give_no_answers(loaded: LoadedModel) -> None:
    engine = engine_of(loaded)
    assert list(engine.generate([], GREEDY)) == []
    assert list(engine.score_labels([], lambda _sample: ["a"])) == []
    assert list(engine.likelihood([])) == []


def test_a_prompt_beyond_the_models_positions_is_named(loaded: LoadedModel) -> None:
    with pytest.raises(EngineError) as caught:
        list(engine_of(loaded).generate([ask("hi"), ask("一二三 " * 900, 2)], GREEDY))
    assert caught.value.where == "rows.jsonl:2"
    assert "the model has 2048 positions" in caught.value.what


def test_a_prompt_is_shortened_where_it_may_be(loaded: LoadedModel) -> None:
    engine = engine_of(loaded, max_prompt_tokens=60)
    answers: list[Answer] = [answer for _, answer in engine.generate([ask("一二三 " * 900, shortenable=True)], GREEDY)]
    assert 50 <= answers[0].n_prompt_tokens <= 60
    with pytest.raises(RowError) as caught:
        list(engine.generate([ask("一二三 " * 900, 7)], GREEDY))
    assert caught.value.where == "rows.jsonl:7"


def test_a_likelihood_needs_an_answer(loaded: LoadedModel) -> None:
    with pytest.raises(RowError) as caught:
        list(engine_of(loaded).likelihood([ask("hi", 3)]))
    assert caught.value.where == "rows.jsonl:3"


def test_a_row_without_candidates_is_named(loaded: LoadedModel) -> None:
    with pytest.raises(EngineError, match=r"rows\.jsonl:4: there is no label to choose from"):
        list(engine_of(loaded).score_labels([ask("hi", 4)], lambda _sample: []))


def test_a_repeated_candidate_counts_once(loaded: LoadedModel) -> None:
    ((_, answer),) = engine_of(loaded).score_labels([ask("hi")], lambda _sample: ["a", "b", "a"])
    assert answer.label_probabilities is not None
    assert list(answer.label_probabilities) == ["a", "b"]
    assert sum(answer.label_probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        pytest.param(Constraint(json_schema={"type": "no such type"}), "the constraint cannot be compiled", id="schema"),
        pytest.param(Constraint(json_schema={"type": "object"}, choices=("a",)), "only one of them", id="both"),
        pytest.param(Constraint(choices=()), "a constraint offers no choice", id="no choice"),
    ],
)
def test_a_constraint_that_cannot_be_followed_is_refused(loaded: LoadedModel, constraint: Constraint, message: str) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        list(engine_of(loaded).generate([ask("hi", 5)], GREEDY, lambda _sample: constraint))
    assert caught.value.where == "rows.jsonl:5"


def test_an_empty_constraint_means_anything(loaded: LoadedModel) -> None:
    free = list(engine_of(loaded).generate([ask("hi")], GREEDY))
    assert list(engine_of(loaded).generate([ask("hi")], GREEDY, lambda _sample: Constraint())) == free


def test_a_choice_that_begins_another_choice_can_be_the_answer(loaded: LoadedModel) -> None:
    rows = [ask(str(i), i) for i in range(40)]
    sampling = Sampling(max_new_tokens=12, temperature=3.0)
    answers = [answer for _, answer in engine_of(loaded).generate(rows, sampling, lambda _sample: Constraint(choices=("财", "财经")))]
    assert {(answer.text, answer.ended_by) for answer in answers} == {("财", "stop"), ("财经", "constraint")}


def test_weights_that_are_not_finite_are_an_error_and_not_an_answer(tiny_qwen2: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_qwen2).eval()
    with torch.no_grad():
        network.model.norm.weight.fill_(float("nan"))
    broken = LoadedModel(network, AutoTokenizer.from_pretrained(tiny_qwen2), tiny_qwen2, "tiny", torch.float32)
    with pytest.raises(EngineError, match="not finite"):
        list(engine_of(broken).generate([ask("hi")], GREEDY))


def test_a_prompt_with_an_image_is_refused_by_a_text_model(loaded: LoadedModel) -> None:
    photo = Sample("1", "rows.jsonl:6", (Message("user", (Part("image", image=Path("photo.png")), Part("text", "hi"))),))
    with pytest.raises(RowError, match=r"rows\.jsonl:6: the row holds an image, and this model reads text only"):
        list(engine_of(loaded).generate([photo], GREEDY))


def test_logits_exist_only_where_they_are_needed_and_never_many_at_once(loaded: LoadedModel) -> None:
    seen: list[int] = []
    hook = loaded.network.lm_head.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].reshape(-1, 32).shape[0]))
    rows = [Sample(str(i), f"rows:{i}", (text_message("user", "问" * 30), text_message("assistant", "答" * 60))) for i in range(8)]
    try:
        engine = engine_of(loaded, packed=False, speculative=False)
        list(engine.generate(rows, GREEDY))
        assert seen == [8] * 4, "one position per row and new token, also while prompts are read"
        seen.clear()
        ((_, answer), *_) = engine.likelihood(rows)
        assert answer.n_new_tokens > 60
        assert sum(seen) == 8 * answer.n_new_tokens
        assert max(seen) <= 256
        seen.clear()
        list(engine.score_labels(rows, lambda _sample: [f"标签{i}号" for i in range(40)]))
        assert len(seen) > 1
        assert max(seen) <= 256
    finally:
        hook.remove()


def test_many_labels_do_not_count_as_one_long_answer(loaded: LoadedModel) -> None:
    labels = [f"标签{i}号" for i in range(400)]
    ((_, answer),) = engine_of(loaded).score_labels([ask("一" * 900)], lambda _sample: labels)
    assert answer.text in labels


def test_a_model_with_other_layers_than_full_attention_is_refused(tiny_qwen2: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_qwen2)
    network.config.layer_types = ["full_attention", "linear_attention"]
    model = LoadedModel(network, AutoTokenizer.from_pretrained(tiny_qwen2), tiny_qwen2, "tiny", torch.float32)
    with pytest.raises(EngineError, match="full-attention models only"):
        engine_of(model)
