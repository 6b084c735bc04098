"""What an answer may be, as a mask over the vocabulary: a JSON schema, a choice of texts or a pattern, followed token by token.

llguidance does the work (MIT, 3 MB, no dependencies, a few microseconds per token; xgrammar would bring Triton and TVM along).
JSON is written as ``json.dumps(value, ensure_ascii=False)`` writes it, fields in the schema's order, so that a model trained on such
answers gives the same answer with and without the constraint. Where answers think first, the constraint begins after the think block.
Near the limit on new tokens an answer is brought to its end, so that it is whole; see ``closing.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import torch

from weitiao.errors import EngineError
from weitiao.infer.closing import LONGEST_ENDING, Endings, InTime, possible_tokens
from weitiao.seams import Constraint, Renderer, text_message

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

JSON_STYLE: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

FREE_TOKENS = '%llguidance {"no_forcing": true}\n'
"""Where only one text can follow, the model still chooses the tokens that write it: as it learnt them, not as llguidance would cut them."""

MAX_COMPILED = 256
"""Constraints that are kept compiled: a server's clients send what they like."""
MAX_FORCED = 1024
"""Forced texts whose tokens are kept."""


class Matcher:
    """Follows one answer."""

    def __init__(self, inner: Any, n_vocab: int, tokenize: Callable[[bytes], list[int]], limit: InTime) -> None:
        """Keep llguidance's matcher, which nobody else may use.

        Args:
            inner: at the beginning of an answer.
            n_vocab: width of the logits.
            tokenize: text to tokens, as the tokenizer cuts it.
            limit: sees to it that the answer ends in time.
        """
        self._inner = inner
        self._n_vocab = n_vocab
        self._tokenize = tokenize
        self._limit = limit

    def allowed(self) -> torch.Tensor:
        """Which tokens may come next: bool, one per entry of the vocabulary, on the CPU; ``EngineError`` where that cannot be said."""
        possible = possible_tokens(self._inner)
        if self._inner.is_error():  # the mask then holds the stop tokens, as if the answer were finished
            raise EngineError(f"the constraint cannot be followed: {self.problem()}")
        return torch.from_numpy(possible[: self._n_vocab])

    def forced(self) -> list[int]:
        """The text that must come next, as the tokenizer cuts it: how a model most likely writes it. Empty where there is a choice."""
        text = self._inner.compute_ff_bytes()
        return self._tokenize(text) if text else []

    def n_possible(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens may come next, one after the other."""
        return int(self._inner.validate_tokens(list(token_ids)))

    def in_time(self, token_id: int, n_left: int) -> int:
        """The token to take, so that the answer is whole within its limit wherever that is possible.

        Args:
            token_id: that the model chose.
            n_left: tokens that may be taken yet, this one included.

        Returns:
            The same; or, near the limit, one that leads to the answer's end.
        """
        return self._limit.choose(self._inner, token_id, n_left)

    def take(self, token_id: int) -> bool:
        """Move on by a token; False where that is not possible, and ``problem`` says why."""
        return bool(self._inner.consume_token(token_id))

    def problem(self) -> str:
        """Why the answer cannot go on, without the pages of state that llguidance puts behind it."""
        return str(self._inner.get_error()).partition("\n")[0]

    def is_complete(self) -> bool:
        """Whether nothing may follow any more."""
        return bool(self._inner.is_stopped())

    def was_closed(self) -> bool:
        """Whether the limit, and not the model, ended the answer."""
        return self._limit.has_closed


@dataclass(frozen=True, slots=True)
class ThinkBlock:
    """Tokens around the thoughts that an answer may begin with."""

    opening: int
    closing: int
    after: tuple[int, ...]
    """White space that the template puts between the block and the answer itself."""


def think_block(renderer: Renderer) -> ThinkBlock | None:
    """What thoughts stand between, where answers of this run have thoughts."""
    rendered = renderer.conversation([text_message("user", "?"), text_message("assistant", "0")])
    ids = [token for token, on in zip(rendered.input_ids, rendered.trained, strict=True) if on]
    texts = [renderer.text([token]) for token in ids]
    if "<think>" not in texts or "</think>" not in texts:
        return None
    closing = texts.index("</think>")
    n_blank = next(i for i, text in enumerate(texts[closing + 1 :]) if text.strip())
    return ThinkBlock(ids[texts.index("<think>")], ids[closing], tuple(ids[closing + 1 : closing + 1 + n_blank]))


class AfterThoughts:
    """Follows an answer that may think first: thoughts are free, the constraint holds for what comes after them."""

    def __init__(self, matcher: Matcher, block: ThinkBlock, stop_token_ids: Sequence[int], max_thoughts: int) -> None:
        """Begin an answer.

        Args:
            matcher: of the constraint.
            block: what thoughts stand between.
            stop_token_ids: never allowed among thoughts.
            max_thoughts: tokens after which the block is closed, so that the answer itself still has room.
        """
        self._matcher, self._block = matcher, block
        self._stop_token_ids, self._max_thoughts = list(stop_token_ids), max_thoughts
        self._n_thoughts: int | None = None
        self._owed: list[int] = []
        self._has_begun = False

    def allowed(self) -> torch.Tensor:
        """Which tokens may come next."""
        tokens = self._matcher.allowed()
        if self._n_thoughts is not None:
            is_over = self._n_thoughts >= self._max_thoughts
            tokens.fill_(not is_over)
            tokens[self._block.closing if is_over else self._stop_token_ids] = is_over
        elif self._owed:
            tokens.fill_(False)
            tokens[self._owed[0]] = True
        elif not self._has_begun:
            tokens[self._block.opening] = True
        return tokens

    def forced(self) -> list[int]:
        """Tokens that must come next, and the text that must follow them; empty where there is a choice."""
        if self._n_thoughts is not None:
            return [self._block.closing, *self._block.after] if self._n_thoughts >= self._max_thoughts else []
        # The first token says whether there are thoughts.
        return [*self._owed, *self._matcher.forced()] if self._has_begun else []

    def n_possible(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens may come next, one after the other; the end of thoughts is as far as this looks."""
        if self._n_thoughts is None:
            return self._matcher.n_possible(token_ids)
        room = token_ids[: self._max_thoughts - self._n_thoughts]
        return next((i for i, token in enumerate(room) if token in self._stop_token_ids), len(room))

    def in_time(self, token_id: int, n_left: int) -> int:
        """The token to take, so that the answer is whole within its limit; thoughts have a limit of their own."""
        is_answer = self._has_begun and self._n_thoughts is None and not self._owed
        return self._matcher.in_time(token_id, n_left) if is_answer else token_id

    def take(self, token_id: int) -> bool:
        """Move on by a token; False where that is not possible."""
        is_first, self._has_begun = not self._has_begun, True
        if self._n_thoughts is not None:
            self._n_thoughts += 1
            if token_id == self._block.closing:
                self._n_thoughts, self._owed = None, list(self._block.after)
            return True
        if self._owed:
            return token_id == self._owed.pop(0)
        if is_first and token_id == self._block.opening:
            self._n_thoughts = 0
            return True
        return self._matcher.take(token_id)

    def problem(self) -> str:
        """Why the answer cannot go on."""
        return self._matcher.problem()

    def is_complete(self) -> bool:
        """Whether nothing may follow any more."""
        return self._n_thoughts is None and not self._owed and self._matcher.is_complete()

    def was_closed(self) -> bool:
        """Whether the limit, and not the model, ended the answer."""
        return self._matcher.was_closed()


class Grammars:
    """Compiled constraints of one tokenizer, each compiled once."""

    def __init__(self, tokenizer: Any, n_vocab: int, renderer: Renderer) -> None:
        """Keep what compiling needs.

        Args:
            tokenizer: a fast tokenizer.
            n_vocab: width of the logits; entries beyond the tokenizer's own are never allowed.
            renderer: knows the tokens that may end a finished answer, and whether answers think first.
        """
        self._tokenizer = tokenizer
        self._n_vocab = n_vocab
        self._stop_token_ids = list(renderer.stop_token_ids)
        self._block = think_block(renderer)
        self._compiled: dict[str, tuple[Any, int]] = {}
        self._tokenize = lru_cache(MAX_FORCED)(self._tokenize_anew)

    def matcher(self, constraint: Constraint | None, origin: str, max_new_tokens: int) -> Matcher | AfterThoughts | None:
        """Something that follows a new answer.

        Args:
            constraint: None, or a constraint with nothing set, means anything.
            origin: of the row, for messages.
            max_new_tokens: longest answer. Thoughts get at most three quarters of it.

        Returns:
            A matcher at the beginning of an answer, or None.

        Raises:
            EngineError: the constraint sets several fields, or cannot be compiled.
        """
        if constraint is None or constraint == Constraint():
            return None
        grammar = _grammar(constraint, origin)
        if grammar not in self._compiled:
            if len(self._compiled) >= MAX_COMPILED:
                self._compiled.clear()
            self._compiled[grammar] = self._compile(grammar, origin)
        compiled, n_shortest = self._compiled[grammar]
        limit = InTime(self._endings, n_shortest, self._stop_token_ids)
        matcher = Matcher(compiled.deep_copy(), self._n_vocab, self._tokenize, limit)
        if self._block is None:
            return matcher
        return AfterThoughts(matcher, self._block, self._stop_token_ids, max_new_tokens * 3 // 4)

    @cached_property
    def _prepared(self) -> Any:
        from llguidance import LLTokenizer

        rules = self._tokenizer.backend_tokenizer.to_str()
        return LLTokenizer(rules, n_vocab=self._n_vocab, eos_token=self._stop_token_ids)

    @cached_property
    def _endings(self) -> Endings:
        return Endings(self._prepared, self._tokenize)

    def _tokenize_anew(self, text: bytes) -> list[int]:
        return list(self._prepared.tokenize_bytes(text))

    def _compile(self, grammar: str, origin: str) -> tuple[Any, int]:
        """A matcher at the beginning of an answer, and tokens of the shortest way found from there to the end."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._prepared, grammar, log_level=0)
        if matcher.is_error():
            raise EngineError(f"the constraint cannot be compiled: {matcher.get_error()}", where=origin)
        return matcher, len(self._endings.after(matcher, LONGEST_ENDING) or [])


def _grammar(constraint: Constraint, origin: str) -> str:
    if sum(wish is not None for wish in (constraint.json_schema, constraint.choices, constraint.regex)) > 1:
        raise EngineError("a constraint is a JSON schema, a choice of texts or a pattern, and only one of them", where=origin)
    if constraint.regex is not None:
        # A slash would end the pattern; one that is escaped already is left alone.
        escaped = re.sub(r"\\.|/", lambda found: found[0] if len(found[0]) > 1 else r"\/", constraint.regex, flags=re.DOTALL)
        return _lark(f"/{escaped}/")
    if constraint.json_schema is not None:
        return _lark(f"%json {json.dumps({**constraint.json_schema, 'x-guidance': JSON_STYLE})}")
    assert constraint.choices is not None
    if not constraint.choices:
        raise EngineError("a constraint offers no choice", where=origin)
    alternatives = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in dict.fromkeys(constraint.choices))
    return _lark(alternatives)


def _lark(start: str) -> str:
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_lark(f"{FREE_TOKENS}start: {start}"))
