"""Conversations as tokens, the same ones at training, evaluation, prediction and in the server.

A conversation is cut into pieces: what the template writes and what others said (not trained), and what the assistant says up to and
including its stop token (trained). Each piece is tokenised on its own, exactly as it is when the answer is still to come; so the
tokens before an answer are those of ``prompt()`` by construction, and the mask follows position, never token ids.

A conversation that the assistant opens is a plain document: no template, every token trained, the end-of-text token last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from weitiao.chat.images import ImageReader, make_image_reader
from weitiao.chat.images_tokens import PLACEHOLDER, template_content, tokens_of_images, with_pictures
from weitiao.chat.shorten import Keep, fit_prompts, lost_text
from weitiao.chat.template import chat_template, stop_token, what_follows
from weitiao.chat.texts import TextTokens
from weitiao.errors import ModelError, RowError
from weitiao.recipe.sections import Chat
from weitiao.seams import Message, Picture, Rendered

N_SHOWN = 40
"""Characters of a lost text that an error shows."""


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
        self._texts = TextTokens(tokenizer)

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
        return self._fitted(_answered(messages), max_tokens, answered=True)

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
        self._remember(rows)
        return [self._tokens(pieces, 0, self._pictures(messages)) for pieces, messages in zip(rows, batch, strict=True)]

    def shortened(self, batch: Sequence[Sequence[Message]], lengths: Sequence[int], max_tokens: int) -> list[Rendered | RowError]:
        """Tokens of conversations to be learnt that are too long: what ``conversation`` gives of each, tokenised on all cores.

        Args:
            batch: conversations, each ending with an assistant message.
            lengths: tokens before the last answer of each, above ``max_tokens``.
            max_tokens: longest allowed prompt before the last answer.

        Returns:
            Per conversation its row, or why it cannot be shortened: also where a JSON answer quotes what would be cut off.
        """
        return self._shorten(batch, lengths, max_tokens, answered=True, learnt=True)

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
            return self._tokens([_Piece(self._texts.guard(messages[0].text), trained=False)], 0)
        return self._fitted(messages, max_tokens, answered=False)

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
        parts = (self.tokenizer.backend_tokenizer.to_str(), self.template, str(self.enable_thinking), self.keep, *self._texts.control_ids)
        parts += (self.images.fingerprint if self.images else "",)
        named = (*parts, self.stop_token, self.document_end, str(sorted(self.tokenizer.special_tokens_map.items())))
        return hashlib.sha256("\0".join(named).encode()).hexdigest()

    # ---- pieces -------------------------------------------------------------------------------------------------------

    def _pieces(self, messages: Sequence[Message], *, answer_follows: bool) -> list[_Piece]:
        if not answer_follows and len(messages) == 1:
            return [_Piece(self._texts.guard(messages[0].text) + self.document_end, trained=True)]
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
            pieces.append(_Piece(what_follows(rendered, before), trained=False))
            answer = what_follows(before, whole)
            end = answer.rfind(self.stop_token) + len(self.stop_token)
            if end < len(self.stop_token):
                raise ModelError("the chat template does not end an answer with the stop token", where=self.stop_token)
            pieces.append(_Piece(answer[:end], trained=True))
            rendered = before + answer[:end]
        if answer_follows or messages[-1].role != "assistant":
            whole = self._render(messages, add_generation_prompt=answer_follows)
        pieces.append(_Piece(what_follows(rendered, whole), trained=False))
        return pieces

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        turns = [{"role": message.role, "content": template_content(message, self._texts.guard)} for message in messages]
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

    # ---- pieces to tokens ---------------------------------------------------------------------------------------------

    def _remember(self, rows: Sequence[Sequence[_Piece]]) -> None:
        self._texts.remember(piece.text for pieces in rows for piece in pieces)

    def _tokens(self, pieces: Sequence[_Piece], n_shortened: int, pictures: tuple[Picture, ...] = ()) -> Rendered:
        input_ids: list[int] = []
        trained: list[bool] = []
        for piece in pieces:
            ids = self._texts.ids(piece.text)
            input_ids += ids
            trained += [piece.trained] * len(ids)
        row = Rendered(input_ids, trained, n_shortened=n_shortened)
        return with_pictures(row, pictures, self._texts.control_ids[PLACEHOLDER]) if pictures else row

    # ---- shortening ---------------------------------------------------------------------------------------------------

    def _fitted(self, messages: Sequence[Message], max_tokens: int | None, *, answered: bool) -> Rendered:
        # First, as a text model's template knows nothing of images and says so in its own words.
        pictures = self._pictures(messages)
        pieces = self._pieces(messages, answer_follows=not answered)
        length = self._n_prompt_tokens(pieces, pictures, answered=answered)
        if max_tokens is None or length <= max_tokens:
            return self._tokens(pieces, 0, pictures)
        (row,) = self._shorten([messages], [length], max_tokens, answered=answered)
        if isinstance(row, RowError):
            raise row
        return row

    def _shorten(
        self, batch: Sequence[Sequence[Message]], lengths: Sequence[int], max_tokens: int, *, answered: bool, learnt: bool = False
    ) -> list[Rendered | RowError]:
        """Rows whose shortenable part is cut so that the prompt has at most ``max_tokens`` tokens; images are never cut."""
        pictures = [self._pictures(messages) for messages in batch]
        rows: dict[int, list[_Piece]] = {}
        left: dict[int, Sequence[Message]] = {}

        def count(numbers: Sequence[int], prompts: Sequence[Sequence[Message]]) -> list[int]:
            left.update(zip(numbers, prompts, strict=True))
            for i, prompt in zip(numbers, prompts, strict=True):
                rows[i] = self._pieces([*prompt, batch[i][-1]] if answered else prompt, answer_follows=not answered)
            self._remember([rows[i] for i in numbers])
            return [self._n_prompt_tokens(rows[i], pictures[i], answered=answered) for i in numbers]

        prompts = [messages[:-1] if answered else messages for messages in batch]
        n_tokens = fit_prompts(prompts, lengths, max_tokens, self.keep, self._texts.spans, count)

        def outcome(i: int) -> Rendered | RowError:
            if n_tokens[i] > max_tokens:
                return _too_long(lengths[i], max_tokens, pictures[i])
            lost = lost_text(prompts[i], left[i], batch[i][-1].text) if learnt else None
            return self._tokens(rows[i], lengths[i] - n_tokens[i], pictures[i]) if lost is None else _cut_off(lost, lengths[i], max_tokens)

        return [outcome(i) for i in range(len(batch))]

    def _n_prompt_tokens(self, pieces: Sequence[_Piece], pictures: Sequence[Picture], *, answered: bool) -> int:
        """Tokens before the last answer; behind it stands one piece more."""
        before = pieces[:-2] if answered else pieces
        return sum(len(self._texts.ids(piece.text)) for piece in before) + sum(picture.n_tokens - 1 for picture in pictures)


def _answered(messages: Sequence[Message]) -> Sequence[Message]:
    if not messages or messages[-1].role != "assistant":
        raise RowError("the conversation does not end with an answer of the assistant")
    return messages


def _cut_off(lost: str, n_tokens: int, max_tokens: int) -> RowError:
    shown = lost if len(lost) <= N_SHOWN else f"{lost[:N_SHOWN]}…"
    return RowError(
        f"the answer quotes `{shown}`, which was cut off with the text: the prompt has {n_tokens} tokens, {max_tokens} are allowed",
        hint="raise encode.max_tokens, choose the end that stays (encode.keep), or allow such rows to be left out: data.allow_dropped",
    )


def _too_long(n_tokens: int, max_tokens: int, pictures: Sequence[Picture]) -> RowError:
    return RowError(
        f"the prompt has {n_tokens} tokens{tokens_of_images(pictures)}, and what may not be shortened alone is longer than the "
        f"{max_tokens} allowed",
        hint="raise encode.max_tokens, or "
        + ("lower chat.images.max_pixels" if pictures else "shorten the instruction and the candidates"),
    )
