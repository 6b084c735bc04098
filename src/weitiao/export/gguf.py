"""A GGUF file, for llama.cpp, Ollama and LM Studio: weights merged in float32, written as F16 or Q8_0 by the ``gguf`` package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weitiao import __version__
from weitiao.errors import ExportError

ARCHITECTURES: dict[str, str] = {"qwen2": "QWEN2", "qwen3": "QWEN3", "llama": "LLAMA"}
"""``model_type`` -> the name that the ``gguf`` package has for it."""
ROTATED_IN_PAIRS = frozenset({"llama"})
"""Architectures whose rows of q and k llama.cpp rotates as neighbouring pairs, where transformers rotates halves."""
SPLITS: dict[str, str] = {"qwen2": "qwen2", "qwen3": "qwen2"}
"""``model_type`` -> ``tokenizer.ggml.pre``: how llama.cpp cuts text before it looks for tokens."""
FILE_TYPES: dict[str, str] = {"f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}
LARGEST_F16 = 65504.0


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What the file says of itself besides weights and vocabulary."""

    name: str
    licence: str | None
    base: str
    chat_template: str
    stop_token_ids: tuple[int, ...]
    """The first is the end of an answer."""
    pad_token_id: int


def write_gguf(network: Any, tokenizer: Any, facts: GgufFacts, kind: str, file: Path) -> None:
    """Write merged weights as a GGUF file.

    Args:
        network: a plain transformers model in float32, its adapter merged.
        tokenizer: a fast byte-level BPE tokenizer.
        facts: for the file's metadata.
        kind: ``f16`` or ``q8_0``; vectors (norms, biases) stay float32 in both.
        file: to write; its folder exists.

    Raises:
        ExportError: llama.cpp's format has no place for this architecture, its tokenizer or its positions, or a weight does not fit
            into 16 bits.
    """
    import gguf

    config = network.config
    arch = _architecture(config)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[arch])
    _add_general(writer, facts, kind)
    _add_sizes(writer, config)
    _add_vocabulary(writer, tokenizer, config, facts)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, weight in _weights(network):
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ExportError(f"llama.cpp knows no weight like `{name}`", where=str(file), hint="export `kind: merged` instead")
        _add_weight(writer, target, _as_llama_rotates(name, weight, config), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_metadata(file: Path) -> dict[str, Any]:
    """What a GGUF file says of itself, tensors left out.

    Args:
        file: a GGUF file.

    Returns:
        Key -> value.
    """
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


def _architecture(config: Any) -> Any:
    import gguf

    if config.model_type not in ARCHITECTURES:
        raise ExportError(
            f"models of the kind `{config.model_type}` are not written as GGUF",
            hint=f"kinds that are: {', '.join(ARCHITECTURES)}; export `kind: merged` and convert it with llama.cpp's own script",
        )
    rope = _rope(config)
    if rope.get("rope_type", "default") != "default":
        raise ExportError(f"positions scaled as `{rope['rope_type']}` are not written as GGUF", hint="export `kind: merged` instead")
    return gguf.MODEL_ARCH[ARCHITECTURES[config.model_type]]


def _rope(config: Any) -> Mapping[str, Any]:
    parameters: Mapping[str, Any] = config.rope_parameters
    return parameters


def _add_general(writer: Any, facts: GgufFacts, kind: str) -> None:
    import gguf

    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(facts.name)
    writer.add_finetune(facts.name)
    writer.add_description(f"Tuned from {facts.base} with weitiao {__version__}")
    if facts.licence is not None:
        writer.add_license(facts.licence)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, facts.base)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_sizes(writer: Any, config: Any) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(_rope(config)["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_vocabulary(writer: Any, tokenizer: Any, config: Any, facts: GgufFacts) -> None:
    import gguf

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if content["model"]["type"] != "BPE":
        raise ExportError(f"a {content['model']['type']} tokenizer is not written as GGUF", hint="export `kind: merged` instead")
    added = tokenizer.added_tokens_decoder
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens, kinds = [], []
    for index in range(config.vocab_size):
        if index in added:
            tokens.append(str(added[index]))
            kinds.append(gguf.TokenType.CONTROL if added[index].special else gguf.TokenType.USER_DEFINED)
        elif index in by_id:
            tokens.append(by_id[index])
            kinds.append(gguf.TokenType.NORMAL)
        else:
            # Embeddings are wider than the vocabulary; llama.cpp wants a name for each row.
            tokens.append(f"[PAD{index}]")
            kinds.append(gguf.TokenType.UNUSED)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(content, config))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(facts.stop_token_ids[0])
    if len(facts.stop_token_ids) > 1:
        writer.add_eot_token_id(facts.stop_token_ids[1])
    writer.add_pad_token_id(facts.pad_token_id)
    if config.bos_token_id is not None:
        writer.add_bos_token_id(config.bos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(facts.chat_template)


def _split_name(tokenizer: Mapping[str, Any], config: Any) -> str:
    if config.model_type in SPLITS:
        return SPLITS[config.model_type]
    steps = (tokenizer.get("pre_tokenizer") or {}).get("pretokenizers") or []
    if any(step["type"] == "Digits" and step.get("individual_digits") for step in steps):
        return "smollm"
    raise ExportError("how this tokenizer cuts text has no name in llama.cpp", hint="export `kind: merged` instead")


def _weights(network: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight once: tied output embeddings are left out, llama.cpp takes the input's for them."""
    tied = network.get_input_embeddings().weight is network.get_output_embeddings().weight
    for name, weight in network.named_parameters(remove_duplicate=False):
        if not (tied and name.startswith("lm_head.")):
            yield name, weight.detach()


def _as_llama_rotates(name: str, weight: Tensor, config: Any) -> Tensor:
    if config.model_type not in ROTATED_IN_PAIRS or not any(part in name for part in (".q_proj.", ".k_proj.")):
        return weight
    n_heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
    halves = weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _add_weight(writer: Any, name: str, weight: Tensor, kind: str) -> None:
    import gguf
    from gguf.quants import quantize

    values: np.ndarray = weight.to(torch.float32).contiguous().numpy()
    if values.ndim == 1:
        writer.add_tensor(name, values)
        return
    # A row that is no multiple of a block of 32 cannot be quantised.
    if kind == "q8_0" and values.shape[-1] % 32 == 0:
        quantised = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(values, quantised), raw_dtype=quantised)
        return
    if np.abs(values).max(initial=0.0) > LARGEST_F16:
        raise ExportError(f"a weight of `{name}` is too large for 16 bits", hint="export `kind: merged` in float32 instead")
    writer.add_tensor(name, values.astype(np.float16))
