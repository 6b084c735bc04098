"""Conversations as tokens, the same ones at training, evaluation, prediction and in the server.

A conversation is cut into pieces: what the template writes and what others said (not trained), and what the assistant says up to and
including its stop token (trained). Each piece is tokenised on its own, exactly as it is when the answer is still to come; so the
tokens before an answer are those of ``prompt()`` by construction, and the mask follows position, never token ids.

A conversation that the assistant opens is a plain document: no template, every token trained, the end-of-text token last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Any, Literal

from weitiao.errors import ModelError, RowError
from weitiao.recipe.sections import Chat
from weitiao.seams import Message, Part, Rendered

Keep = Literal["head", "tail", "head_tail"]
ELLIPSIS = "…"
"""Stands where the middle of a text was taken out."""


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    trained: bool


def make_renderer(processor: Any, section: Chat, keep: Keep = "head") -> QwenRenderer:
    """Make the one renderer of a run.

    Args:
        processor: the tokenizer of a chat model, or a processor that holds one.
        section: the recipe's ``chat``.
        keep: which end of a shortened text stays.

    Returns:
        A renderer that depends on nothing but its arguments.

    Raises:
        ModelError: the tokenizer has no chat template or no stop token.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    template = chat_template(tokenizer, section.enable_thinking)
    return QwenRenderer(tokenizer, template, section.enable_thinking, keep)


def chat_template(tokenizer: Any, enable_thinking: bool) -> str:
    """The Jinja template that the renderer uses, which exported folders carry.

    Args:
        tokenizer: a tokenizer with a chat template.
        enable_thinking: thinking mode of the run; becomes the template's default.

    Returns:
        The model's own template; for models with a switchable thinking mode, the training copy of it.

    Raises:
        ModelError: the tokenizer has no chat template.
    """
    stock = tokenizer.chat_template
    if not isinstance(stock, str):
        raise ModelError(
            "this model has no chat template",
            hint="start from an instruction-tuned checkpoint (its name ends in -Instruct or, for Qwen3, has no suffix)",
        )
    if "THINKING_DEFAULT" in stock or "enable_thinking" not in stock:
        return stock
    copy = (resources.files("weitiao.chat") / "templates" / "qwen3.jinja").read_text(encoding="utf-8")
    return copy.replace("THINKING_DEFAULT", "true" if enable_thinking else "false")


class QwenRenderer:
    """Renders conversations of one tokenizer; see the module's docstring for the rule."""

    def __init__(self, tokenizer: Any, template: str, enable_thinking: bool, keep: Keep) -> None:
        """Keep what rendering depends on.

        Args:
            tokenizer: a fast tokenizer.
            template: the Jinja chat template.
            enable_thinking: handed to the template.
            keep: which end of a shortened text stays.

        Raises:
            ModelError: the tokenizer has no stop token.
        """
        self.tokenizer = tokenizer
        self.template = template
        self.enable_thinking = enable_thinking
        self.keep = keep
        self.stop_token = _stop_token(tokenizer)
        self.document_end = "<|endoftext|>" if "<|endoftext|>" in tokenizer.get_vocab() else self.stop_token
        names = dict.fromkeys([self.stop_token, self.document_end])
        self.stop_token_ids: tuple[int, ...] = tuple(tokenizer.convert_tokens_to_ids(name) for name in names)
        self.pad_token_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.stop_token_ids[-1]
        self._control_ids = _control_tokens(tokenizer)
        self._control = re.compile("(" + "|".join(map(re.escape, self._control_ids)) + ")")
        self._between = lru_cache(maxsize=4096)(self._tokenised)

    def conversation(self, messages: Sequence[Message], max_tokens: int | None = None) -> Rendered:
        """Tokens of a whole conversation.

        Args:
            messages: ends with an assistant message.
            max_tokens: longest allowed prompt before the last answer; its shortenable part is cut to fit. None: no limit.

        Returns:
            Tokens with the answers marked, each with its stop token. For a document, every token is marked.

        Raises:
            RowError: the conversation does not end with an answer, or the template alone is longer than ``max_tokens``.
        """
        if not messages or messages[-1].role != "assistant":
            raise RowError("the conversation does not end with an answer of the assistant")
        prompt, n_shortened = self._fit(messages[:-1], max_tokens)
        return self._tokens(self._pieces([*prompt, messages[-1]], answer_follows=False), n_shortened)

    def prompt(self, messages: Sequence[Message], max_tokens: int | None = None) -> Rendered:
        """Tokens up to the point where the assistant's answer begins.

        Args:
            messages: the turns before the answer. A single assistant message is the beginning of a document to be continued.
            max_tokens: longest allowed prompt; the shortenable part is cut to fit. None: no limit.

        Returns:
            Tokens, none of which is the answer's.

        Raises:
            RowError: the template alone is longer than ``max_tokens``.
        """
        if len(messages) == 1 and messages[0].role == "assistant":
            return self._tokens([_Piece(self._guard(messages[0].text), trained=False)], 0)
        fitted, n_shortened = self._fit(messages, max_tokens)
        return self._tokens(self._pieces(fitted, answer_follows=True), n_shortened)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of an answer.

        Args:
            token_ids: tokens of an answer, with or without its stop token.

        Returns:
            The text before the first stop token.
        """
        stops = set(self.stop_token_ids)
        end = next((i for i, token in enumerate(token_ids) if token in stops), len(token_ids))
        return self.text(token_ids[:end])

    def text(self, token_ids: Sequence[int]) -> str:
        """All tokens as text, control tokens included.

        Args:
            token_ids: any tokens.

        Returns:
            What they stand for.
        """
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=False))

    # ---- pieces -------------------------------------------------------------------------------------------------------

    def _pieces(self, messages: Sequence[Message], *, answer_follows: bool) -> list[_Piece]:
        if not answer_follows and len(messages) == 1:
            return [_Piece(self._guard(messages[0].text) + self.document_end, trained=True)]
        pieces: list[_Piece] = []
        rendered = whole = ""
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._render(messages[:i], add_generation_prompt=True)
            whole = self._render(messages[: i + 1], add_generation_prompt=False)
            pieces.append(_Piece(_what_follows(rendered, before), trained=False))
            answer = _what_follows(before, whole)
            end = answer.rfind(self.stop_token) + len(self.stop_token)
            if end < len(self.stop_token):
                raise ModelError("the chat template does not end an answer with the stop token", where=self.stop_token)
            pieces.append(_Piece(answer[:end], trained=True))
            rendered = before + answer[:end]
        if answer_follows or messages[-1].role != "assistant":
            whole = self._render(messages, add_generation_prompt=answer_follows)
        pieces.append(_Piece(_what_follows(rendered, whole), trained=False))
        return pieces

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        turns = [{"role": message.role, "content": self._guard(message.text)} for message in messages]
        return str(
            self.tokenizer.apply_chat_template(
                turns,
                chat_template=self.template,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=self.enable_thinking,
                tokenize=False,
            )
        )

    # ---- text to tokens -----------------------------------------------------------------------------------------------

    def _guard(self, text: str) -> str:
        """Mark control tokens that stand in a user's text, so that they are tokenised as the letters they are."""
        if "<" not in text:
            return text
        return self._control.sub(lambda match: f"{_OPEN}{match.group()[0]}{_JOIN}{match.group()[1:]}{_CLOSE}", text)

    def _ids(self, text: str) -> list[int]:
        """Tokens of a piece. Control tokens divide it, so what stands between two of them is tokenised once if it comes again."""
        ids: list[int] = []
        for i, part in enumerate(self._control.split(text)):
            if i % 2 == 1:
                ids.append(self._control_ids[part])
            elif part:
                ids += self._between(part)
        return ids

    def _tokenised(self, text: str) -> tuple[int, ...]:
        if _OPEN not in text:
            return tuple(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
        letters = re.sub(f"[{_OPEN}{_JOIN}{_CLOSE}]", "", text)
        return tuple(self.tokenizer.encode(letters, add_special_tokens=False, split_special_tokens=True))

    def _tokens(self, pieces: Sequence[_Piece], n_shortened: int) -> Rendered:
        input_ids: list[int] = []
        trained: list[bool] = []
        for piece in pieces:
            ids = self._ids(piece.text)
            input_ids += ids
            trained += [piece.trained] * len(ids)
        return Rendered(input_ids, trained, n_shortened=n_shortened)

    # ---- shortening ---------------------------------------------------------------------------------------------------

    def _fit(self, messages: Sequence[Message], max_tokens: int | None) -> tuple[list[Message], int]:
        """Shorten the shortenable part until the prompt has at most ``max_tokens`` tokens."""
        if max_tokens is None or not messages:
            return list(messages), 0
        n_tokens = n_before = self._n_prompt_tokens(messages)
        fitted = list(messages)
        n_kept: int | None = None
        while n_tokens > max_tokens:
            place = _longest_shortenable(messages)
            text = messages[place[0]].parts[place[1]].text if place else ""
            spans = self._spans(text)
            n_kept = (len(spans) if n_kept is None else n_kept) - (n_tokens - max_tokens)
            if place is None or n_kept < 0:
                raise RowError(
                    f"the prompt has {n_before} tokens, and what may not be shortened alone is longer than the {max_tokens} allowed",
                    hint="raise encode.max_tokens, or shorten the instruction and the candidates",
                )
            fitted = _with_text(messages, place, _shortened(text, spans, n_kept, self.keep))
            n_tokens = self._n_prompt_tokens(fitted)
        return fitted, n_before - n_tokens

    def _n_prompt_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(self._ids(piece.text)) for piece in self._pieces(messages, answer_follows=True))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
        return [(start, end) for start, end in encoding["offset_mapping"]]


_OPEN, _JOIN, _CLOSE = "\ue0f0", "\ue0f1", "\ue0f2"
"""Private-use characters around a control token in a user's text; none of them reaches the tokenizer."""


def _stop_token(tokenizer: Any) -> str:
    if "<|im_end|>" in tokenizer.get_vocab():
        return "<|im_end|>"
    if tokenizer.eos_token is None:
        raise ModelError("the tokenizer has no end-of-sequence token, so an answer could never end")
    return str(tokenizer.eos_token)


def _control_tokens(tokenizer: Any) -> dict[str, int]:
    """Tokens that steer the model, longest first; think tags are not among them, an answer may hold those."""
    special = {str(token): token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return dict(sorted(special.items(), key=lambda item: -len(item[0])))


def _what_follows(beginning: str, whole: str) -> str:
    if not whole.startswith(beginning):
        same = next((i for i, (a, b) in enumerate(zip(beginning, whole, strict=False)) if a != b), min(len(beginning), len(whole)))
        raise ModelError(
            "the chat template renders a turn differently once another follows it",
            where=f"at {beginning[max(0, same - 20) : same + 20]!r}",
            hint="such a template cannot be trained on; weitiao ships a training copy for Qwen3",
        )
    return whole[len(beginning) :]


def _longest_shortenable(messages: Sequence[Message]) -> tuple[int, int] | None:
    places = [(i, j) for i, message in enumerate(messages) for j, part in enumerate(message.parts) if part.shortenable and part.text]
    return max(places, key=lambda place: len(messages[place[0]].parts[place[1]].text), default=None)


def _with_text(messages: Sequence[Message], place: tuple[int, int], text: str) -> list[Message]:
    i, j = place
    parts: list[Part] = list(messages[i].parts)
    parts[j] = replace(parts[j], text=text)
    return [*messages[:i], replace(messages[i], parts=tuple(parts)), *messages[i + 1 :]]


def _shortened(text: str, spans: Sequence[tuple[int, int]], n_kept: int, keep: Keep) -> str:
    """``n_kept`` of the text's tokens by character spans; never half a character (a character may be several tokens)."""
    whole = [0, *(a[1] for a, b in pairwise(spans) if b[0] >= a[1]), len(text)]
    """Character positions at which the text can be cut between two tokens."""

    def head(n: int) -> str:
        return text[: max(cut for cut in whole if cut <= (spans[n - 1][1] if n else 0))]

    def tail(n: int) -> str:
        return text[min(cut for cut in whole if cut >= (spans[-n][0] if n else len(text))) :]

    if keep == "head":
        return head(n_kept)
    if keep == "tail":
        return tail(n_kept)
    n_head = (n_kept - 1) * 2 // 3
    if n_kept < 3:
        return head(n_kept)
    return head(n_head) + ELLIPSIS + tail(n_kept - 1 - n_head)
