"""What is guessed of an answer, and how much of it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from weitiao.chat import make_renderer
from weitiao.infer.constrain import Grammars
from weitiao.infer.speculation import COPIED, EXPECTED, FORCED, Odds, Text, draft_lengths, even_draft_lengths
from weitiao.recipe.sections import Chat
from weitiao.seams import Constraint

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "email": {"type": "string"}}, "required": ["name", "email"]}


@pytest.mark.parametrize(
    ("token_ids", "found", "n_equal"),
    [
        pytest.param([1, 2, 3, 9, 2, 4, 1, 2], [3, 9, 2, 4, 1, 2], 2, id="the place with the most equal tokens before it"),
        pytest.param([7, 1, 5, 7, 1, 6, 7, 1], [6, 7, 1], 2, id="of equal places the last"),
        pytest.param([8, 9, 8], [9, 8], 1, id="one equal token"),
        pytest.param([4, 4, 4], [4], 2, id="a token that repeats itself"),
        pytest.param([1, 2, 3], [], 0, id="a new token"),
        pytest.param([*range(100), 5], list(range(6, 38)), 1, id="no more than the longest draft"),
        pytest.param([*range(20), 50, *range(5, 20)], [50, *range(5, 20)], 8, id="no more tokens are compared than decide"),
    ],
)
def test_what_stood_behind_the_same_tokens(token_ids: list[int], found: list[int], n_equal: int) -> None:
    assert Text(token_ids, Odds()).lookup() == (found, n_equal)


def test_tokens_of_the_answer_are_looked_up_too() -> None:
    text = Text([1, 2], Odds())
    assert text.lookup() == ([], 0)
    text.extend([3, 1])
    assert text.lookup() == ([2, 3, 1], 1)
    text.extend([2])
    assert text.lookup() == ([3, 1, 2], 2)


def test_frequent_tokens_are_compared_at_their_last_places_only() -> None:
    assert Text([8, 0, 9, *[1, 0] * 40, 8, 0], Odds()).lookup() == ([8, 0], 1), "8 0 9 lies too far back"


def test_odds_begin_as_expected_and_follow_what_comes_true() -> None:
    of_all = Odds()
    row, other = Odds(of_all), Odds(of_all)
    assert row.of(COPIED + 1) == EXPECTED[COPIED + 1] == 0.3
    for _ in range(12):
        row.learn(COPIED + 1, was_right=True)
    assert of_all.of(COPIED + 1) == pytest.approx((12 + 4 * 0.3) / 16)
    assert row.of(COPIED + 1) == pytest.approx((12 + 4 * of_all.of(COPIED + 1)) / 16)
    assert other.of(COPIED + 1) == pytest.approx(of_all.of(COPIED + 1)), "another row expects what rows so far have seen"
    assert row.of(FORCED) == EXPECTED[FORCED], "kinds are counted apart"


def test_old_guesses_count_less_than_new_ones() -> None:
    odds = Odds()
    for was_right in [True] * 500 + [False] * 150:
        odds.learn(COPIED + 2, was_right=was_right)
    assert odds.of(COPIED + 2) < 0.2


@pytest.mark.parametrize(
    ("chances", "n_rows", "read"),
    [
        pytest.param([[0.9, 0.5, 0.1]], 1, [2], id="a row alone reads much along"),
        pytest.param([[0.9, 0.5, 0.1]], 64, [1], id="with many rows only what is all but sure pays"),
        pytest.param([[0.8, 0.8, 0.8]], 64, [0], id="and what is likely does not"),
        pytest.param([[1.0] * 5, [], [0.3, 0.2]], 3, [5, 0, 0], id="rows read differently much"),
        pytest.param([], 3, [], id="no rows"),
    ],
)
def test_as_much_is_read_along_as_pays(chances: list[list[float]], n_rows: int, read: list[int]) -> None:
    assert draft_lengths(chances, n_rows, fetch_cost=9) == read


@pytest.mark.parametrize(
    ("chances", "n_rows", "read"),
    [
        pytest.param([[0.9, 0.5, 0.1]], 1, [2], id="a row alone"),
        pytest.param([[1.0] * 5, [], []], 12, [0, 0, 0], id="one row's guess is paid for by all"),
        pytest.param([[0.9] * 5, [0.9] * 3, [0.9]], 3, [3, 3, 1], id="while most rows have one"),
    ],
)
def test_where_rows_are_filled_up_their_guesses_are_weighed_together(chances: list[list[float]], n_rows: int, read: list[int]) -> None:
    assert even_draft_lengths(chances, n_rows, fetch_cost=9) == read


def follower(folder: Path, *, thinks: bool = False) -> tuple[Any, Any]:
    """Of an answer held to the schema; and the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    grammars = Grammars(tokenizer, len(tokenizer), make_renderer(tokenizer, Chat(enable_thinking=thinks), "head"))
    return grammars.matcher(Constraint(json_schema=SCHEMA), "rows:1", max_new_tokens=8), tokenizer


def test_keys_are_forced_and_values_are_not(tiny_qwen2: Path) -> None:
    matcher, tokenizer = follower(tiny_qwen2)
    assert tokenizer.decode(matcher.forced()) == '{"name": "'
    assert matcher.forced() == tokenizer.encode('{"name": "')
    for token in tokenizer.encode('{"name": "abc'):
        assert matcher.take(token)
    assert matcher.forced() == []
    for token in tokenizer.encode('",'):
        assert matcher.take(token)
    assert tokenizer.decode(matcher.forced()) == ' "email": "'
    assert bool(matcher.allowed()[matcher.forced()[0]]), "asking does not move on"


def test_a_copy_ends_where_the_constraint_does(tiny_qwen2: Path) -> None:
    matcher, tokenizer = follower(tiny_qwen2)
    for token in tokenizer.encode('{"name": "'):
        matcher.take(token)
    line = tokenizer.encode("王伟")
    assert matcher.n_possible([*line, *tokenizer.encode("\n"), *line]) == len(line), "a string of JSON holds no line break"


def test_thoughts_are_not_forced_and_their_end_is(tiny_qwen3: Path) -> None:
    matcher, tokenizer = follower(tiny_qwen3, thinks=True)
    opening, closing = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert matcher.forced() == [], "the first token may be an opening tag"
    matcher.take(opening)
    assert matcher.forced() == []
    thought, stop = tokenizer.encode("a")[0], tokenizer.eos_token_id
    assert matcher.n_possible([thought, thought, stop, thought]) == 2
    assert matcher.n_possible([thought] * 9) == 6, "thoughts get three quarters of 8 tokens"
    for _ in range(6):
        matcher.take(thought)
    blank = tokenizer.encode("\n\n")
    assert matcher.forced() == [closing, *blank]
    matcher.take(closing)
    assert matcher.forced() == [*blank, *tokenizer.encode('{"name": "')]
    assert isinstance(matcher.allowed(), torch.Tensor)
