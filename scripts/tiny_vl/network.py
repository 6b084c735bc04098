"""Configuration, tokenizer and files of the tiny Qwen2-VL model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from weitiao.demo.formulas import COMMANDS
from weitiao.demo.scenes import make_scene, sentences

LATEX_PROMPT = "你是一个LaText OCR助手,目标是读取用户输入的照片，转换成LaTex公式。"
CAPTION_PROMPT = "COCO Yes:"

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_NAMES = """
left right cal bf mathcal mathbf mathrm mathbb over overline underline prime equiv sim propto langle rangle ldots cdots dots quad
qquad begin end array label text widetilde widehat xi eta zeta kappa chi Xi Pi Sigma Theta varepsilon varphi dagger ast circ
otimes oplus wedge perp parallel mid ll gg subset cup cap rightarrow leftarrow mapsto forall exists ne le ge tan cot sinh cosh det
ker dim max min sup inf prod oint hbar ell Re Im displaystyle big Big bigg Bigg limits nonumber hspace mbox rm sf it tilde check
ddot vert Vert
"""
MORE_COMMANDS = tuple(f"\\{name}" for name in _NAMES.split())
_RUNS = "}{ }^{ }_{ ^{ _{ )^{ )= }= }+ }- }} }) && { } = + - ( ) {- =- | ,"
RUNS = tuple(_RUNS.split())
TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' or 'image' in part or 'image_url' in part %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif part.type == 'video' or 'video' in part %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""Qwen2-VL's, without its default system message: a small model needs no words that never change."""


def build_tokenizer() -> Any:
    """A byte-level BPE that knows commands, brackets, the scenes' words and the two prompts.

    It never saw a formula, so that most letters next to each other stay letters.
    """
    from tokenizers import AddedToken, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    learner = Qwen2Tokenizer()._tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1400, min_frequency=4, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator(_texts(), trainer)
    model = json.loads(learner.to_str())["model"]
    entries = {token: index for token, index in model["vocab"].items() if not token.startswith("<|")}
    vocab = {token: index for index, token in enumerate(sorted(entries, key=entries.__getitem__))}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=[tuple(pair) for pair in model["merges"]], eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.chat_template = TEMPLATE
    tokenizer.model_max_length = 2048
    return tokenizer


def _texts() -> list[str]:
    rng = random.Random(0)
    lines = [command for command in (*COMMANDS, *MORE_COMMANDS) for _ in range(12)]
    # Qwen's rule joins a backslash to the brackets and signs before it, and leaves the command's name to itself.
    lines += [command[1:] for command in (*COMMANDS, *MORE_COMMANDS) for _ in range(12)]
    lines += [token + end for token in RUNS for end in ("", "\\") for _ in range(12)]
    lines += [f" {letter}" for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" for _ in range(12)]
    lines += [LATEX_PROMPT] * 60 + [CAPTION_PROMPT] * 60 + ["system", "user", "assistant", "\n"] * 60
    lines += ["You are a helpful assistant."] * 20
    for world in ("plain", "night"):
        lines += [sentence for _ in range(150) for sentence in sentences(make_scene(rng, world))]  # type: ignore[arg-type]
    lines += ["a man in the street with two dogs and some people sitting on a table near the water of an open field"] * 8
    return lines


def build_config(tokenizer: Any) -> Any:
    """Qwen2-VL in small: five million parameters."""
    from transformers import Qwen2VLConfig

    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    text = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 224,
        "intermediate_size": 640,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 10, 10]},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": True,
    }
    vision = {"depth": 4, "embed_dim": 160, "hidden_size": 224, "num_heads": 4, "mlp_ratio": 4, "patch_size": 14, "spatial_merge_size": 2}
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


MIN_PIXELS, MAX_PIXELS = 56 * 56, 28 * 28 * 64
"""Bounds of a picture after resizing; the picture processor's own settings."""


def save(network: Any, tokenizer: Any, folder: Path) -> None:
    """Write an ordinary Hugging Face folder with weights in bfloat16.

    Args:
        network: ``Qwen2VLForConditionalGeneration``.
        tokenizer: of ``build_tokenizer``.
        folder: made where it does not exist.
    """
    import copy

    import torch
    from transformers import GenerationConfig
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    small = copy.deepcopy(network).to(torch.bfloat16)
    stops = [tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|endoftext|>")]
    small.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=stops[1], max_new_tokens=128)
    small.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pictures = Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    pictures.save_pretrained(folder)
