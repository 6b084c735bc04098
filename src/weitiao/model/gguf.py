"""A GGUF file in, an ordinary Hugging Face folder out: bfloat16 safetensors, config, tokenizer, template, stop ids.

``transformers`` reads the file; what it cannot know from a GGUF is set right here, each with its reason: embeddings that the file
stores twice, constants that went through float32, vocabulary padding that poses as tokens, and parts of the tokenizer that a GGUF
only names.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from weitiao.cache import build_once, cache_root
from weitiao.errors import ModelError
from weitiao.log import progress

SAME_MATRIX = 0.15
"""Relative distance below which two embedding matrices are one, quantised twice: Q5_0 and Q8_0 of one lie at 0.04, others above 1."""

READER_ERRORS = (OSError, ValueError, TypeError, LookupError, RuntimeError)
"""What the libraries raise where a file is damaged or of a family that they cannot read."""

STOP_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "</s>")
"""Special tokens that end an answer in some family of models, besides the file's own end token."""

SPLITS: dict[str, dict[str, Any]] = {
    "qwen2": {"normalizer": {"type": "NFC"}},
    "smollm": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        }
    },
}
"""``tokenizer.ggml.pre`` -> parts of ``tokenizer.json`` that this name stands for and that the loader leaves out."""


class Tokens(NamedTuple):
    """What the model's side must know of the tokenizer."""

    n_ids: int
    """Highest token id plus 1; the embedding may have more rows."""
    stop_ids: list[int]
    pad_id: int | None


def resolve_gguf(file: Path) -> Path:
    """Return the converted folder of a user's ``.gguf`` file; the conversion is made once and kept in the cache.

    Args:
        file: an existing file. A file that is changed or moved is converted again.

    Returns:
        An ordinary Hugging Face folder in the cache.

    Raises:
        ModelError: the file cannot be read as a model, or there is no space.
    """
    status = file.stat()
    key = hashlib.sha256(f"{file.resolve()}\n{status.st_size}\n{status.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = cache_root() / "gguf" / f"{file.stem}-{key}"
    return build_once(folder, lambda partial: convert_gguf(file, partial, file.stem), needs_bytes=4 * status.st_size)


def convert_gguf(file: Path, folder: Path, name: str) -> None:
    """Write the model in ``file`` into ``folder`` as Hugging Face's libraries expect it.

    Args:
        file: a GGUF file with weights, vocabulary and hyper-parameters.
        folder: an existing, empty folder.
        name: for messages and the config.

    Raises:
        ModelError: the file is damaged, or of a family that ``transformers`` cannot read from GGUF.
    """
    from transformers.utils import logging as library_logging

    library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # ours says how far the conversion is
    with progress(f"converting {name}", 3, "steps") as advance:
        try:
            with _header_read_once():
                tokens = _save_tokenizer(file, folder, _split_name(file))
                advance(1)
                network = _load_network(file, name)
                advance(1)
        except READER_ERRORS as err:
            if isinstance(err, OSError) and err.errno is not None:
                raise  # the system's trouble (no space, no permission), not the file's
            said = next(iter(str(err).splitlines()), type(err).__name__)
            hint = "fetch it again if it may be damaged; otherwise use the model's safetensors folder or hub id"
            raise ModelError(f"this GGUF file cannot be read: {said}", where=str(file), hint=hint) from err
        if tokens.n_ids > network.config.vocab_size:
            raise ModelError("the vocabulary has more tokens than the embedding has rows", where=str(file))
        _tie_if_stored_twice(network)
        _settle_constants(network, tokens)
        _settle_tokenizer_settings(folder, network.config.max_position_embeddings)
        network.save_pretrained(folder)
        for weights in folder.glob("*.safetensors"):
            weights.chmod((folder / "config.json").stat().st_mode)  # safetensors leaves them to their owner alone
        advance(1)


@contextmanager
def _header_read_once() -> Iterator[None]:
    """Keep what the gguf package reads of a file: transformers has it read anew for tokenizer, config and weights.

    A header holds some 300,000 strings (tokens and merges), each a slice of the mapped file: 10 to 20 seconds a time.
    """
    import gguf

    library_reader = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(lambda path, mode="r": library_reader(path, mode))  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        gguf.GGUFReader = library_reader  # type: ignore[misc]


def _split_name(file: Path) -> str:
    import gguf

    field = gguf.GGUFReader(str(file)).fields.get("tokenizer.ggml.pre")
    return str(field.contents()) if field is not None else ""


def _save_tokenizer(file: Path, folder: Path, split: str) -> Tokens:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, local_files_only=True)
    tokenizer.save_pretrained(folder)

    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    # Converters fill the vocabulary up to the embedding's rows with `[PAD<id>]`; left in, these would be words of the language.
    vocabulary = {token: index for token, index in content["model"]["vocab"].items() if token != f"[PAD{index}]"}
    content["model"]["vocab"] = vocabulary
    content.update(SPLITS.get(split, {}))
    path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")

    special = {token["content"]: token["id"] for token in content["added_tokens"]}
    stops = [tokenizer.eos_token_id, *(special[token] for token in STOP_TOKENS if token in special)]
    n_ids = max([*vocabulary.values(), *special.values()]) + 1
    return Tokens(n_ids, list(dict.fromkeys(stops)), tokenizer.pad_token_id)


def _load_network(file: Path, name: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    network = AutoModelForCausalLM.from_pretrained(
        str(file.parent),
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        local_files_only=True,
    )
    network.config.name_or_path = name
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    return network


def _tie_if_stored_twice(network: Any) -> None:
    """Make one matrix of input and output embeddings where the file holds the same one in two qualities.

    The output's copy is kept: quantisers give it at least as many bits as the input's.
    """
    inputs, outputs = network.get_input_embeddings(), network.get_output_embeddings()
    if outputs is None or inputs.weight is outputs.weight or inputs.weight.shape != outputs.weight.shape:
        return
    first, second = inputs.weight.detach().float(), outputs.weight.detach().float()
    distance = (first - second).norm() / second.norm()
    if float(distance) < SAME_MATRIX:
        network.config.tie_word_embeddings = True
        inputs.weight = outputs.weight
        network.tie_weights()


def _settle_constants(network: Any, tokens: Tokens) -> None:
    """Undo float32 rounding of written constants, and list every stop id."""
    import numpy as np
    from transformers import GenerationConfig

    config = network.config
    config.rms_norm_eps = float(str(np.float32(config.rms_norm_eps)))
    network.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=config.bos_token_id, eos_token_id=tokens.stop_ids, pad_token_id=tokens.pad_id
    )


def _settle_tokenizer_settings(folder: Path, max_tokens: int) -> None:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    for how_it_was_loaded in ("is_local", "local_files_only"):
        settings.pop(how_it_was_loaded, None)
    settings["model_max_length"] = max_tokens
    path.write_text(json.dumps(settings, ensure_ascii=False, indent=2), "utf-8")
