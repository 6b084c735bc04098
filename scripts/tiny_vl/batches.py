"""Examples as tensors: tokens with the picture's places in them, patches, labels, and which marks lie in which patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scripts.tiny_vl.examples import N_CLASSES, PATCH, Example
from scripts.tiny_vl.network import CAPTION_PROMPT, LATEX_PROMPT
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

MEAN = np.array(OPENAI_CLIP_MEAN, np.float32)
STD = np.array(OPENAI_CLIP_STD, np.float32)


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of B examples, padded to the T tokens of the longest, with P patches in all. The first four are B x T."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    is_image: torch.Tensor
    labels: torch.Tensor
    pixels: torch.Tensor
    """P x 1176."""
    grids: torch.Tensor
    """B x 3: 1, patches down, patches across."""
    marks: torch.Tensor
    """P x classes, 1 where a mark of the class has its middle in the patch."""


class Encoder:
    """Knows the tokens around picture and answer."""

    def __init__(self, tokenizer: Any) -> None:
        """Take the words around a picture from the chat template."""
        self.tokenizer = tokenizer
        self.pad = tokenizer.pad_token_id
        self.image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.prompts = {}
        for is_formula, prompt in ((True, LATEX_PROMPT), (False, CAPTION_PROMPT)):
            messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            head, tail = text.split("<|image_pad|>")
            self.prompts[is_formula] = tokenizer(head).input_ids, tokenizer(tail).input_ids
        self.end = tokenizer("<|im_end|>\n").input_ids

    def length(self, example: Example) -> int:
        """Characters and picture tokens: a measure to put alike examples together."""
        return len(example.answer) // 2 + example.pixels.shape[0] * example.pixels.shape[1] // 784

    def batch(self, examples: Sequence[Example], *, with_answers: bool = True) -> Batch:
        """Put examples together; padded on the right for training, on the left for answering."""
        rows, labels = [], []
        for example in examples:
            head, tail = self.prompts[example.is_formula]
            n_places = example.pixels.shape[0] * example.pixels.shape[1] // (2 * PATCH) ** 2
            prompt = [*head, *([self.image] * n_places), *tail]
            answer = [*self.tokenizer(example.answer).input_ids, *self.end] if with_answers else []
            rows.append(prompt + answer)
            labels.append([-100] * len(prompt) + answer[:-1] + [-100] * bool(answer))
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.pad)
        mask, wanted = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
            place = slice(0, len(row)) if with_answers else slice(width - len(row), width)
            ids[i, place], mask[i, place], wanted[i, place] = torch.tensor(row), 1, torch.tensor(label)
        grids = torch.tensor([[1, example.pixels.shape[0] // PATCH, example.pixels.shape[1] // PATCH] for example in examples])
        pixels = torch.from_numpy(np.concatenate([patches(example.pixels) for example in examples]))
        marks = torch.cat([patch_marks(example) for example in examples])
        return Batch(ids, mask, (ids == self.image).long(), wanted, pixels, grids, marks)


def patches(pixels: np.ndarray) -> np.ndarray:
    """A picture as Qwen2-VL's processor cuts it: 2 x 2 patches that are merged later stand together."""
    values = (pixels.astype(np.float32) / 255 - MEAN) / STD
    down, across = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    cut = values.reshape(down // 2, 2, PATCH, across // 2, 2, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    twice = np.repeat(cut[:, :, :, :, :, None], 2, axis=5)
    return np.ascontiguousarray(twice.reshape(down * across, -1))


def patch_marks(example: Example) -> torch.Tensor:
    """Which classes have a mark in which patch, in the order of ``patches``."""
    down, across = example.pixels.shape[0] // PATCH, example.pixels.shape[1] // PATCH
    found = torch.zeros(down * across, N_CLASSES)
    for kind, x, y in example.marks:
        row, column = min(down - 1, max(0, int(y // PATCH))), min(across - 1, max(0, int(x // PATCH)))
        found[((row // 2) * (across // 2) + column // 2) * 4 + (row % 2) * 2 + column % 2, kind] = 1
    return found
