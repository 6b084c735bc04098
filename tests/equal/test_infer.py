"""The engine against transformers used the plain way: one row, no cache, every token read again at each step."""

import contextvars
import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.tiny import build_tiny, sentences
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, AutoTokenizer

from weitiao import log
from weitiao.chat import make_renderer
from weitiao.errors import EngineError
from weitiao.infer import make_engine
from weitiao.infer.network import plain_network
from weitiao.infer.packed import PackedReader, can_pack, side_by_side
from weitiao.infer.spans import Span
from weitiao.recipe.sections import Chat
from weitiao.seams import Constraint, LoadedModel, Message, Sample, Sampling, text_message

SYSTEM = text_message("system", "将文本中的name、address提取出来，以json格式输出。")
TEXTS = [line for line in sentences(28) if not line.startswith("{")] + ["", "hi", "一" * 60]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "address": {"type": "string", "maxLength": 6}},
    "required": ["name", "address"],
    "additionalProperties": False,
}
LABELS = ["体育", "财经", "体育新闻", "科技 (science)", "财", "x"]


def samples(*, system: Message | None = SYSTEM, answers: bool = False) -> list[Sample]:
    made = []
    for i, text in enumerate(TEXTS):
        turns = [text_message("user", text)] + ([text_message("assistant", f"答{text[:i]}")] if answers else [])
        made.append(Sample(str(i), f"rows.jsonl:{i + 1}", ((system,) if system else ()) + tuple(turns)))
    return made


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return load(request.getfixturevalue(f"tiny_{request.param}"))


def load(folder: Path) -> LoadedModel:
    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    return LoadedModel(network, AutoTokenizer.from_pretrained(folder), folder, folder.name, torch.float32)


@pytest.fixture(params=["packed", "plain"])
def packed(request: pytest.FixtureRequest) -> bool:
    """Which of the two readers answers."""
    return bool(request.param == "packed")


def renderer_of(model: LoadedModel) -> Any:
    return make_renderer(model.processor, Chat(), "head")


def renderer_with_many_stops(model: LoadedModel) -> Any:
    """Random weights hardly ever choose the real stop token; every twentieth token does it here, so that rows end at all lengths."""
    renderer = renderer_of(model)
    renderer.stop_token_ids += tuple(range(7, 800, 20))
    return renderer


@torch.no_grad()
def plain_logits(network: Any, token_ids: list[int]) -> torch.Tensor:
    return network(torch.tensor([token_ids]), use_cache=False).logits[0].double()


def plain_greedy(model: LoadedModel, renderer: Any, sample: Sample, n_new: int) -> tuple[list[int], bool]:
    token_ids, answer = renderer.prompt(sample.prompt).input_ids, []
    while len(answer) < n_new and (not answer or answer[-1] not in renderer.stop_token_ids):
        answer.append(int(plain_logits(model.network, token_ids + answer)[-1].argmax()))
    return answer, answer[-1] in renderer.stop_token_ids


def test_a_batch_of_unequal_rows_answers_as_each_row_alone(loaded: LoadedModel, packed: bool) -> None:
    renderer = renderer_with_many_stops(loaded)
    found = dict(make_engine(loaded, renderer, batch_size=8, packed=packed).generate(samples(), Sampling(max_new_tokens=24)))
    assert sorted(found) == list(range(len(TEXTS)))
    ends = set()
    for i, sample in enumerate(samples()):
        answer, stopped = plain_greedy(loaded, renderer, sample, 24)
        assert found[i].text == renderer.decode(answer)
        assert found[i].n_new_tokens == len(answer)
        assert found[i].n_prompt_tokens == len(renderer.prompt(sample.prompt).input_ids)
        assert found[i].ended_by == ("stop" if stopped else "length")
        ends.add(found[i].ended_by)
    assert ends == {"stop", "length"}


def test_without_a_common_beginning_answers_are_those_of_each_row_alone(loaded: LoadedModel) -> None:
    renderer = renderer_of(loaded)
    rows = [Sample(str(i), f"rows:{i}", (text_message("system", text + "。"), text_message("user", "?"))) for i, text in enumerate(TEXTS)]
    found = dict(make_engine(loaded, renderer, batch_size=5).generate(rows, Sampling(max_new_tokens=12)))
    assert [found[i].text for i in range(len(rows))] == [renderer.decode(plain_greedy(loaded, renderer, row, 12)[0]) for row in rows]


def test_greedy_equals_transformers_generate(loaded: LoadedModel) -> None:
    renderer = renderer_of(loaded)
    found = dict(make_engine(loaded, renderer, batch_size=16).generate(samples(), Sampling(max_new_tokens=24)))
    prompts = [renderer.prompt(sample.prompt).input_ids for sample in samples()]
    width = max(map(len, prompts))
    padded = torch.tensor([[renderer.pad_token_id] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    stock = loaded.network.generate(input_ids=padded, attention_mask=mask, max_new_tokens=24, do_sample=False)[:, width:]
    assert [found[i].text for i in range(len(prompts))] == [renderer.decode(row.tolist()) for row in stock]


def test_sampled_answers_depend_on_the_seed_and_not_on_the_batch(loaded: LoadedModel) -> None:
    def answers(batch_size: int, seed: int) -> list[str]:
        engine = make_engine(loaded, renderer_of(loaded), batch_size)
        sampling = Sampling(max_new_tokens=8, temperature=0.8, top_p=0.95, top_k=40, seed=seed)
        return [answer.text for _, answer in sorted(engine.generate(samples(), sampling), key=lambda pair: pair[0])]

    assert answers(1, 7) == answers(16, 7)
    assert answers(16, 7) != answers(16, 8)


def test_sampling_draws_from_the_tokens_that_top_k_and_top_p_leave(tiny_qwen2: Path) -> None:
    model = load(tiny_qwen2)
    renderer = renderer_of(model)
    rows = [Sample(str(i), "rows:1", (SYSTEM, text_message("user", "hi"))) for i in range(400)]
    logits = plain_logits(model.network, renderer.prompt(rows[0].prompt).input_ids)[-1]
    best = logits.topk(4).indices.tolist()
    shares = (logits[best] / 0.7).softmax(dim=0)
    engine = make_engine(model, renderer, batch_size=400)
    drawn = [answer.text for _, answer in engine.generate(rows, Sampling(max_new_tokens=1, temperature=0.7, top_k=4))]
    counts = torch.tensor([drawn.count(renderer.decode([token])) for token in best], dtype=torch.double)
    assert counts.sum() == 400
    torch.testing.assert_close(counts / 400, shares, atol=0.08, rtol=0)
    nucleus = {
        answer.text
        for _, answer in engine.generate(rows, Sampling(max_new_tokens=1, temperature=0.7, top_k=4, top_p=float(shares[0]) - 0.01))
    }
    assert nucleus == {renderer.decode([best[0]])}


def constrained_reference(model: LoadedModel, sample: Sample, is_possible: Callable[[str], bool], n_new: int) -> str:
    """Greedy over tokens after which some finished answer is still possible."""
    renderer = renderer_of(model)
    token_ids, answer = renderer.prompt(sample.prompt).input_ids, []
    while len(answer) < n_new:
        for token in plain_logits(model.network, token_ids + answer)[-1].argsort(descending=True).tolist():
            if token in renderer.stop_token_ids or token >= 800:
                continue
            if is_possible(model.processor.decode([*answer, token])):
                answer.append(token)
                break
        else:
            break
    return str(renderer.decode(answer))


def test_choices_are_decoded_as_a_greedy_walk_through_the_choices(tiny_qwen2: Path) -> None:
    model = load(tiny_qwen2)
    choices = ("position", "address", "complaint data")
    engine = make_engine(model, renderer_of(model))
    found = dict(engine.generate(samples(), Sampling(max_new_tokens=30), lambda _sample: Constraint(choices=choices)))
    for i, sample in enumerate(samples()):
        expected = constrained_reference(model, sample, lambda text: any(choice.startswith(text) for choice in choices), 30)
        assert found[i].text == expected
        assert found[i].text in choices
        assert found[i].ended_by == "constraint"


def test_a_schema_gives_json_in_the_style_of_the_trained_answers(loaded: LoadedModel) -> None:
    engine = make_engine(loaded, renderer_of(loaded))
    found = dict(engine.generate(samples(), Sampling(max_new_tokens=200, temperature=1.0), lambda _sample: Constraint(json_schema=SCHEMA)))
    for answer in found.values():
        assert answer.ended_by == "constraint"
        value = json.loads(answer.text)
        assert list(value) == ["name", "address"]
        assert answer.text.startswith('{"name": "')
        assert '", "address": "' in answer.text
    assert any(ord(letter) > 127 for answer in found.values() for letter in answer.text), "raw Chinese must be allowed"


@pytest.mark.parametrize("limit", [20, 26, 40])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_schema_gives_whole_json_however_few_tokens_are_left(loaded: LoadedModel, limit: int, temperature: float) -> None:
    names = {"type": "array", "items": {"type": "string"}}
    fields = {"address": {"type": "string"}, "names": names, "kind": {"enum": ["地点", "机构"]}, "total": {"type": ["number", "null"]}}
    schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    held = Constraint(json_schema=schema)
    engine = make_engine(loaded, renderer_of(loaded))
    whole = '{"address": "", "names": [], "kind": "地点", "total": null}'
    limit += len(loaded.processor.encode(whole, add_special_tokens=False))
    sampling = Sampling(limit, temperature=temperature)
    found = dict(engine.generate(samples(), sampling, lambda _sample: held))
    cut = [answer for answer in found.values() if answer.ended_by == "length"]
    assert len(cut) > len(found) / 2, "weights that know nothing write on and on"
    for answer in found.values():
        assert list(json.loads(answer.text)) == list(fields)
        assert json.loads(answer.text)["kind"] in ("地点", "机构")
        assert answer.n_new_tokens <= limit
    longer = dict(engine.generate(samples(), replace(sampling, max_new_tokens=limit + 40), lambda _sample: held))
    own = [sum(a == b for a, b in zip(longer[i].text, answer.text, strict=False)) for i, answer in found.items()]
    assert sum(own) / len(own) > 15, "up to its end the answer is the model's own"


def test_an_answer_that_cannot_be_whole_is_cut_at_its_limit(loaded: LoadedModel) -> None:
    engine = make_engine(loaded, renderer_of(loaded))
    found = dict(engine.generate(samples(), Sampling(5), lambda _sample: Constraint(json_schema=SCHEMA)))
    assert {(answer.ended_by, answer.n_new_tokens) for answer in found.values()} == {("length", 5)}


def test_a_list_by_pattern_ends_behind_a_whole_entry(loaded: LoadedModel) -> None:
    entry = r'\{"name": "[a-z一-龥]+", "kind": "(PER|ORG)"\}'
    pattern = rf"{entry}(\n{entry})*"
    found = dict(make_engine(loaded, renderer_of(loaded)).generate(samples(), Sampling(90), lambda _sample: Constraint(regex=pattern)))
    assert any(answer.ended_by == "length" for answer in found.values())
    for answer in found.values():
        assert all(json.loads(line)["kind"] in ("PER", "ORG") for line in answer.text.split("\n"))


def test_label_probabilities_are_those_of_each_whole_sequence(loaded: LoadedModel, packed: bool) -> None:
    renderer = renderer_of(loaded)
    rows = samples()
    offered = {sample.id: (LABELS if i % 3 else LABELS[1:3] + LABELS[:1]) for i, sample in enumerate(rows)}
    found = dict(make_engine(loaded, renderer, batch_size=6, packed=packed).score_labels(rows, lambda sample: offered[sample.id]))
    for i, sample in enumerate(rows):
        prompt = renderer.prompt(sample.prompt).input_ids
        sums = []
        for label in offered[sample.id]:
            whole = renderer.conversation([*sample.prompt, text_message("assistant", label)])
            answer = [token for token, on in zip(whole.input_ids, whole.trained, strict=True) if on]
            assert answer[-1] == renderer.stop_token_ids[0]
            log_probs = plain_logits(loaded.network, prompt + answer).log_softmax(dim=-1)
            sums.append(sum(float(log_probs[len(prompt) + k - 1, token]) for k, token in enumerate(answer)))
        expected = torch.tensor(sums).softmax(dim=0)
        assert found[i].label_probabilities is not None
        assert list(found[i].label_probabilities) == offered[sample.id]
        torch.testing.assert_close(torch.tensor(list(found[i].label_probabilities.values())), expected, atol=1e-5, rtol=1e-4)
        assert found[i].text == offered[sample.id][int(expected.argmax())]
        assert math.isclose(sum(found[i].label_probabilities.values()), 1, abs_tol=1e-9)


def test_likelihood_is_that_of_the_trained_tokens(loaded: LoadedModel) -> None:
    renderer = renderer_of(loaded)
    document = Sample("d", "rows.jsonl:99", (text_message("assistant", TEXTS[0]),))
    rows = [*samples(answers=True), document]
    found = dict(make_engine(loaded, renderer, batch_size=7).likelihood(rows))
    for i, sample in enumerate(rows):
        rendered = renderer.conversation(sample.messages)
        log_probs = plain_logits(loaded.network, rendered.input_ids).log_softmax(dim=-1)
        places = [k for k, on in enumerate(rendered.trained) if on and k > 0]
        expected = -sum(float(log_probs[k - 1, rendered.input_ids[k]]) for k in places)
        assert found[i].n_new_tokens == len(places)
        assert found[i].nll == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("left_over", [False, True])
def test_a_long_document_is_scored_in_the_pieces_that_are_trained(loaded: LoadedModel, left_over: bool) -> None:
    renderer = renderer_of(loaded)
    document = Sample("d", "laws.txt", (text_message("assistant", " ".join(TEXTS[:12])),))
    ids = renderer.conversation(document.messages).input_ids
    width = len(ids) - 1 if left_over else 32  # a piece of one token has nothing to score
    assert len(ids) > 64
    expected, count = 0.0, 0
    for start in range(0, len(ids), width):
        piece = ids[start : start + width]
        log_probs = plain_logits(loaded.network, piece).log_softmax(dim=-1)
        expected -= sum(float(log_probs[k - 1, piece[k]]) for k in range(1, len(piece)))
        count += len(piece) - 1
    found = dict(make_engine(loaded, renderer, batch_size=2, max_prompt_tokens=width).likelihood([document, document]))
    for answer in found.values():
        assert (answer.n_new_tokens, answer.nll) == (count, pytest.approx(expected, rel=1e-5))
    assert len(found) == 2


def test_an_adapter_is_used_and_train_mode_comes_back(tmp_path: Path, packed: bool) -> None:
    model = load(build_tiny("qwen3", tmp_path / "m", seed=3))
    config = LoraConfig(r=4, lora_alpha=32, lora_dropout=0.5, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    tuned = LoadedModel(get_peft_model(model.network, config), model.processor, model.path, model.name, torch.float32)
    tuned.network.train()
    tuned.network.base_model.model.model.layers[0].eval()
    before = [module.training for module in tuned.network.modules()]
    renderer = renderer_of(tuned)
    found = dict(make_engine(tuned, renderer, packed=packed).generate(samples(), Sampling(max_new_tokens=10)))
    assert [module.training for module in tuned.network.modules()] == before
    tuned.network.eval()
    assert [found[i].text for i in range(len(TEXTS))] == [renderer.decode(plain_greedy(tuned, renderer, s, 10)[0]) for s in samples()]


def test_float32_weights_answer_in_the_dtype_of_the_arithmetic(tiny_qwen3: Path) -> None:
    exact = load(tiny_qwen3)
    rough = replace(exact, dtype=torch.bfloat16)
    exact_scores, rough_scores = (
        [
            list((answer.label_probabilities or {}).values())
            for _, answer in make_engine(model, renderer_of(model)).score_labels(samples(), lambda _sample: LABELS)
        ]
        for model in (exact, rough)
    )
    difference = (torch.tensor(exact_scores) - torch.tensor(rough_scores)).abs().max()
    assert 1e-4 < difference < 0.1
    assert len(list(make_engine(rough, renderer_of(rough)).generate(samples(), Sampling(max_new_tokens=3)))) == len(TEXTS)


def lora(model: LoadedModel, *targets: str) -> LoadedModel:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(targets), init_lora_weights=False)
    return replace(model, network=get_peft_model(model.network, config).eval())


def logits_of(reader: Any, rows: list[list[int]]) -> torch.Tensor:
    """Logits after every token of the rows, read in one pass."""
    cache = reader.new_cache()
    cache.reserve(len(rows), max(map(len, rows)))
    return reader.logits(reader.read(cache, [Span(cache.open(None, 0), 0, row) for row in rows]))


@pytest.mark.parametrize("targets", [(), ("q_proj", "k_proj", "up_proj", "down_proj"), ("v_proj", "o_proj", "gate_proj")], ids=len)
def test_packed_weights_give_the_logits_of_the_network(tmp_path: Path, targets: tuple[str, ...]) -> None:
    for family in ("qwen2", "qwen3"):
        model = load(build_tiny(family, tmp_path / family, seed=5, tied=family == "qwen2"))
        tuned = lora(model, *targets) if targets else model
        network = plain_network(tuned.network)
        assert can_pack(network, torch.float32)
        before = {name: weight.clone() for name, weight in network.state_dict().items()}
        rows = [renderer_of(model).prompt(sample.prompt).input_ids for sample in samples()[:5]]
        found = logits_of(PackedReader(network, torch.float32), rows)
        plain = torch.cat([plain_logits(network, row) for row in rows]).float()
        # Logits reach 8; rounding alone differs by up to 5e-4 between the kernels of different processors, a fault by 1 and more.
        torch.testing.assert_close(found, plain, atol=1e-3, rtol=1e-3)
        assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items()), "the network is not touched"


def test_an_engine_sees_the_weights_of_the_moment_and_one_that_holds_them_does_not(tmp_path: Path) -> None:
    tuned = lora(load(build_tiny("qwen2", tmp_path / "m", seed=4)), "q_proj", "v_proj", "down_proj")
    engines = [make_engine(tuned, renderer_of(tuned), hold=hold) for hold in (False, True)]

    def labels(engine: Any) -> list[Any]:
        return [answer.label_probabilities for _, answer in sorted(engine.score_labels(samples(), lambda _s: LABELS), key=lambda x: x[0])]

    first = [labels(engine) for engine in engines]
    assert first[0] == first[1]
    with torch.no_grad():
        for name, weight in tuned.network.named_parameters():
            if "lora_B" in name:
                weight.mul_(2)
    assert labels(engines[0]) != first[0]
    assert labels(engines[1]) == first[1]


def test_laying_weights_out_gives_freed_memory_back_first(loaded: LoadedModel) -> None:
    if not can_pack(plain_network(loaded.network), torch.float32) or not hasattr(psutil, "heap_trim"):
        pytest.skip("weights are read as they stand here, or this system's heap cannot be trimmed")
    process = psutil.Process()
    blocks = [torch.ones(25_000) for _ in range(3000)]  # 100 kB each: of the heap, and the last one keeps it from shrinking by itself
    blocks[:-1] = []
    held = process.memory_info().rss
    PackedReader(plain_network(loaded.network), torch.float32)
    assert held - process.memory_info().rss > 200e6


def test_a_single_matrix_is_not_copied_before_it_is_laid_out(loaded: LoadedModel) -> None:
    head = plain_network(loaded.network).get_output_embeddings()
    assert side_by_side([head], torch.float32)[0].data_ptr() == head.weight.data_ptr()


def test_adapters_on_sixteen_bit_weights_stay_products_of_their_own(tmp_path: Path) -> None:
    model = lora(load(build_tiny("qwen2", tmp_path / "m", seed=4)), "q_proj", "v_proj")
    attention = plain_network(model.network).base_model.layers[0].self_attn
    x_NH = torch.randn(7, 32)
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    with torch.no_grad():
        expected = torch.cat([layer(x_NH) for layer in layers], dim=-1)
        weight, bias, down, up = side_by_side(layers, torch.bfloat16)
        assert weight.dtype == torch.bfloat16
        assert (down.shape, up.shape) == ((8, 32), (64, 8))
        found = linear(x_NH.bfloat16(), weight, bias) + linear(linear(x_NH.bfloat16(), down), up)
    torch.testing.assert_close(found.float(), expected, atol=0.15, rtol=0.05)
    assert torch.equal(weight[:32].float(), attention.q_proj.weight.bfloat16().float()), "nothing is rounded away"


def test_rows_that_join_and_leave_change_no_answer(loaded: LoadedModel, packed: bool) -> None:
    renderer = renderer_with_many_stops(loaded)
    engine = make_engine(loaded, renderer, batch_size=3, packed=packed)
    batch, waiting, answers, tokens = engine.step_batch(), deque(samples()), {}, {}
    names: dict[int, Sample] = {}
    for n_steps in range(400):
        if waiting and n_steps % 2 == 0:
            sample = waiting.popleft()
            asked = sample.messages if n_steps % 4 else sample
            names[batch.join(asked, Sampling(max_new_tokens=20)).ticket] = sample
        for stepped in batch.step():
            tokens.setdefault(stepped.ticket, []).extend(stepped.token_ids)
            if stepped.ticket == 4 and len(tokens[4]) == 2:
                batch.leave(4)
            elif stepped.answer:
                answers[stepped.ticket] = stepped.answer
        assert batch.n_working <= 3
    assert batch.n_waiting == batch.n_working == 0
    assert sorted(answers) == [i for i in range(len(TEXTS)) if i != 4 or len(tokens[4]) < 2]
    for number, answer in answers.items():
        expected, _ = plain_greedy(loaded, renderer, names[number], 20)
        assert tokens[number] == expected
        assert answer.text == renderer.decode(expected)


def test_a_constraint_begins_after_the_thoughts(tiny_qwen3: Path) -> None:
    model = load(tiny_qwen3)
    renderer = make_renderer(model.processor, Chat(enable_thinking=True), "head")
    opening, closing = (model.processor.convert_tokens_to_ids(tag) for tag in ("<think>", "</think>"))
    with torch.no_grad():
        # Random weights hardly ever think: the head's row of the tag is made to win at the first place, where the prompt ends alike.
        prompt = renderer.prompt(samples()[0].prompt).input_ids
        hidden = model.network.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        model.network.lm_head.weight = torch.nn.Parameter(model.network.lm_head.weight.clone())
        model.network.lm_head.weight[opening] = hidden * 3
    found = dict(
        make_engine(model, renderer, packed=False).generate(samples()[:1], Sampling(200), lambda _s: Constraint(json_schema=SCHEMA))
    )
    tokens = model.processor.encode(found[0].text, add_special_tokens=False)
    assert tokens[0] == opening
    thoughts, answer = found[0].text.split("</think>")
    assert tokens.count(closing) == 1
    assert not any(token in renderer.stop_token_ids for token in tokens[: tokens.index(closing)])
    assert tokens.index(closing) <= 160, "thoughts end in time for the answer"
    assert len(thoughts) > 20
    assert answer.startswith("\n\n{")
    assert list(json.loads(answer)) == ["name", "address"]
    assert found[0].ended_by == "constraint"


def test_an_answer_may_also_begin_without_thoughts(tiny_qwen3: Path) -> None:
    model = load(tiny_qwen3)
    renderer = make_renderer(model.processor, Chat(enable_thinking=True), "head")
    engine = make_engine(model, renderer)
    found = dict(engine.generate(samples(), Sampling(60), lambda _sample: Constraint(choices=("address", "position"))))
    assert {answer.text for answer in found.values() if "<think>" not in answer.text} <= {"address", "position"}
    assert all(answer.text.split("</think>\n\n")[-1] in ("address", "position") for answer in found.values())


def told_while_answering(folder: Path) -> list[tuple[int, float, str]]:
    """What is told of two rows with answers of three tokens."""
    model = load(folder)
    told: list[tuple[int, float, str]] = []

    @contextmanager
    def display(*_about: Any) -> Iterator[Any]:
        yield lambda *values: told.append(values[:3])

    def answer() -> None:
        log.install_display(display)
        with log.progress("answering", 2, "rows") as advance:
            for _ in make_engine(model, renderer_of(model)).generate(samples()[:2], Sampling(max_new_tokens=3)):
                advance(1)

    contextvars.copy_context().run(answer)
    return told


def test_a_long_first_batch_shows_that_it_goes_on(tiny_qwen2: Path) -> None:
    assert told_while_answering(tiny_qwen2) == [
        (0, 0.0, "2 at work, 1 of at most 3 tokens"),
        (0, 0.0, "2 at work, 2 of at most 3 tokens"),
        (1, 0.0, ""),
        (1, 0.0, ""),
        (0, 0.0, ""),
    ]


def test_long_prompts_show_how_many_are_read(tiny_qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weitiao.infer.steps.read_tokens", lambda _device: 16)
    words = [words for _, _, words in told_while_answering(tiny_qwen2)]
    assert words[0].endswith("2 at work, 0 prompts read")
    assert "2 at work, 1 prompts read" in words
    assert words[-5:-3] == ["2 at work, 1 of at most 3 tokens", "2 at work, 2 of at most 3 tokens"]


def test_a_row_that_leaves_its_constraint_is_refused_and_the_others_go_on(tiny_qwen3: Path) -> None:
    model = load(tiny_qwen3)
    engine = make_engine(model, renderer_of(model), batch_size=4)
    too_many = Constraint(json_schema={"type": "object", "properties": {f"field_{i}": {"type": "boolean"} for i in range(500)}})
    rows, answers, refused = samples()[:3], {}, []
    batch = engine.step_batch()
    tickets = [batch.join(row, Sampling(10), too_many if i == 1 else None).ticket for i, row in enumerate(rows)]
    while batch.n_waiting or batch.n_working:
        answers |= {stepped.ticket: stepped.answer for stepped in batch.step() if stepped.answer}
        refused += batch.refused()
    assert [one.ticket for one in refused] == [tickets[1]]
    assert "Current row has" in refused[0].error.what
    alone = dict(engine.generate([rows[0], rows[2]], Sampling(10)))
    assert [answers[tickets[0]], answers[tickets[2]]] == [alone[0], alone[1]]
    with pytest.raises(EngineError, match="Current row has"):
        list(engine.generate(rows, Sampling(10), lambda _sample: too_many))


def test_a_row_whose_output_is_no_number_is_refused_and_neither_the_others_nor_its_successor_notice(tiny_qwen2: Path) -> None:
    model = load(tiny_qwen2)
    rows = [
        replace(row, messages=(text_message("user", f"{mark}天气{'很' * (9 - i)}好"),))
        for i, (row, mark) in enumerate(zip(samples()[:4], "日月龙星", strict=True))
    ]
    expected = dict(make_engine(model, renderer_of(model)).generate(rows, Sampling(8)))
    seen = [{*renderer_of(model).prompt(row.prompt).input_ids, *model.processor.encode(expected[i].text)} for i, row in enumerate(rows)]
    poison = torch.tensor(sorted(seen[2] - seen[0] - seen[1] - seen[3]))

    def spoil(_layer: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill(torch.isin(inputs[0], poison)[..., None], float("nan"))

    model.network.model.embed_tokens.register_forward_hook(spoil)
    batch = make_engine(model, renderer_of(model), batch_size=3, packed=False).step_batch()
    tickets, answers, refused = [batch.join(row, Sampling(8)).ticket for row in rows], {}, []
    while batch.n_waiting or batch.n_working:
        answers |= {stepped.ticket: stepped.answer for stepped in batch.step() if stepped.answer}
        refused += batch.refused()
    assert [one.ticket for one in refused] == [tickets[2]]
    assert "not finite" in refused[0].error.what
    assert [answers[tickets[i]] for i in (0, 1, 3)] == [expected[i] for i in (0, 1, 3)]


@pytest.mark.parametrize("pattern", ["a/b", r"a\/b", r"[a]\/b"])
def test_a_slash_in_a_pattern_is_a_slash_escaped_or_not(tiny_qwen2: Path, pattern: str) -> None:
    model = load(tiny_qwen2)
    found = dict(make_engine(model, renderer_of(model)).generate(samples()[:1], Sampling(10), lambda _sample: Constraint(regex=pattern)))
    assert found[0].text == "a/b"
