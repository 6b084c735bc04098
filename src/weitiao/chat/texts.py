"""Text to token ids. Control tokens that a template writes are those tokens; in what people write they are the letters they look like."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from weitiao.chat.shorten import Spans
from weitiao.chat.template import control_tokens

N_KNOWN = 4096
"""Texts whose tokens are remembered, at least the last ones that were asked for together."""
N_CHARACTERS = 4_000_000
"""Characters of these texts in all; the last ones that were asked for together may have more."""

OPEN, JOIN, CLOSE = "\ue0f0", "\ue0f1", "\ue0f2"
"""Private-use characters around a control token in a user's text; none of them reaches the tokenizer."""


class TextTokens:
    """Tokens of texts, each text tokenised once and several of them on all cores."""

    def __init__(self, tokenizer: Any) -> None:
        """Read the tokenizer's control tokens.

        Args:
            tokenizer: a fast tokenizer.
        """
        self.tokenizer = tokenizer
        self.control_ids = control_tokens(tokenizer)
        self._control = re.compile("(" + "|".join(map(re.escape, self.control_ids)) + ")")
        self._known: dict[str, Sequence[int]] = {}
        self._n_characters = 0

    def guard(self, text: str) -> str:
        """Mark control tokens in a user's text.

        Args:
            text: what somebody wrote.

        Returns:
            The text for the template; what it marks is tokenised as the letters it is.
        """
        if "<" not in text:
            return text
        return self._control.sub(lambda match: f"{OPEN}{match.group()[0]}{JOIN}{match.group()[1:]}{CLOSE}", text)

    def ids(self, text: str) -> list[int]:
        """Tokens of a rendered text.

        Args:
            text: control tokens divide it, so what stands between two of them is tokenised once if it comes again.

        Returns:
            Its tokens.
        """
        ids: list[int] = []
        for part, is_control in self._parts(text):
            if is_control:
                ids.append(self.control_ids[part])
            else:
                if part not in self._known:
                    self._tokenise([part])
                ids += self._known[part]
        return ids

    def remember(self, texts: Iterable[str]) -> None:
        """Tokenise rendered texts together.

        Args:
            texts: those that ``ids`` will be asked for next.
        """
        self._tokenise(part for text in texts for part, is_control in self._parts(text) if not is_control)

    def spans(self, texts: Sequence[str]) -> list[Spans]:
        """Where the tokens of texts stand.

        Args:
            texts: each by itself, as somebody wrote it.

        Returns:
            Per text and token, the characters that the token stands for.
        """
        plain = [text for text in texts if not self._control.search(text)]
        found = dict(zip(plain, self.tokenizer.backend_tokenizer.encode_batch(plain, add_special_tokens=False), strict=True))
        return [found[text].offsets if text in found else self._spans_as_letters(text) for text in texts]

    def _spans_as_letters(self, text: str) -> Spans:
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
        return [(start, end) for start, end in encoding["offset_mapping"]]

    def _parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """The text divided at its control tokens, and which parts are such; no part is empty."""
        return ((part, i % 2 == 1) for i, part in enumerate(self._control.split(text)) if part)

    def _tokenise(self, texts: Iterable[str]) -> None:
        """Remember the tokens of texts without control tokens."""
        wanted = list(dict.fromkeys(texts))
        # Before anything is added, so that what was asked for together is there together.
        if len(self._known) > N_KNOWN or self._n_characters > N_CHARACTERS:
            self._known.clear()
            self._n_characters = 0
        new = [text for text in wanted if text not in self._known]
        self._n_characters += sum(map(len, new))
        plain = [text for text in new if OPEN not in text]
        found = self.tokenizer.backend_tokenizer.encode_batch_fast(plain, add_special_tokens=False)
        self._known |= {text: encoding.ids for text, encoding in zip(plain, found, strict=True)}
        for text in new:
            if OPEN in text:
                letters = re.sub(f"[{OPEN}{JOIN}{CLOSE}]", "", text)
                self._known[text] = self.tokenizer.encode(letters, add_special_tokens=False, split_special_tokens=True)
