"""An answer while it is being written: its text piece by piece, whole characters only, and where a stop text ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"
"""What a tokenizer gives for the first bytes of a character that is not whole yet."""


class Writing:
    """Turns tokens into text as they come. The pieces joined are the text of all tokens, cut before the first stop text."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        """Begin an answer.

        Args:
            decode: text of an answer's tokens, without its stop token.
            stops: texts that end the answer, none of them empty.
        """
        self._decode = decode
        self._stops = tuple(stops)
        self._token_ids: list[int] = []
        self._first = self._read = 0
        self._held = ""
        self.said = ""
        """What was given out so far."""
        self.stopped = False
        """Whether a stop text was reached; nothing is given out after it."""

    def take(self, token_ids: Sequence[int]) -> str:
        """Add tokens.

        Args:
            token_ids: that follow those taken before.

        Returns:
            The text that is sure by now: no half character, and no beginning of a stop text.
        """
        pieces = []
        for token in token_ids:
            # Several come at once where the engine guessed them; those behind a stop text are not the answer's.
            if self.stopped:
                break
            self._token_ids.append(token)
            pieces.append(self._give(self._new_text()))
        return "".join(pieces)

    def end(self, text: str) -> str:
        """End the answer.

        Args:
            text: of all its tokens.

        Returns:
            What was held back, up to the first stop text.
        """
        if self.stopped:
            return ""
        rest = text[len(self.said) :]
        cut = self._cut(rest)
        self.stopped = cut is not None
        piece = rest if cut is None else rest[:cut]
        self.said += piece
        return piece

    @property
    def n_tokens(self) -> int:
        """Tokens taken so far, up to the stop text."""
        return len(self._token_ids)

    def _new_text(self) -> str:
        """Text of the tokens since the last whole character; a few tokens before them are decoded again, for spaces depend on them."""
        before = self._decode(self._token_ids[self._first : self._read])
        now = self._decode(self._token_ids[self._first :])
        if len(now) <= len(before) or now.endswith(UNFINISHED):
            return ""
        self._first, self._read = self._read, len(self._token_ids)
        return now[len(before) :]

    def _give(self, text: str) -> str:
        if self.stopped:
            return ""
        held = self._held + text
        cut = self._cut(held)
        if cut is not None:
            self.stopped = True
            piece, self._held = held[:cut], ""
        else:
            n_sure = len(held) - max((_overlap(held, stop) for stop in self._stops), default=0)
            piece, self._held = held[:n_sure], held[n_sure:]
        self.said += piece
        return piece

    def _cut(self, text: str) -> int | None:
        return min((place for stop in self._stops if (place := text.find(stop)) >= 0), default=None)


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text with which a stop text begins."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
