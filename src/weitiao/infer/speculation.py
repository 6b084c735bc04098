"""Which tokens come next, guessed before the network is asked: a pass then reads several tokens of a row instead of one.

Guesses cost next to nothing: what the constraint leaves no choice about (a JSON answer's keys), or else what stood behind the same tokens
earlier in the prompt or the answer (extraction copies). The network chooses at each guessed place as it would without guesses, and what
stands behind its first other choice is forgotten; so guesses change the number of passes and not the answer. Greedy answers only.

A pass fetches all weights, however few tokens it reads: tokens read along are cheap while there are few rows, and with many rows only
those pay that are all but sure. ``draft_lengths`` weighs that, by how often guesses of a kind came true so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from weitiao.infer.rows import Row

LONGEST_DRAFT = 32
"""Most tokens of a guess."""
LONGEST_MATCH = 8
"""Tokens that are compared to find the place in the text that is most like the answer's end."""
MOST_PLACES = 16
"""Places that are compared, the last ones: frequent tokens stand in hundreds of them."""

FETCH_COST = {"cpu": 16.0}
"""Tokens whose arithmetic takes as long as fetching the weights, by device. Measured with 0.5B, ms for the weights and for a token:
one AVX2 core, float32, 245 and 17; two AVX512 cores, float32, 98 and 5, bfloat16, 54 and 3.1 to 3.7."""
FETCH_COST_ELSEWHERE = 150.0

FORCED, LAST_FORCED, COPIED = 0, 1, 1
"""Kinds of guessed tokens; one copied behind ``n`` equal tokens is of kind ``COPIED + min(n, 4)``."""
EXPECTED = (0.97, 0.8, 0.3, 0.4, 0.6, 0.8)
"""Share of each kind that comes true, before any was seen."""
EXPECTED_WEIGHT = 4.0
"""Observations that an expectation counts as."""
MEMORY = 64.0
"""Observations after which older ones begin to count less."""


class Odds:
    """How often guesses of each kind came true."""

    def __init__(self, of_all: Odds | None = None) -> None:
        """Know nothing yet.

        Args:
            of_all: of all rows, where these are one row's: what is expected of it, and learns from it.
        """
        self._of_all = of_all
        self._n_right = [0.0] * len(EXPECTED)
        self._n_seen = [0.0] * len(EXPECTED)

    def of(self, kind: int) -> float:
        """The chance that a guess of this kind comes true, where the one before it did."""
        expected = self._of_all.of(kind) if self._of_all else EXPECTED[kind]
        return (self._n_right[kind] + EXPECTED_WEIGHT * expected) / (self._n_seen[kind] + EXPECTED_WEIGHT)

    def learn(self, kind: int, *, was_right: bool) -> None:
        """Count a guess."""
        if self._of_all:
            self._of_all.learn(kind, was_right=was_right)
        if self._n_seen[kind] >= MEMORY:
            self._n_seen[kind] /= 2
            self._n_right[kind] /= 2
        self._n_seen[kind] += 1
        self._n_right[kind] += was_right


@dataclass(slots=True)
class Guess:
    """Tokens that may come next in a row."""

    token_ids: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    n_read: int = 0
    """How many of them the next pass reads."""

    @property
    def draft(self) -> list[int]:
        """Those that the next pass reads."""
        return self.token_ids[: self.n_read]


@dataclass(slots=True)
class Tally:
    """Work of an engine so far."""

    n_passes: int = 0
    """Passes over answers; those over prompts are not counted."""
    n_chosen: int = 0
    """Tokens of answers."""
    n_drafted: int = 0
    """Guessed tokens that were read."""
    n_accepted: int = 0
    """Those of them that were chosen."""


class Text:
    """A row's prompt and answer, in which tokens are looked up."""

    def __init__(self, token_ids: Sequence[int], of_all: Odds) -> None:
        """Begin an answer.

        Args:
            token_ids: the prompt.
            of_all: the odds of all rows.
        """
        self.odds = Odds(of_all)
        self._token_ids: list[int] = []
        self._behind: dict[int, list[int]] = {}
        """Places behind each token, where one follows."""
        self.extend(token_ids)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Go on with these tokens."""
        for token in token_ids:
            if self._token_ids:
                self._behind.setdefault(self._token_ids[-1], []).append(len(self._token_ids))
            self._token_ids.append(token)

    def lookup(self) -> tuple[list[int], int]:
        """What stood behind the last tokens when they came before.

        Returns:
            At most ``LONGEST_DRAFT`` tokens, and how many equal ones stand before them, of at most ``LONGEST_MATCH`` compared: the place
            with the most of them, the last such. Empty and 0 where the last token is new.

        Example: ``1 2 3 9 2 4 1 2`` gives ``3 9 2 4 1 2`` and 2.
        """
        text, best, n_best = self._token_ids, 0, 0
        for place in reversed(self._behind.get(text[-1], [])[-MOST_PLACES:]):
            n_equal = 1
            while n_equal < min(LONGEST_MATCH, place) and text[place - 1 - n_equal] == text[-1 - n_equal]:
                n_equal += 1
            if n_equal > n_best:
                best, n_best = place, n_equal
            if n_best == LONGEST_MATCH:
                break
        return (text[best : best + LONGEST_DRAFT] if n_best else []), n_best


class Speculation:
    """Guesses for rows, and what became of them."""

    def __init__(self, device: torch.device, *, is_on: bool) -> None:
        """Know nothing yet.

        Args:
            device: where passes are computed.
            is_on: whether anything is guessed at all.
        """
        self.tally = Tally()
        self._odds = Odds()
        self._fetch_cost = FETCH_COST.get(device.type, FETCH_COST_ELSEWHERE)
        self._is_on = is_on

    def text_of(self, row: Row) -> Text | None:
        """What a row's tokens are looked up in; None for one that nothing is guessed for: its tokens are drawn, not the likeliest."""
        return Text(row.prompt.token_ids, self._odds) if self._is_on and row.generator is None else None

    def guesses(self, rows: Sequence[Row], n_rows: int, *, fills_up: bool) -> list[Guess]:
        """What may come next.

        Args:
            rows: whose next token is chosen in the coming pass.
            n_rows: that are at work.
            fills_up: whether the pass costs as if every row were as long as the longest.

        Returns:
            One guess per row, with as many of its tokens to be read as pay.
        """
        guesses = [_guess(row) for row in rows]
        chances = [_chances(guess, row.text.odds) if row.text else [] for guess, row in zip(guesses, rows, strict=True)]
        weigh = even_draft_lengths if fills_up else draft_lengths
        for guess, n_read in zip(guesses, weigh(chances, n_rows, self._fetch_cost), strict=True):
            guess.n_read = n_read
        return guesses

    def learn(self, row: Row, guess: Guess, chosen: Sequence[int]) -> None:
        """See what was chosen, whether or not the guess was read."""
        self.tally.n_chosen += len(chosen)
        self.tally.n_drafted += guess.n_read
        self.tally.n_accepted += sum(token == guessed for token, guessed in zip(chosen, guess.draft, strict=False))
        if row.text is None:
            return
        for guessed, kind, token in zip(guess.token_ids, guess.kinds, chosen, strict=False):
            row.text.odds.learn(kind, was_right=guessed == token)
            if guessed != token:
                break
        row.text.extend(chosen)


def _guess(row: Row) -> Guess:
    """Nothing where the next token is the last one that the answer may have."""
    n_most = row.sampling.max_new_tokens - len(row.answer_ids) - 1
    if row.text is None or n_most < 1:
        return Guess()
    forced = row.matcher.forced() if row.matcher else []
    if forced:
        # Where forced text ends, the tokenizer may join its end to what follows.
        return Guess(forced[:n_most], [FORCED] * (len(forced) - 1) + [LAST_FORCED])
    copied, n_equal = row.text.lookup()
    copied = copied[:n_most]
    if row.matcher and copied:
        copied = copied[: row.matcher.n_possible(copied)]
    return Guess(copied, [COPIED + min(n_equal + i, 4) for i in range(len(copied))])


def _chances(guess: Guess, odds: Odds) -> list[float]:
    """The chance of each guessed token to be chosen, all before it included."""
    chances, so_far = [], 1.0
    for kind, _ in zip(guess.kinds, guess.token_ids, strict=False):
        so_far *= odds.of(kind)
        chances.append(so_far)
    return chances


def draft_lengths(chances: Sequence[Sequence[float]], n_rows: int, fetch_cost: float) -> list[int]:
    """How many tokens of each row's guess are read in a pass: the likeliest ones, while each adds to what the pass brings per time.

    Args:
        chances: per row, of each guessed token to be chosen; none is above the one before it.
        n_rows: each reads one token and gains one in any case.
        fetch_cost: of a pass, however few tokens it reads, in tokens.

    Returns:
        One number per row.

    Example: one row with chances 0.9, 0.5, 0.1 and ``fetch_cost=9`` reads 2 of them: at 10 tokens' cost for 1 token gained, a chance above
    1/10 pays; after two at 12 for 2.4, one above 1/5.
    """
    lengths = [0] * len(chances)
    gain, cost = float(n_rows), n_rows + fetch_cost
    for chance, i in sorted(((chance, i) for i, row in enumerate(chances) for chance in row), reverse=True):
        if chance * cost <= gain:
            break
        gain, cost = gain + chance, cost + 1
        lengths[i] += 1
    return lengths


def even_draft_lengths(chances: Sequence[Sequence[float]], n_rows: int, fetch_cost: float) -> list[int]:
    """As ``draft_lengths``, where a pass costs as if every row were as long as the longest.

    Args:
        chances: per row, of each guessed token to be chosen; none is above the one before it.
        n_rows: each reads one token and gains one in any case.
        fetch_cost: of a pass, however few tokens it reads, in tokens.

    Returns:
        One number per row, the same where its guess is that long.
    """
    n_read, gain, cost = 0, float(n_rows), n_rows + fetch_cost
    while (more := sum(row[n_read] for row in chances if len(row) > n_read)) * cost > gain * n_rows:
        n_read, gain, cost = n_read + 1, gain + more, cost + n_rows
    return [min(n_read, len(row)) for row in chances]
