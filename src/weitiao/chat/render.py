"""Conversations as tokens, the same ones at training, evaluation, prediction and in the server.

A conversation is cut into pieces: what the template writes and what others said (not trained), and what the assistant says up to and
including its stop token (trained). Each piece is tokenised on its own, exactly as it is when the answer is still to come; so the
tokens before an answer are those of ``prompt()`` by construction, and the mask follows position, never token ids.

A conversation that the assistant opens is a plain document: no template, every token trained, the end-of-text token last.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from weitiao.chat.images import ImageReader, make_image_reader
from weitiao.chat.images_tokens import PLACEHOLDER, template_content, tokens_of_images, with_pictures
from weitiao.chat.shorten import Keep, longest_shortenable, shortened, with_text
from weitiao.chat.template import chat_template, control_tokens, stop_token
from weitiao.errors import ModelError, RowError
from weitiao.recipe.sections import Chat
from weitiao.seams import Message, Picture, Rendered

N_KNOWN = 4096
"""Texts whose tokens are remembered, at least the last ones that were asked for together."""


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    trained: bool


def make_renderer(processor: Any, section: Chat, keep: Keep = "head") -> QwenRenderer:
    """Make the one renderer of a run.

    Args:
        processor: the tokenizer of a chat model; for a vision model what holds its ``tokenizer`` and ``image_processor``.
        section: the recipe's ``chat``, its image policy included.
        keep: which end of a shortened text stays.

    Returns:
        A renderer that depends on nothing but its arguments. ``renderer.images`` reads images; None for a text model.

    Raises:
        ModelError: the tokenizer has no chat template or no stop token.
        RecipeError: the policy's one size does not fit the model.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    template = chat_template(tokenizer, section.enable_thinking)
    return QwenRenderer(tokenizer, template, section.enable_thinking, keep, make_image_reader(processor, section.images))


class QwenRenderer:
    """Renders conversations of one tokenizer; see the module's docstring for the rule."""

    def __init__(self, tokenizer: Any, template: str, enable_thinking: bool, keep: Keep, images: ImageReader | None = None) -> None:
        """Keep what rendering depends on.

        Args:
            tokenizer: a fast tokenizer.
            template: the Jinja chat template.
            enable_thinking: handed to the template.
            keep: which end of a shortened text stays.
            images: reads images; None for a text model.

        Raises:
            ModelError: the tokenizer has no stop token.
        """
        self.images = images
        self.tokenizer = tokenizer
        self.template = template
        self.enable_thinking = enable_thinking
        self.keep = keep
        self.stop_token = stop_token(tokenizer)
        self.document_end = "<|endoftext|>" if "<|endoftext|>" in tokenizer.get_vocab() else self.stop_token
        names = dict.fromkeys([self.stop_token, self.document_end])
        self.stop_token_ids: tuple[int, ...] = tuple(tokenizer.convert_tokens_to_ids(name) for name in names)
        self.pad_token_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.stop_token_ids[-1]
        self._control_ids = control_tokens(tokenizer)
        self._control = re.compile("(" + "|".join(map(re.escape, self._control_ids)) + ")")
        self._known: dict[str, Sequence[int]] = {}

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
        pictures = self._pictures(messages)
        prompt, n_shortened = self._fit(_answered(messages)[:-1], max_tokens, pictures)
        return self._tokens(self._pieces([*prompt, messages[-1]], answer_follows=False), n_shortened, pictures)

    def conversations(self, batch: Sequence[Sequence[Message]]) -> list[Rendered]:
        """Tokens of many conversations at full length: the same as one by one, tokenised on all cores.

        Args:
            batch: conversations, each ending with an assistant message.

        Returns:
            One row per conversation, in their order.

        Raises:
            RowError: a conversation does not end with an answer.
        """
        rows = [self._pieces(_answered(messages), answer_follows=False) for messages in batch]
        self._remember(part for pieces in rows for piece in pieces for part, is_control in self._parts(piece.text) if not is_control)
        return [self._tokens(pieces, 0, self._pictures(messages)) for pieces, messages in zip(rows, batch, strict=True)]

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
        pictures = self._pictures(messages)
        fitted, n_shortened = self._fit(messages, max_tokens, pictures)
        return self._tokens(self._pieces(fitted, answer_follows=True), n_shortened, pictures)

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

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that tokens depend on besides the messages: tokenizer, template, thinking, image policy and more."""
        parts = (self.tokenizer.backend_tokenizer.to_str(), self.template, str(self.enable_thinking), self.keep, *self._control_ids)
        parts += (self.images.fingerprint if self.images else "",)
        named = (*parts, self.stop_token, self.document_end, str(sorted(self.tokenizer.special_tokens_map.items())))
        return hashlib.sha256("\0".join(named).encode()).hexdigest()

    # ---- pieces -------------------------------------------------------------------------------------------------------

    def _pieces(self, messages: Sequence[Message], *, answer_follows: bool) -> list[_Piece]:
        if not answer_follows and len(messages) == 1:
            return [_Piece(self._guard(messages[0].text) + self.document_end, trained=True)]
        pieces: list[_Piece] = []
        rendered = whole = ""
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            if "</think>" in message.text and "</think>" in self.template and not self.enable_thinking:
                raise RowError(
                    "an answer holds a think block, but thinking is off", hint="set chat.enable_thinking: true, or take the blocks out"
                )
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
        turns = [{"role": message.role, "content": template_content(message, self._guard)} for message in messages]
        return str(
            self.tokenizer.apply_chat_template(
                turns,
                chat_template=self.template,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=self.enable_thinking,
                tokenize=False,
            )
        )

    def _pictures(self, messages: Sequence[Message]) -> tuple[Picture, ...]:
        paths = [part.image for message in messages for part in message.parts if part.image is not None]
        if paths and self.images is None:
            raise RowError("the row holds an image, and this model reads text only", hint="start from a vision model (its name has VL)")
        return tuple(self.images.picture(path) for path in paths) if self.images else ()

    # ---- text to tokens -----------------------------------------------------------------------------------------------

    def _guard(self, text: str) -> str:
        """Mark control tokens that stand in a user's text, so that they are tokenised as the letters they are."""
        if "<" not in text:
            return text
        return self._control.sub(lambda match: f"{_OPEN}{match.group()[0]}{_JOIN}{match.group()[1:]}{_CLOSE}", text)

    def _ids(self, text: str) -> list[int]:
        """Tokens of a piece. Control tokens divide it, so what stands between two of them is tokenised once if it comes again."""
        ids: list[int] = []
        for part, is_control in self._parts(text):
            if is_control:
                ids.append(self._control_ids[part])
            else:
                if part not in self._known:
                    self._remember([part])
                ids += self._known[part]
        return ids

    def _parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """The piece divided at its control tokens, and which parts are such; no part is empty."""
        return ((part, i % 2 == 1) for i, part in enumerate(self._control.split(text)) if part)

    def _remember(self, texts: Iterable[str]) -> None:
        """Tokenise texts without control tokens, all at once and on all cores where there are several."""
        wanted = list(dict.fromkeys(texts))
        if len(self._known) > N_KNOWN:
            self._known.clear()
        new = [text for text in wanted if text not in self._known]
        plain = [text for text in new if _OPEN not in text]
        found = self.tokenizer.backend_tokenizer.encode_batch_fast(plain, add_special_tokens=False)
        self._known |= {text: encoding.ids for text, encoding in zip(plain, found, strict=True)}
        for text in new:
            if _OPEN in text:
                letters = re.sub(f"[{_OPEN}{_JOIN}{_CLOSE}]", "", text)
                self._known[text] = self.tokenizer.encode(letters, add_special_tokens=False, split_special_tokens=True)

    def _tokens(self, pieces: Sequence[_Piece], n_shortened: int, pictures: tuple[Picture, ...] = ()) -> Rendered:
        input_ids: list[int] = []
        trained: list[bool] = []
        for piece in pieces:
            ids = self._ids(piece.text)
            input_ids += ids
            trained += [piece.trained] * len(ids)
        row = Rendered(input_ids, trained, n_shortened=n_shortened)
        return with_pictures(row, pictures, self._control_ids[PLACEHOLDER]) if pictures else row

    # ---- shortening ---------------------------------------------------------------------------------------------------

    def _fit(self, messages: Sequence[Message], max_tokens: int | None, pictures: Sequence[Picture]) -> tuple[list[Message], int]:
        """Shorten the shortenable part until the prompt has at most ``max_tokens`` tokens; images are never cut."""
        if max_tokens is None or not messages:
            return list(messages), 0
        n_image = sum(picture.n_tokens - 1 for picture in pictures)
        n_tokens = n_before = self._n_prompt_tokens(messages) + n_image
        fitted = list(messages)
        n_kept: int | None = None
        while n_tokens > max_tokens:
            place = longest_shortenable(messages)
            text = messages[place[0]].parts[place[1]].text if place else ""
            spans = self._spans(text)
            n_kept = (len(spans) if n_kept is None else n_kept) - (n_tokens - max_tokens)
            if place is None or n_kept < 0:
                raise RowError(
                    f"the prompt has {n_before} tokens{tokens_of_images(pictures)}, and what may not be shortened alone is longer than the "
                    f"{max_tokens} allowed",
                    hint="raise encode.max_tokens, or "
                    + ("lower chat.images.max_pixels" if pictures else "shorten the instruction and the candidates"),
                )
            fitted = with_text(messages, place, shortened(text, spans, n_kept, self.keep))
            n_tokens = self._n_prompt_tokens(fitted) + n_image
        return fitted, n_before - n_tokens

    def _n_prompt_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(self._ids(piece.text)) for piece in self._pieces(messages, answer_follows=True))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        if not self._control.search(text):
            return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets)
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
        return [(start, end) for start, end in encoding["offset_mapping"]]


_OPEN, _JOIN, _CLOSE = "\ue0f0", "\ue0f1", "\ue0f2"
"""Private-use characters around a control token in a user's text; none of them reaches the tokenizer."""


def _answered(messages: Sequence[Message]) -> Sequence[Message]:
    if not messages or messages[-1].role != "assistant":
        raise RowError("the conversation does not end with an answer of the assistant")
    return messages


def _what_follows(beginning: str, whole: str) -> str:
    if not whole.startswith(beginning):
        same = next((i for i, (a, b) in enumerate(zip(beginning, whole, strict=False)) if a != b), min(len(beginning), len(whole)))
        raise ModelError(
            "the chat template renders a turn differently once another follows it",
            where=f"at {beginning[max(0, same - 20) : same + 20]!r}",
            hint="such a template cannot be trained on; weitiao ships a training copy for Qwen3",
        )
    return whole[len(beginning) :]
