"""What a tokenizer brings to a conversation: its chat template, its stop token and the tokens that steer the model."""

from __future__ import annotations

from importlib import resources
from typing import Any

from weitiao.errors import ModelError


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


def stop_token(tokenizer: Any) -> str:
    """The token that ends an answer; raises ``ModelError`` where the tokenizer has none."""
    if "<|im_end|>" in tokenizer.get_vocab():
        return "<|im_end|>"
    if tokenizer.eos_token is None:
        raise ModelError("the tokenizer has no end-of-sequence token, so an answer could never end")
    return str(tokenizer.eos_token)


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Tokens that steer the model, longest first; think tags are not among them, an answer may hold those."""
    special = {str(token): token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return dict(sorted(special.items(), key=lambda item: -len(item[0])))


def what_follows(beginning: str, whole: str) -> str:
    """The rest of a rendered conversation after its beginning.

    Args:
        beginning: the first turns, rendered alone.
        whole: those and what comes after them.

    Returns:
        What the template wrote for the turns that came after.

    Raises:
        ModelError: the template renders the first turns differently once others follow.
    """
    if not whole.startswith(beginning):
        same = next((i for i, (a, b) in enumerate(zip(beginning, whole, strict=False)) if a != b), min(len(beginning), len(whole)))
        raise ModelError(
            "the chat template renders a turn differently once another follows it",
            where=f"at {beginning[max(0, same - 20) : same + 20]!r}",
            hint="such a template cannot be trained on; weitiao ships a training copy for Qwen3",
        )
    return whole[len(beginning) :]
