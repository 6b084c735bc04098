"""How a constrained answer ends in time: the shortest way found to its end, known before the limit on new tokens is reached.

An answer that is cut in the middle of a string is no JSON. So near the limit each token is tried before it is taken: where the answer could
no longer be finished after it, the answer goes towards its end instead. What it holds up to there is the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

CLOSERS = (b"]", b"}", b", ", b"null", b'"', b"0", b"false")
"""What brings a JSON value nearer to its end, the shortest way first. Inside a string only the quote does."""
WIDE = 1024
"""More tokens than this are a free text, in which no token leads anywhere."""
LONGEST_ENDING = 512
"""Tokens that an ending may have; an answer that needs more is cut at its limit."""
NEAR = 32
"""Tokens before the limit at which endings are looked for, beside twice those of the shortest answer."""


def possible_tokens(matcher: Any) -> np.ndarray:
    """Which tokens may come next.

    Args:
        matcher: llguidance's; where it is in error afterwards, the mask means nothing.

    Returns:
        Bool, one per entry of the vocabulary and up to 31 more.
    """
    return np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little").astype(bool)


class Endings:
    """Finds how answers of one tokenizer may end."""

    def __init__(self, tokenizer: Any, tokenize: Callable[[bytes], list[int]]) -> None:
        """Keep the tokenizer.

        Args:
            tokenizer: llguidance's.
            tokenize: text to tokens, as the tokenizer cuts it.
        """
        self._tokenizer, self._tokenize = tokenizer, tokenize
        self._closers = [tokenize(text) for text in CLOSERS]
        self._quote = self._closers[CLOSERS.index(b'"')]
        self._letter = tokenize(b"z")

    def after(self, matcher: Any, n_most: int) -> list[int] | None:
        """A short way to the answer's end.

        Args:
            matcher: llguidance's, somewhere in an answer; it is left as it is.
            n_most: tokens that it may take.

        Returns:
            The tokens, without a stop token; none where the answer may end here. None where no way is found in so many tokens.
        """
        at = matcher.deep_copy()
        found: list[int] = []
        while not (at.is_accepting() or at.is_stopped()):
            piece = self._next(at)
            if not piece or len(found) + len(piece) > n_most or not at.consume_tokens(piece):
                return None
            found += piece
        return None if at.is_error() else found

    def _next(self, at: Any) -> list[int]:
        forced = at.compute_ff_bytes()
        if forced:
            return self._tokenize(forced)
        in_string = _fits(at, self._letter) and _fits(at, self._quote)
        closers = [self._quote] if in_string else self._closers
        return next((tokens for tokens in closers if _fits(at, tokens)), None) or self._farthest(at)

    def _farthest(self, at: Any) -> list[int]:
        """The longest of a few possible tokens: an enum's value, a date's digit."""
        possible = possible_tokens(at)
        tokens = np.flatnonzero(possible).tolist() if not at.is_error() else []
        return [max(tokens, key=lambda token: len(self._tokenizer.decode_bytes([token])))] if 0 < len(tokens) <= WIDE else []


def _fits(at: Any, tokens: list[int]) -> bool:
    return bool(at.validate_tokens(tokens) == len(tokens))


class InTime:
    """Sees to it that one answer is finished within its limit."""

    def __init__(self, endings: Endings, n_shortest: int, stop_token_ids: Sequence[int]) -> None:
        """Begin an answer.

        Args:
            endings: finds them.
            n_shortest: tokens of the shortest answer, or 0 where none is known.
            stop_token_ids: which end an answer where it may end; the first one is put.
        """
        self._endings, self._stop_token_ids = endings, list(stop_token_ids)
        self._n_near = 2 * n_shortest + NEAR
        self._ending: list[int] | None = None
        self.has_closed = False
        """Whether a token was put in place of the model's own."""

    def choose(self, matcher: Any, token_id: int, n_left: int) -> int:
        """The token that is taken.

        Args:
            matcher: llguidance's, before the token.
            token_id: that the model chose.
            n_left: tokens that may be taken yet, this one included.

        Returns:
            The model's token; or, where the answer could not be finished in time after it, the next one towards the end. The model's also
            where no ending is known.
        """
        if n_left > self._n_near or token_id in self._stop_token_ids:
            return token_id
        if self._ending is None:
            self._ending = self._endings.after(matcher, n_left)
            if self._ending is None:
                return token_id
        after = matcher.deep_copy()
        ending = self._endings.after(after, n_left - 1) if after.consume_token(token_id) else None
        if ending is not None:
            self._ending = ending
            return token_id
        self.has_closed = True
        return self._ending.pop(0) if self._ending else self._stop_token_ids[0]
