"""Tiny Qwen models for tests: real tokenizer rules and chat templates, random seeded weights, built in about a second.

``build_tiny("qwen3", folder)`` writes an ordinary Hugging Face folder: 2 layers, hidden 32, tied embeddings, a byte-level BPE
vocabulary learnt from sentences made here, and a chat template that renders as the family's stock template does.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any, Literal

Family = Literal["qwen2", "qwen3"]
VisionFamily = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]

DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
"""What the Qwen2.5 template says where a conversation brings no system message."""

N_BPE = 800
"""Entries of the learnt vocabulary, the 256 bytes included; special tokens come after them."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PLAIN_ADDED_TOKENS = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>")
THINK_TOKENS = ("<tool_response>", "</tool_response>", "<think>", "</think>")

QWEN2_TEMPLATE = """\
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\n' + default_system + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""".replace("default_system", repr(DEFAULT_SYSTEM))

QWEN3_TEMPLATE = """\
{%- set ns = namespace(last_query=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last_query = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role != 'assistant' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- else %}
        {%- set answer = message.content %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in answer %}
            {%- set thought = answer.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set answer = answer.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last_query and (loop.last or thought) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + answer.lstrip('\\n') }}
        {%- else %}
            {{- answer }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

VISION_TEMPLATE = """\
{%- if default_system and messages[0].role != 'system' %}
    {{- '<|im_start|>system\\n' + default_system + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for piece in message.content %}
            {{- '<|vision_start|><|image_pad|><|vision_end|>' if piece.type == 'image' else piece.text }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

TEMPLATES: dict[Family, str] = {"qwen2": QWEN2_TEMPLATE, "qwen3": QWEN3_TEMPLATE}


def build_tiny(family: Family, folder: Path, *, seed: int = 0, tied: bool = True, head_dim: int = 16) -> Path:
    """Write a tiny random model as an ordinary Hugging Face folder.

    Args:
        family: which architecture, tokenizer additions and chat template.
        folder: made where it does not exist.
        seed: of the weights; the vocabulary is always the same.
        tied: whether input and output embeddings are one matrix.
        head_dim: width of a Qwen3 attention head.

    Returns:
        ``folder``.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    tokenizer = build_tokenizer(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(_config(family, tokenizer, tied, head_dim))
        for name, weight in network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(weight, std=0.1)
    network.generation_config = GenerationConfig(
        eos_token_id=_ids(tokenizer, "<|im_end|>", "<|endoftext|>"), pad_token_id=tokenizer.pad_token_id
    )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tiny_vision(family: VisionFamily, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny random vision model as an ordinary Hugging Face folder: 2 language layers, 2 tower layers, the family's own patches.

    Args:
        family: which architecture; Qwen3-VL's has one deepstack layer, Qwen2.5-VL's a window layer before one of full attention.
        folder: made where it does not exist.
        seed: of the weights; the vocabulary is always the same.

    Returns:
        ``folder``.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = build_tokenizer("qwen2")
    system = "" if family == "qwen3_vl" else "You are a helpful assistant."
    tokenizer.chat_template = VISION_TEMPLATE.replace("default_system", repr(system))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **_vision_config(family, tokenizer)))
        for name, weight in network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(weight, std=0.1)
    network.generation_config = GenerationConfig(
        eos_token_id=_ids(tokenizer, "<|im_end|>", "<|endoftext|>"), pad_token_id=tokenizer.pad_token_id
    )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    own = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3} if family == "qwen3_vl" else {}
    Qwen2VLImageProcessorPil(**own).save_pretrained(folder)
    return folder


def build_tokenizer(family: Family) -> Any:
    """The tiny tokenizer of a family: Qwen's pre-tokenizer rule, eos ``<|im_end|>``, pad ``<|endoftext|>``."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    vocab, merges = _learn_bpe()
    tokenizer = Qwen2Tokenizer(vocab=dict(vocab), merges=list(merges), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    plain = PLAIN_ADDED_TOKENS + (THINK_TOKENS if family == "qwen3" else ())
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    tokenizer.chat_template = TEMPLATES[family]
    tokenizer.model_max_length = 2048
    return tokenizer


def sentences(n: int = 400, seed: int = 0) -> list[str]:
    """Lines of Chinese, English and JSON, seeded: what the vocabulary is learnt from."""
    rng = random.Random(seed)
    return [_line(rng, kind % 4) for kind in range(n)]


def _config(family: Family, tokenizer: Any, tied: bool, head_dim: int = 16) -> Any:
    from transformers import Qwen2Config, Qwen3Config

    sizes: dict[str, Any] = {
        # Like the real ones, wider than the tokenizer: the last rows of the embedding belong to no token.
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tied,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    return Qwen3Config(head_dim=head_dim, **sizes) if family == "qwen3" else Qwen2Config(**sizes)


def _vision_config(family: VisionFamily, tokenizer: Any) -> dict[str, Any]:
    # Heads of 16 numbers: 8 angles, shared out between time, height and width.
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = _config("qwen2", tokenizer, tied=True).to_dict() | {"num_attention_heads": 2, "num_key_value_heads": 1, "rope_parameters": rope}
    text.pop("model_type")
    text.pop("layer_types")
    vision: dict[VisionFamily, dict[str, Any]] = {
        "qwen2_vl": {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2},
        "qwen2_5_vl": {
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 64,
            "out_hidden_size": 32,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        "qwen3_vl": {
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 64,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
            "patch_size": 16,
        },
    }
    if family == "qwen3_vl":
        text |= {"head_dim": 16, "rope_parameters": rope | {"mrope_interleaved": True}}
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>", "vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    tokens = {f"{name}_token_id": _ids(tokenizer, token)[0] for name, token in names.items()}
    return {
        "text_config": text,
        "vision_config": vision[family] | {"initializer_range": 0.1},
        "tie_word_embeddings": True,
        "dtype": "float32",
        **tokens,
    }


def _ids(tokenizer: Any, *tokens: str) -> list[int]:
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in tokens]


@cache
def _learn_bpe() -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, str], ...]]:
    from tokenizers import pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    learner = Qwen2Tokenizer()._tokenizer
    trainer = trainers.BpeTrainer(vocab_size=N_BPE, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    learner.train_from_iterator(sentences(), trainer)
    model = json.loads(learner.to_str())["model"]
    entries = {token: index for token, index in model["vocab"].items() if not token.startswith("<|")}
    ordered = {token: index for index, token in enumerate(sorted(entries, key=entries.__getitem__))}
    return tuple(ordered.items()), tuple((left, right) for left, right in model["merges"])


SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗"
GIVEN = ("伟", "芳", "娜", "秀英", "敏", "静", "丽", "强", "磊", "军", "洋", "勇", "艳", "杰", "娟", "涛", "明", "超", "桂英", "建华")
CITIES = ("北京市", "上海市", "广州市", "深圳市", "成都市", "西安市", "南京市", "武汉市", "银川市", "兰州市")
STREETS = ("东城林街", "和平路", "人民大道", "长安街", "建设路", "新华街", "解放路", "中山路")
TROUBLES = ("小区垃圾堆积成山", "晚上噪音扰人", "停车难", "电梯坏了三天", "暖气不热", "自来水发黄", "路灯不亮", "物业不接电话", "快递丢失")
LABELS = ("体育", "财经", "科技", "娱乐", "教育", "军事", "时政", "房产")
WORDS = ("the", "model", "answers", "a", "question", "about", "complaint", "data", "with", "name", "address", "email", "and", "text", "in")


def _line(rng: random.Random, kind: int) -> str:
    name = rng.choice(SURNAMES) + rng.choice(GIVEN)
    address = f"{rng.choice(CITIES)}{rng.choice(STREETS)}{rng.randrange(1, 300)}号"
    email = f"{rng.choice(WORDS)}{rng.randrange(100)}@example.com"
    trouble = "，".join(rng.sample(TROUBLES, 2)) + "。"
    if kind == 0:
        return f"{name}，{address}，邮箱 {email}。{trouble}"
    if kind == 1:
        return json.dumps({"name": name, "address": address, "email": email, "question": trouble}, ensure_ascii=False)
    if kind == 2:
        return f"文本:{trouble}{name}住在{address},类型选型:{rng.sample(LABELS, 3)}"
    return " ".join(rng.choices(WORDS, k=12)).capitalize() + ". You are a helpful assistant. system user assistant"
