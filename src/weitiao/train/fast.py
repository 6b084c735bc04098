"""Fast paths of the training step, by name. Each has a plain twin and a test that loss and gradients are the same.

``lora_linear``: an adapted linear layer is one function (``linear.py``). ``fused_attention``, ``fused_mlp``: norm with q, k and v, rotary,
and norm with the MLP are one function each (``blocks.py``). ``last_layer``: behind its attention the last layer computes only the places
whose next token is trained. ``answer_logits``: so does the head (``head.py``); where it is the embedding too, and trained on a CPU, its
gradient takes up that of the tokens' vectors in place. ``shared_prefix``: a beginning that all rows share is
computed once per packed row (``encode/steps.py``). ``liger``: on CUDA the Trainer puts Liger's kernels into the network, where installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, get_args

import torch
from torch import nn

from weitiao.errors import RecipeError
from weitiao.recipe.sections import FastName, Train
from weitiao.train.blocks import norm_mlp, norm_project, rms_norm, rotate
from weitiao.train.head import Pending, looked_up
from weitiao.train.linear import is_plain, lora_linear
from weitiao.train.segments import Segments, segment_attention

ANYWHERE = frozenset({"answer_logits", "shared_prefix", "last_layer", "lora_linear"})
ONLY_ON = {"fused_attention": "cpu", "fused_mlp": "cpu", "liger": "cuda"}
"""Fast paths that help on one kind of device; elsewhere the libraries' own kernels do that work."""
LAYERS = frozenset(
    {
        "LlamaDecoderLayer",
        "Qwen2DecoderLayer",
        "Qwen3DecoderLayer",
        "Qwen2VLDecoderLayer",
        "Qwen2_5_VLDecoderLayer",
        "Qwen3VLTextDecoderLayer",
    }
)
"""Decoder layers whose order of norms, attention and MLP the fused functions know; of a vision model those of its language model."""


def fast_paths(section: Train, device: str | None = None) -> frozenset[str]:
    """The fast paths that a recipe asks for.

    Args:
        section: the recipe's ``train``.
        device: kind of device, ``cpu``, ``cuda`` or ``mps``; None: whichever they help on.

    Returns:
        Names of ``FastName``; ``all`` means those that help on the device.

    Raises:
        RecipeError: the recipe names one that is of no use on the device.
    """
    if section.fast == "none":
        return frozenset()
    if section.fast == "all":
        names = frozenset(get_args(FastName))
        return names if device is None else frozenset(name for name in names if ONLY_ON.get(name, device) == device and _is_there(name))
    for name in section.fast:
        if device is not None and ONLY_ON.get(name, device) != device:
            raise RecipeError(f"`{name}` works on {ONLY_ON[name]} only", where="train.fast", hint=f"leave it out on {device}")
        if device is not None and not _is_there(name):
            raise RecipeError("liger-kernel is not installed", where="train.fast", hint="pip install liger-kernel, or leave `liger` out")
    return frozenset(section.fast)


def _is_there(name: str) -> bool:
    from transformers.utils.import_utils import is_liger_kernel_available

    return name != "liger" or is_liger_kernel_available()


@contextmanager
def fast_layers(network: Any, names: frozenset[str], *, recompute: bool = False) -> Iterator[None]:
    """Use fast forwards of a network's layers while the context lasts.

    Args:
        network: the tuned network.
        names: fast paths in use.
        recompute: compute the MLP's inner activations again in the backward pass instead of keeping them.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:

        def use(module: nn.Module, forward: Callable[..., Any]) -> None:
            vars(module)["forward"] = forward
            stack.callback(vars(module).pop, "forward")

        layers = [module for module in network.modules() if type(module).__name__ in LAYERS]
        embedding = network.get_input_embeddings()
        if "answer_logits" in names and _is_trained_head(network, embedding):
            stack.enter_context(_small_gradients(embedding, use))
        if "lora_linear" in names:
            for module in network.modules():
                if is_plain(module) and not isinstance(module, nn.Linear):
                    use(module, partial(lora_linear, module))
        for layer in layers:
            if "fused_attention" in names and all(map(is_plain, _attention_inputs(layer.self_attn))):
                use(layer.self_attn, partial(fused_attention, layer.self_attn, layer.input_layernorm))
                use(layer.input_layernorm, _untouched)
            if "fused_mlp" in names and _is_gated_silu(layer.mlp):
                use(layer.mlp, partial(norm_mlp, layer.post_attention_layernorm, layer.mlp, recompute))
                use(layer.post_attention_layernorm, _untouched)
        if "last_layer" in names and layers:
            use(layers[-1], partial(answers_only, layers[-1]))
        yield


def fused_attention(
    attention: Any,
    norm: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    segments: Segments,
    attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Forward of a Llama-like attention with the norm before it.

    Args:
        attention: the library's module.
        norm: that stands before it.
        hidden_states: (1, T, C), not yet normed.
        position_embeddings: cosines and sines, each (1, T, D).
        segments: how the T tokens divide.
        attention_mask: None; the segments say all.

    Returns:
        (1, T, C), and no weights.
    """
    shape = (*hidden_states.shape[:-1], -1, attention.head_dim)
    query, key, value = (out.view(shape) for out in norm_project(norm, _attention_inputs(attention), hidden_states))
    if hasattr(attention, "q_norm"):
        query, key = rms_norm(attention.q_norm, query), rms_norm(attention.k_norm, key)
    query, key = (rotate(part, *position_embeddings).transpose(1, 2) for part in (query, key))
    dropout = attention.attention_dropout if attention.training else 0.0
    out, _none = segment_attention(
        attention, query, key, value.transpose(1, 2), attention_mask, scaling=attention.scaling, dropout=dropout, segments=segments
    )
    return attention.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), None


def answers_only(layer: Any, hidden_states: torch.Tensor, *, segments: Segments, **inputs: Any) -> torch.Tensor:
    """Forward of the last decoder layer, which keeps only the places whose next token is trained.

    Args:
        layer: the library's module.
        hidden_states: (1, T, C).
        segments: whose ``sources`` are kept; all where they are None.
        **inputs: of its attention.

    Returns:
        (1, N, C), or (1, T, C) where ``sources`` is None.
    """
    attended, _weights = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), segments=segments, **inputs)
    hidden_states = hidden_states + attended
    if segments.sources is not None:
        hidden_states = hidden_states[:, segments.sources]
    out: torch.Tensor = hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))
    return out


def has_answers_only_layer(network: Any) -> bool:
    """Whether ``answers_only`` is in use.

    Args:
        network: a transformers model.

    Returns:
        True where the last hidden states are those of ``Segments.sources``.
    """
    return any(getattr(vars(module).get("forward"), "func", None) is answers_only for module in network.modules())


@contextmanager
def _small_gradients(embedding: Any, use: Callable[..., None]) -> Iterator[None]:
    """Add what an embedding's backward pass brings to the gradient that its weight has as the head."""
    weight, pending = embedding.weight, Pending()

    def add_pending(_weight: torch.Tensor) -> None:
        while pending:
            token_T, grad_TC = pending.pop()
            weight.grad.index_add_(0, token_T, grad_TC.to(weight.dtype))

    use(embedding, partial(looked_up, weight, embedding.padding_idx, pending))
    hook = weight.register_post_accumulate_grad_hook(add_pending)
    try:
        yield
    finally:
        hook.remove()


def _is_trained_head(network: Any, embedding: Any) -> bool:
    head = network.get_output_embeddings()
    is_plain_embedding = type(embedding) is nn.Embedding and embedding.max_norm is None and not embedding.scale_grad_by_freq
    return (
        is_plain_embedding and embedding.weight is head.weight and embedding.weight.requires_grad and embedding.weight.device.type == "cpu"
    )


def _attention_inputs(attention: Any) -> tuple[Any, Any, Any]:
    return attention.q_proj, attention.k_proj, attention.v_proj


def _is_gated_silu(mlp: Any) -> bool:
    return mlp.config.hidden_act == "silu" and all(map(is_plain, (mlp.gate_proj, mlp.up_proj, mlp.down_proj)))


def _untouched(hidden_states: torch.Tensor) -> torch.Tensor:
    """Stands in for a norm that the function behind it computes."""
    return hidden_states
