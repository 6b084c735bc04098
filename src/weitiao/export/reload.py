"""Answers prompts with a Hugging Face folder, using transformers and nothing of this project; run as a script in a fresh process.

python reload.py FOLDER REQUEST.json RESULT.json LOGITS.safetensors
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer


def greedy_answers(network: Any, prompts: Sequence[Sequence[int]], n_new: int) -> tuple[list[list[int]], Tensor]:
    """Answer prompts in one left-padded batch with transformers' own ``generate``.

    Args:
        network: a causal language model whose generation config knows its stop and padding tokens.
        prompts: token ids; may be none at all.
        n_new: most tokens of an answer.

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
    with torch.no_grad():
        output = network.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=n_new,
            do_sample=False,
            repetition_penalty=1.0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    answers = []
    for row in output.sequences[:, width:].tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in stop_ids), len(row))
        answers.append(row[:end])
    return answers, torch.stack(output.logits, dim=1).float()


def main(folder: str, request: str, result: str, logits_file: str) -> None:
    """Read a request, answer it, write the result."""
    wanted = json.loads(Path(request).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    network.eval()
    template_ids = [
        tokenizer(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False), add_special_tokens=False)["input_ids"]
        if turns is not None
        else None
        for turns in wanted["messages"]
    ]
    answers, logits = greedy_answers(network, wanted["prompts"], wanted["n_new"])
    Path(result).write_text(json.dumps({"tokens": answers, "template_ids": template_ids}), encoding="utf-8")
    save_file({"logits": logits.contiguous()}, logits_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
