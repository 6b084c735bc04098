"""Passes through weights that are laid out once for this CPU: what ``network.py`` reads, faster; the same up to rounding.

oneDNN multiplies few rows by a large matrix at about twice the rate where the matrix lies in blocks of its own kind, so the weights are
copied into such blocks when work begins, and dropped when it ends; the network itself is not touched. Matrices that see the same input
are one (q, k, v; gate, up), rows of a pass are joined without filling, and few tokens of many rows attend in one product per layer.
LoRA is added into float32 copies; into narrower ones it would be rounded away, there it stays a product of its own.

Shape letters: N tokens of a pass, B rows, H hidden size, I inputs, O outputs, G key-value heads, Q query heads per key-value head,
D width of a head, T columns, R rank.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from weitiao.infer.cache import SlotCache
from weitiao.infer.network import Network
from weitiao.infer.sight import Sight
from weitiao.infer.spans import Span, positions
from weitiao.thin import is_linear

PACKED_LAYERS = frozenset({"LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"})
"""Decoder layers whose arithmetic is the one below."""
EXPECTED_ROWS = 64
"""Rows that the blocks are chosen for; any other number works as well."""


def can_pack(network: Network, dtype: torch.dtype, device: torch.device | None = None) -> bool:
    """Whether packed weights work, and are the faster way.

    Args:
        network: the plain network.
        dtype: of the arithmetic.
        device: where it will be; where it is when not given.

    Returns:
        True on x86 CPUs for float32, and for bfloat16 where the CPU multiplies it, for known layers with plain or LoRA weights.
    """
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    if (device or network.device).type != "cpu" or not is_x86 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype not in (torch.float32, torch.bfloat16) or (dtype == torch.bfloat16 and not torch.cpu._is_avx512_bf16_supported()):
        return False
    layers = getattr(network.base_model, "layers", ())
    if not layers or {type(layer).__name__ for layer in layers} - PACKED_LAYERS or network.config.hidden_act != "silu":
        return False
    return all(map(_is_known, [network.get_output_embeddings(), *_linears(layers)]))


def packed_bytes(network: Network, dtype: torch.dtype, device: torch.device) -> int:
    """What the copy takes.

    Args:
        network: the plain network; its weights may be on ``meta``.
        dtype: of the arithmetic.
        device: where it will be.

    Returns:
        Bytes; 0 where weights are read as they stand.
    """
    if not can_pack(network, dtype, device):
        return 0
    linears = [network.get_output_embeddings(), *_linears(network.base_model.layers)]
    return sum(_parts(module)[0].weight.numel() for module in linears) * dtype.itemsize


def _linears(layers: Any) -> list[Any]:
    return [
        module for layer in layers for part in (layer.self_attn, layer.mlp) for name, module in part.named_children() if "_proj" in name
    ]


def _is_known(module: Any) -> bool:
    """Whether a layer is linear, with at most one plain LoRA adapter."""
    from peft.tuners.lora import Linear

    if not isinstance(module, Linear):
        return is_linear(module)
    names = module.active_adapters
    is_plain = is_linear(module.get_base_layer()) and not module.merged and not module.disable_adapters
    return is_plain and len(names) <= 1 and not any(name in module.lora_variant for name in names)


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """One or more linear layers with the same input, side by side."""

    weight: Tensor
    bias: Tensor | None
    down: Tensor | None
    """(R, I), of the adapters, where they are not in the weights."""
    up: Tensor | None
    """(O, R)."""

    def __call__(self, x_NI: Tensor) -> Tensor:
        """The outputs, (N, O)."""
        y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, self.weight, self.bias, "none", [], "")
        if self.down is None or self.up is None:
            return y_NO
        return y_NO + functional.linear(functional.linear(x_NI, self.down), self.up)


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A decoder layer."""

    qkv: PackedLinear
    out: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear
    norms: tuple[nn.Module, nn.Module]
    """Before attention, before the MLP."""
    head_norms: tuple[nn.Module, nn.Module] | None
    """Of queries and keys (Qwen3)."""


class PackedReader:
    """Reads with the weights that the network had when it was made."""

    fills_up = False

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        """Lay the weights out.

        Args:
            network: the plain network, for which ``can_pack`` holds.
            dtype: of the arithmetic.
        """
        self._network, self._dtype = network, dtype
        text = self.config.get_text_config()
        self._n_heads, self._n_groups = text.num_attention_heads, text.num_key_value_heads
        # What a training step freed stays in this process's heap, where blocks of other sizes find no place: up to a third of the whole.
        if hasattr(psutil, "heap_trim"):  # not on every system
            psutil.heap_trim()
        with torch.no_grad():
            # The largest first: while it is laid out, it stands twice.
            self._head = pack([network.get_output_embeddings()], dtype)
            self._layers = [_pack_layer(layer, dtype) for layer in network.base_model.layers]

    @property
    def config(self) -> PreTrainedConfig:
        """The network's configuration."""
        config: PreTrainedConfig = self._network.config
        return config

    def new_cache(self) -> SlotCache:
        """Slots for rows, empty."""
        return SlotCache(self.config, self._dtype, torch.device("cpu"))

    @torch.no_grad()
    def read(self, cache: SlotCache, spans: Sequence[Span]) -> Tensor:
        """Hidden states of all tokens of the spans, one after the other, (N, H)."""
        n_columns = max(span.stop for span in spans)
        cache.reserve(len(cache.lengths), n_columns)
        cache.clean(n_columns)
        token_N = torch.tensor([token for span in spans for token in span.token_ids])
        slot_N = torch.tensor([span.slot for span in spans for _ in span.token_ids])
        column_N = torch.tensor([column for span in spans for column in range(span.start, span.stop)])
        places_1N = torch.cat([positions(span)[0] for span in spans])[None]
        hidden_NH = self._network.get_input_embeddings()(token_N)
        cos_1ND, sin_1ND = self._network.base_model.rotary_emb(hidden_NH, places_1N)
        turn = (cos_1ND[0, :, None], sin_1ND[0, :, None])
        sight = Sight(cache, spans)
        for i, layer in enumerate(self._layers):
            queries, keys, values = self._heads(layer, layer.norms[0](hidden_NH).to(self._dtype), turn)
            cache.keys[i][slot_N, :, column_N] = keys
            cache.values[i][slot_N, :, column_N] = values
            hidden_NH = hidden_NH + layer.out(sight.attend(queries, cache.keys[i], cache.values[i]))
            gate_NI, up_NI = layer.gate_up(layer.norms[1](hidden_NH).to(self._dtype)).chunk(2, dim=-1)
            hidden_NH = hidden_NH + layer.down(functional.silu(gate_NI).mul_(up_NI))
        for span in spans:
            cache.lengths[span.slot] = span.stop
        normed_NH: Tensor = self._network.base_model.norm(hidden_NH)
        return normed_NH

    @torch.no_grad()
    def logits(self, hidden_MH: Tensor) -> Tensor:
        """Logits after positions, (M, V), in float32."""
        return self._head(hidden_MH.to(self._dtype)).float()

    def _heads(self, layer: PackedLayer, x_NH: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (N, G, Q, D), keys and values (N, G, D), turned by their positions."""
        n_tokens, groups = len(x_NH), self._n_groups
        heads_NED = layer.qkv(x_NH).view(n_tokens, self._n_heads + 2 * groups, -1)
        queries, keys, values = torch.split(heads_NED, [self._n_heads, groups, groups], dim=1)
        if layer.head_norms:
            queries, keys = layer.head_norms[0](queries), layer.head_norms[1](keys)
        queries, keys = (_turned(states, *turn).to(self._dtype) for states in (queries, keys))
        return queries.reshape(n_tokens, groups, self._n_heads // groups, -1), keys, values


def _turned(states_NED: Tensor, cos_N1D: Tensor, sin_N1D: Tensor) -> Tensor:
    """Rotary positions, as the models' own code applies them."""
    first, second = states_NED.chunk(2, dim=-1)
    return states_NED * cos_N1D + torch.cat((-second, first), dim=-1) * sin_N1D


# ---- laying out -------------------------------------------------------------------------------------------------------


def _pack_layer(layer: Any, dtype: torch.dtype) -> PackedLayer:
    attention, mlp = layer.self_attn, layer.mlp
    return PackedLayer(
        qkv=pack([attention.q_proj, attention.k_proj, attention.v_proj], dtype),
        out=pack([attention.o_proj], dtype),
        gate_up=pack([mlp.gate_proj, mlp.up_proj], dtype),
        down=pack([mlp.down_proj], dtype),
        norms=(layer.input_layernorm, layer.post_attention_layernorm),
        head_norms=(attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else None,
    )


def pack(modules: Sequence[Any], dtype: torch.dtype) -> PackedLinear:
    """Lay linear layers with the same input out as one.

    Args:
        modules: linear layers, with or without a LoRA adapter.
        dtype: of the arithmetic.

    Returns:
        A copy; the layers are not changed.
    """
    weight_OI, bias, down, up = side_by_side(modules, dtype)
    return PackedLinear(torch.ops.mkldnn._reorder_linear_weight(weight_OI, EXPECTED_ROWS), bias, down, up)


def side_by_side(modules: Sequence[Any], dtype: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Weights of linear layers with the same input as those of one.

    Args:
        modules: linear layers, with or without a LoRA adapter.
        dtype: of the arithmetic.

    Returns:
        Weight (O, I) and bias (O,), and the adapters' products (R, I) and (O, R) where they are not in the weight. A single layer's weight
        without an adapter is its own, not a copy.
    """
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    is_exact = dtype == torch.float32
    for base, adapter in map(_parts, modules):
        weight_OI = base.weight.detach().to(dtype)
        down_RI, up_OR = (part.to(dtype) for part in adapter or (weight_OI[:0], weight_OI[:, :0]))
        weights.append(weight_OI.addmm(up_OR, down_RI) if is_exact and adapter else weight_OI)
        biases.append(weight_OI.new_zeros(len(weight_OI)) if base.bias is None else base.bias.detach().to(dtype))
        downs.append(down_RI)
        ups.append(up_OR)
    bias = torch.cat(biases) if any(base.bias is not None for base, _ in map(_parts, modules)) else None
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]  # the head's copy would be half a gigabyte
    if is_exact or not any(map(len, downs)):
        return weight, bias, None, None
    return weight, bias, torch.cat(downs), torch.block_diag(*ups)  # type: ignore[no-untyped-call]


def _parts(module: Any) -> tuple[nn.Linear, tuple[Tensor, Tensor] | None]:
    """A linear layer, and its adapter's two matrices, (R, I) and scaled (O, R)."""
    if is_linear(module):
        return module, None
    base: nn.Linear = module.get_base_layer()
    names = module.active_adapters
    if not names or names[0] not in module.lora_A:
        return base, None
    name = names[0]
    return base, (module.lora_A[name].weight.detach(), module.lora_B[name].weight.detach() * module.scaling[name])
