"""Answers prompts with a Hugging Face folder, an adapter or a GGUF file, using transformers, PEFT and nothing of this project.

Run as a script in a fresh process:
python reload.py PLACE REQUEST.json RESULT.json LOGITS.safetensors PIXELS.safetensors
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig, GgufConfig


def greedy_answers(
    network: Any, prompts: Sequence[Sequence[int]], n_new: int, pixels: Mapping[str, Tensor] | None = None
) -> tuple[list[list[int]], Tensor]:
    """Answer prompts in one left-padded batch with transformers' own ``generate``.

    Args:
        network: a causal language model whose generation config knows its stop and padding tokens.
        prompts: token ids; may be none at all.
        n_new: most tokens of an answer.
        pixels: ``pixel_values`` and ``image_grid_thw`` of all pictures, in the order of the prompts.

    Returns:
        Each answer's tokens, its stop token included; and the logits (prompts, steps, vocabulary) they were chosen from, float32.
    """
    if not prompts:
        return [], torch.zeros(0, 0, 0)
    config = network.generation_config
    stop_ids = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    width = max(map(len, prompts))
    input_ids = torch.tensor([[config.pad_token_id] * (width - len(row)) + list(row) for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    vision = {**pixels, "mm_token_type_ids": (input_ids == network.config.image_token_id).int()} if pixels else {}
    with torch.no_grad():
        output = network.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=n_new,
            do_sample=False,
            repetition_penalty=1.0,
            output_logits=True,
            return_dict_in_generate=True,
            **vision,
        )
    answers = []
    for row in output.sequences[:, width:].tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in stop_ids), len(row))
        answers.append(row[:end])
    return answers, torch.stack(output.logits, dim=1).float()


def read_folder(folder: Path) -> tuple[Any, Any]:
    """A folder's model in float32 and its tokenizer."""
    has_vision = hasattr(AutoConfig.from_pretrained(folder), "vision_config")
    loader = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    network = loader.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return network, AutoTokenizer.from_pretrained(folder)


def read_adapter(folder: Path, base: str) -> tuple[Any, Any]:
    """An adapter on its base in float32, its own generation settings in place of the base's, and its tokenizer."""
    from peft import PeftModel

    network: Any = PeftModel.from_pretrained(read_folder(Path(base))[0], folder)
    network.generation_config = GenerationConfig.from_pretrained(folder)
    return network, AutoTokenizer.from_pretrained(folder)


def read_gguf(file: Path, tokenizer_folder: str) -> tuple[Any, Any]:
    """A GGUF file's model with its weights unpacked to float32; its template and end tokens with the tokenizer of the run.

    transformers makes a tokenizer of a GGUF file without its added tokens, so that token ids are taken from the run's; that the
    file lists the same tokens is checked here.
    """
    from gguf import GGUFReader

    said = {name: field.contents() for name, field in GGUFReader(file).fields.items()}
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    # transformers does not read the width of a head, and takes the family's usual one.
    config.head_dim = said[f"{said['general.architecture']}.attention.key_length"]
    network = AutoModelForCausalLM.from_pretrained(
        file.parent, config=config, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    listed = {token: index for index, token in enumerate(said["tokenizer.ggml.tokens"])}
    if any(listed.get(token) != index for token, index in tokenizer.get_vocab().items()):
        raise SystemExit("the file lists other tokens than the run's tokenizer")
    tokenizer.chat_template = said["tokenizer.chat_template"]
    ends = [said[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot") if f"tokenizer.ggml.{name}_token_id" in said]
    network.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=ends, pad_token_id=said["tokenizer.ggml.padding_token_id"]
    )
    return network, tokenizer


def with_pictures(rows: Sequence[list[int] | None], n_pictures: Sequence[int], network: Any, grids: Tensor) -> list[list[int] | None]:
    """A template's tokens with each image's placeholder as often as the image has tokens."""
    merged = network.config.vision_config.spatial_merge_size**2
    sizes = iter((grids.prod(-1) // merged).tolist())
    found: list[list[int] | None] = []
    for row, n in zip(rows, n_pictures, strict=True):
        own = iter([next(sizes) for _ in range(n)])
        image = network.config.image_token_id
        found.append(None if row is None else [token for token in row for _ in range(next(own) if token == image else 1)])
    return found


def main(place: str, request: str, result: str, logits_file: str, pixels_file: str) -> None:
    """Read a request, answer it, write the result."""
    wanted = json.loads(Path(request).read_text(encoding="utf-8"))
    if place.endswith(".gguf"):
        network, tokenizer = read_gguf(Path(place), wanted["tokenizer"])
    elif wanted["base"] is not None:
        network, tokenizer = read_adapter(Path(place), wanted["base"])
    else:
        network, tokenizer = read_folder(Path(place))
    network.eval()
    template_ids = [
        tokenizer(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False), add_special_tokens=False)["input_ids"]
        if turns is not None
        else None
        for turns in wanted["messages"]
    ]
    pixels = load_file(pixels_file)
    if pixels:
        template_ids = with_pictures(template_ids, wanted["n_pictures"], network, pixels["image_grid_thw"])
    answers, logits = greedy_answers(network, wanted["prompts"], wanted["n_new"], pixels)
    Path(result).write_text(json.dumps({"tokens": answers, "template_ids": template_ids}), encoding="utf-8")
    save_file({"logits": logits.contiguous()}, logits_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
