"""Rows get their labels, their limits and their place in a step; what does not fit is named."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import build_tokenizer

from weitiao.chat import make_renderer
from weitiao.chat.shorten import fit_prompts
from weitiao.chat.texts import TextTokens
from weitiao.encode import encode_samples, plan_steps, token_report, with_tokens
from weitiao.errors import Problems, RowError
from weitiao.recipe.sections import Chat, Encode
from weitiao.seams import IGNORED, DataReport, EncodedRow, Message, Part, Sample, SampleSet, text_message

REPORT = DataReport("test", 0, 0, {}, {}, (), {}, "")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEITIAO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoded"


@pytest.fixture(scope="module")
def renderer() -> Any:
    return make_renderer(build_tokenizer("qwen2"), Chat())


def sample(i: int, text: str, answer: str) -> Sample:
    user = Message("user", (Part("text", text, shortenable=True),))
    return Sample(f"id-{i}", f"rows.jsonl:{i}", (text_message("system", "分类"), user, text_message("assistant", answer)))


def encode(samples: list[Sample], renderer: Any, **settings: Any) -> Any:
    allowed = settings.pop("allow_dropped", 0.01)
    return encode_samples(SampleSet(samples, [], [], REPORT), renderer, Encode(**settings), allow_dropped=allowed)


def test_labels_are_the_answer_and_rows_end_with_their_last_trained_token(renderer: Any) -> None:
    encoded = encode([sample(1, "噪音扰民", "noise")], renderer)
    (row,) = encoded.rows
    trained = [label for label in row.labels if label != IGNORED]
    assert renderer.text(trained) == "noise<|im_end|>"
    assert row.labels[-1] == row.input_ids[-1] == renderer.stop_token_ids[0]
    assert row.segment_lengths == (len(row.input_ids),)
    assert encoded.n_supervised_tokens == len(trained)


def test_training_and_prediction_shorten_a_text_at_the_same_place(renderer: Any) -> None:
    samples = [sample(1, "停车难 " * 300, "parking"), sample(2, "停水", "a much longer answer than the other one")]
    encoded = encode(samples, renderer, max_tokens=128)
    prompt = renderer.prompt(samples[0].prompt, encoded.max_prompt_tokens).input_ids
    assert encoded.rows[0].input_ids[: len(prompt)] == prompt
    assert encoded.n_shortened == 1
    assert max(encoded.lengths) <= 128
    n_longest_answer = sum(label != IGNORED for label in encoded.rows[1].labels)
    assert encoded.max_prompt_tokens == 128 - n_longest_answer


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        pytest.param('{"name": "Ada", "city": "Riga"}', "Riga", id="a field"),
        pytest.param('[{"text": "Ada"}, {"text": "Riga"}]', "Riga", id="a list"),
        pytest.param('{"name": "Ada", "city": "riga"}', None, id="never in the text"),
        pytest.param('{"name": "Ada"}', None, id="still there"),
        pytest.param("Riga", None, id="no JSON"),
        pytest.param('{"city": "Riga"', None, id="broken JSON"),
    ],
)
def test_what_was_cut_off_is_not_learnt_as_an_answer(renderer: Any, answer: str, lost: str | None) -> None:
    text = "Ada lives " + "far away " * 300 + "in Riga"
    samples = [sample(1, text, answer), *(sample(i, "Ada lives in Riga", answer) for i in range(2, 9))]
    encoded = encode(samples, renderer, max_tokens=128, allow_dropped=0.5)
    assert (len(encoded.rows), encoded.n_shortened) == ((7, 0) if lost else (8, 1))
    assert [what.split(",")[0] for what in encoded.dropped.values()] == ([f"rows.jsonl:1: the answer quotes `{lost}`"] if lost else [])


def test_what_was_cut_off_can_still_be_scored(renderer: Any) -> None:
    cut = sample(1, "far away " * 300 + "in Riga", '{"city": "Riga"}')
    assert renderer.conversation(cut.messages, 100).n_shortened > 0


def test_a_text_kept_from_its_end_keeps_what_is_quoted_there() -> None:
    renderer = make_renderer(build_tokenizer("qwen2"), Chat(), "tail")
    encoded = encode([sample(1, "far away " * 300 + "in Riga", '{"city": "Riga"}')], renderer, max_tokens=128)
    assert encoded.n_shortened == 1


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_rows_rendered_together_are_those_rendered_one_by_one(family: Any) -> None:
    said = ["hi", "第一条 为了惩治犯罪", "ignore <|im_end|>\n<|im_start|>user", " <think>\nno\n</think> ", "é e\u0301 \u2028", "hi"]
    turns = [text_message(role, text) for text in said for role in ("user", "assistant")]  # type: ignore[arg-type]
    batch = [[text_message("system", "分类"), *turns[:end]] for end in (2, 4, 12)] + [turns[i : i + 2] for i in range(0, 12, 2)]
    batch += [[text_message("assistant", text)] for text in said]
    section = Chat(enable_thinking=family == "qwen3")
    alone = make_renderer(build_tokenizer(family), section)
    assert make_renderer(build_tokenizer(family), section).conversations(batch) == [alone.conversation(messages) for messages in batch]


@pytest.mark.parametrize("text", ["停车难 é e\u0301 👍🏽 \u2028 x", "a <think> b</think>", "<|im_end|> and <|im_start|>", ""], ids=repr)
def test_a_text_is_cut_between_the_librarys_own_tokens(text: str) -> None:
    tokenizer = build_tokenizer("qwen3")
    library = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)["offset_mapping"]
    assert TextTokens(build_tokenizer("qwen3")).spans([text, "other"])[0] == library


def shortened_one_by_one(renderer: Any, messages: Any, max_tokens: int) -> list[int] | None:
    """The rule in its plainest form: as many tokens of the longest text as the rest leaves room for, and fewer until the prompt fits."""

    def with_text(text: str) -> list[Any]:
        return [messages[0], Message("user", (Part("text", text), *messages[1].parts[1:])), *messages[2:]]

    text = messages[1].parts[0].text
    spans = TextTokens(renderer.tokenizer).spans([text])[0]
    n_kept = min(max_tokens - len(renderer.prompt(with_text("")[:-1]).input_ids), len(spans) - 1)
    while n_kept >= 0:
        cuts = [0, *(a[1] for a, b in pairwise(spans) if b[0] >= a[1]), len(text)]

        def head(n: int, cuts: list[int] = cuts) -> str:
            return text[: max(cut for cut in cuts if cut <= (spans[n - 1][1] if n else 0))]

        def tail(n: int, cuts: list[int] = cuts) -> str:
            return text[min(cut for cut in cuts if cut >= (spans[-n][0] if n else len(text))) :]

        n_head = (n_kept - 1) * 2 // 3
        both = head(n_kept) if n_kept < 3 else head(n_head) + "…" + tail(n_kept - 1 - n_head)
        kept = {"head": head(n_kept), "tail": tail(n_kept), "head_tail": both}[renderer.keep]
        prompt = renderer.prompt(with_text(kept)[:-1]).input_ids
        if len(prompt) <= max_tokens:
            return list(renderer.conversation(with_text(kept)).input_ids)
        n_kept -= len(prompt) - max_tokens
    return None


@pytest.mark.parametrize("keep", ["head", "tail", "head_tail"])
def test_rows_shortened_together_are_those_shortened_one_by_one(keep: Any) -> None:
    draw = random.Random(5)
    pieces = [
        "停车难",
        "。",
        "\n\n",
        "  ",
        "👍🏽",
        "é e\u0301",
        "the quick ",
        "123",
        "<|im_end|>",
        "<think>",
        "\u2028",
        ",",
        "小区垃圾堆积成山",
    ]
    asked = ["分类", "", "  blanks before\n"]
    batch = []
    for i in range(60):
        text = "".join(draw.choices(pieces, k=draw.randrange(20, 200) if i % 10 else 4000))
        user = Message("user", (Part("text", text, shortenable=True), Part("text", asked[i % 3])))
        turns = [text_message("system", "分类"), user, text_message("assistant", "noise")]
        turns += [text_message("user", "and now?"), text_message("assistant", "parking")] if i % 4 == 0 else []
        batch.append(turns)
    renderer = make_renderer(build_tokenizer("qwen3"), Chat(), keep)
    lengths = [len(renderer.prompt(messages[:-1]).input_ids) for messages in batch]
    for max_tokens in (90, 30, 12):
        over = [i for i, length in enumerate(lengths) if length > max_tokens]
        rows = renderer.shortened([batch[i] for i in over], [lengths[i] for i in over], max_tokens)
        wanted = [shortened_one_by_one(renderer, batch[i], max_tokens) for i in over]
        assert [None if isinstance(row, RowError) else row.input_ids for row in rows] == wanted
        assert len(over) > 20
        for i, row in zip(over, rows, strict=True):
            if not isinstance(row, RowError):
                assert row == renderer.conversation(batch[i], max_tokens)
                prompt = renderer.prompt(batch[i][:-1], max_tokens).input_ids
                assert row.input_ids[: len(prompt)] == prompt
            else:
                assert row.what.startswith(f"the prompt has {lengths[i]} tokens, and what may not be shortened alone is longer than the")


@pytest.mark.parametrize(("keep", "kept"), [("head", "a" * 40), ("tail", "z" * 40), ("head_tail", "a" * 26 + "…" + "z" * 13)])
def test_of_a_long_text_only_so_much_is_tokenised_as_can_stay(keep: Any, kept: str) -> None:
    looked_at: list[str] = []
    outcome: list[str] = []

    def spans_of(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        looked_at.extend(texts)
        return [[(i, i + 1) for i in range(len(text))] for text in texts]

    def count(_: Sequence[int], prompts: Sequence[Sequence[Message]]) -> list[int]:
        outcome.extend(prompt[0].text for prompt in prompts)
        return [10 + len(prompt[0].text) for prompt in prompts]

    text = "a" * 50_000 + "z" * 50_000
    prompt = [Message("user", (Part("text", text, shortenable=True),))]
    assert fit_prompts([prompt], [100_010], 50, keep, spans_of, count) == [50]
    assert outcome[-1] == kept
    assert sum(map(len, looked_at)) < 200


def test_a_row_that_cannot_be_rendered_is_listed_and_the_others_are_encoded() -> None:
    rows = [sample(1, "停水", "water"), sample(2, "停车", "<think>no</think>parking"), sample(3, "噪音", "noise")]
    encoded = encode(rows, make_renderer(build_tokenizer("qwen3"), Chat()), allow_dropped=0.5)
    assert dict(encoded.dropped) == {"id-2": "rows.jsonl:2: an answer holds a think block, but thinking is off"}
    assert len(encoded.rows) == 2


def test_what_is_to_be_said_of_lengths(renderer: Any) -> None:
    rows = [sample(i, "停车难 " * (200 if i in (3, 5) else 2), "parking") for i in range(1, 9)] + [sample(9, "停水", "word " * 200)]
    encoded = encode(rows, renderer, max_tokens=128, allow_dropped=0.5)
    full = [len(row.input_ids) - 1 for row in renderer.conversations([row.messages for row in rows])]
    said = {finding.code: finding for finding in encoded.findings}
    assert list(said) == ["too-long-rows", "shortened-rows", "longest-row"]
    assert (said["shortened-rows"].count, said["shortened-rows"].origins) == (2, ("rows.jsonl:3", "rows.jsonl:5"))
    assert (said["too-long-rows"].count, said["too-long-rows"].origins) == (1, ("rows.jsonl:9",))
    assert said["longest-row"].origins == (f"rows.jsonl:{full.index(max(full)) + 1}",)
    assert said["longest-row"].message.startswith(f"the longest training row has {max(full):,} tokens; half have at most ")
    assert sum(encoded.full_lengths["counts"]) == 9
    assert (encoded.full_lengths["min"], encoded.full_lengths["max"]) == (min(full), max(full))
    report = with_tokens(replace(REPORT, split={"train": 9}), encoded, 128, 0.01)
    assert [(finding.severity, finding.code) for finding in report.findings] == [
        ("error", "too-long-rows"),
        ("warning", "shortened-rows"),
        ("note", "longest-row"),
    ]
    assert with_tokens(replace(REPORT, split={"train": 9}), encoded, 128, 0.5).findings[0].severity == "warning"
    assert report.tokens["shortened"] == 2


def test_a_row_without_an_answer_is_listed(renderer: Any) -> None:
    asked = Sample("q", "rows.jsonl:9", (text_message("user", "?"),))
    encoded = encode([sample(1, "停水", "water"), asked], renderer, allow_dropped=0.5)
    assert (len(encoded.rows), dict(encoded.dropped)) == (1, {"q": "rows.jsonl:9: the row has no answer to learn from"})


def test_rows_cross_windows_in_their_order(renderer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weitiao.encode.rows.WINDOW_ROWS", 3)
    samples = [sample(i, "停车难 " * (90 if i % 3 else 2), f"answer {i}") for i in range(10)]
    encoded = encode(samples, renderer, max_tokens=128)
    answers = [renderer.text([label for label in row.labels if label != IGNORED]) for row in encoded.rows]
    assert answers == [f"answer {i}<|im_end|>" for i in range(10)]
    assert encoded.n_shortened == 6


def test_rows_that_cannot_fit_are_named_and_counted(renderer: Any) -> None:
    samples = [sample(i, "停水", "water") for i in range(50)] + [sample(50, "停水", "word " * 200)]
    encoded = encode(samples, renderer, max_tokens=128, allow_dropped=0.05)
    assert list(encoded.dropped) == ["id-50"]
    assert encoded.dropped["id-50"].startswith("rows.jsonl:50: the answer has")
    assert len(encoded.rows) == 50
    with pytest.raises(
        Problems, match=r"1 of 51 training rows do not fit into encode.max_tokens:\nrows.jsonl:50: the answer has \d+ tokens"
    ):
        encode(samples, renderer, max_tokens=128)


def test_a_data_set_in_which_no_row_fits_is_refused(renderer: Any) -> None:
    with pytest.raises(Problems, match="2 of 2 training rows do not fit"):
        encode([sample(i, "停水", "word " * 200) for i in range(2)], renderer, max_tokens=64, allow_dropped=1.0)


def test_a_long_document_becomes_several_rows_without_losing_a_token(renderer: Any) -> None:
    text = "第一条 为了惩治破坏社会主义市场经济秩序的犯罪。" * 20
    encoded = encode([Sample("d", "a.txt:1", (text_message("assistant", text),))], renderer, max_tokens=64)
    assert len(encoded.rows) > 3
    assert [token for row in encoded.rows for token in row.input_ids] == renderer.conversation([text_message("assistant", text)]).input_ids
    assert all(row.labels == row.input_ids for row in encoded.rows)


def test_the_token_report_counts_what_happened(renderer: Any) -> None:
    encoded = encode([sample(1, "停水", "water"), sample(2, "停车难 " * 300, "parking")], renderer, max_tokens=96)
    facts = token_report(encoded, 96)
    assert (facts["rows"], facts["shortened"], facts["tokens"]) == (2, 1, sum(encoded.lengths))
    assert sum(facts["histogram"]["counts"]) == 2


def made(n: int, length: int = 20) -> list[EncodedRow]:
    return [EncodedRow([i + 1] * length, [IGNORED] * (length - 3) + [i + 1] * 3, (length,)) for i in range(n)]


def plan(rows: list[EncodedRow], **settings: Any) -> Any:
    wanted = {"batch_tokens": 10_000, "batch_rows": None, "micro_batch_tokens": 100, "packing": True, "share_prefix": False, "seed": 1}
    return plan_steps(rows, **(wanted | settings))


def test_every_row_is_in_exactly_one_step_of_each_epoch() -> None:
    steps = plan(made(33), batch_rows=8)
    assert len(steps) == 5
    for epoch in (0, 1):
        tokens = Counter(token for index in range(5) for row in steps.step(epoch, index) for token in row.input_ids)
        assert tokens == {i + 1: 20 for i in range(33)}
    assert [row.input_ids for row in steps.step(0, 0)] != [row.input_ids for row in steps.step(1, 0)]
    assert [row.input_ids for row in steps.step(0, 0)] == [row.input_ids for row in plan(made(33), batch_rows=8).step(0, 0)]


def test_a_step_has_about_the_tokens_or_rows_that_the_recipe_says() -> None:
    assert len(plan(made(64), batch_tokens=320)) == 4
    assert len(plan(made(64), batch_tokens=320, batch_rows=8)) == 8
    assert [sum(len(row.segment_lengths) for row in plan(made(64), batch_rows=16).step(0, i)) for i in range(4)] == [16] * 4


def test_without_packing_rows_stay_single() -> None:
    assert all(row.segment_lengths == (20,) for row in plan(made(9), packing=False).step(0, 0))


def test_a_micro_batch_is_never_shorter_than_the_longest_row() -> None:
    assert [len(row.input_ids) for row in plan(made(2, length=300)).step(0, 0)] == [300, 300]
