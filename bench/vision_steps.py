"""LoRA steps of Qwen2-VL-2B's real widths (fewer layers, random weights), with and without the vision-feature store.

python bench/vision_steps.py [--layers 2] [--tower-layers 2] [--steps 3] [--rows 4] [--dtype auto]
Prints for each way, measured in a process of its own: processor seconds to fill the store, of a step over all rows, and of 1, 2 and
10 epochs of them with the filling; tokens per second; resident memory before the steps and at its highest in them. Widths are the
real ones: 1536 and 8960 in the language model, 1280 and 5120 in the tower.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

SIZES = {"latex (S1)": (320, 64), "photo (S4)": (280, 280)}
"""Width and height of the pictures in pixels."""


def real_config(n_layers: int, n_tower_layers: int, tokenizer: Any) -> Any:
    """Qwen2-VL-2B-Instruct's configuration with fewer layers and the test tokenizer's tokens."""
    from transformers import Qwen2VLConfig

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>", "vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    return Qwen2VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": n_layers,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_parameters": rope,
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={"depth": n_tower_layers, "embed_dim": 1280, "num_heads": 16, "hidden_size": 1536, "mlp_ratio": 4},
        tie_word_embeddings=True,
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()},
    )


def draw(folder: Path, n: int, size: tuple[int, int]) -> list[Path]:
    """Different noisy pictures of one size."""
    import numpy as np
    from PIL import Image

    paths = [folder / f"{size[0]}-{i}.png" for i in range(n)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return paths


class Peak(threading.Thread):
    """Highest resident memory while it runs, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes, self.ends = 0, threading.Event()

    def run(self) -> None:
        while not self.ends.wait(0.02):
            self.bytes = max(self.bytes, psutil.Process().memory_info().rss)


def model_and_rows(arguments: Any, folder: Path, size: tuple[int, int], n_rows: int) -> tuple[Any, Any, Any, Any]:
    """A loaded model of the real widths, its renderer, samples, and their encoded rows."""
    from tests.tiny import VISION_TEMPLATE, build_tokenizer
    from transformers import Qwen2VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from weitiao.chat import make_renderer
    from weitiao.model.facts import pick_dtype
    from weitiao.model.vision import VisionProcessor
    from weitiao.recipe.sections import Chat
    from weitiao.seams import IGNORED, DataReport, EncodedRow, LoadedModel, Message, Part, Sample, SampleSet, text_message

    tokenizer = build_tokenizer("qwen2")
    tokenizer.chat_template = VISION_TEMPLATE.replace("default_system", repr("You are a helpful assistant."))
    torch.manual_seed(0)
    network = Qwen2VLForConditionalGeneration(real_config(arguments.layers, arguments.tower_layers, tokenizer)).eval()
    network.set_attn_implementation("sdpa")
    dtype = pick_dtype(arguments.dtype, torch.device("cpu"))
    network.to(dtype)
    processor = VisionProcessor(tokenizer, Qwen2VLImageProcessorPil(), folder)
    model = LoadedModel(network, processor, folder, "random", dtype, is_vision=True)
    renderer = make_renderer(processor, Chat())
    samples = [
        Sample(
            str(i), f"row {i}", (Message("user", (Part("image", image=path), Part("text", "公式"))), text_message("assistant", "x^2 " * 12))
        )
        for i, path in enumerate(draw(folder, n_rows, size))
    ]
    rows = []
    for row in renderer.conversations([sample.messages for sample in samples]):
        labels = [token if on else IGNORED for token, on in zip(row.input_ids, row.trained, strict=True)]
        rows.append(EncodedRow(row.input_ids, labels, (len(labels),), 0, row.pictures))
    report = DataReport("", n_rows, n_rows, {}, {}, (), {}, "")
    return model, renderer, SampleSet(samples, [], [], report), rows


def make_step(tunable: Any) -> Any:
    """One optimizer step over rows, as ``train/loop.py`` computes it."""
    from weitiao.recipe.sections import Train
    from weitiao.train.fast import fast_layers, fast_paths, has_answers_only_layer
    from weitiao.train.head import chunked_head_loss
    from weitiao.train.segments import micro_batch, segmented

    names = fast_paths(Train(), "cpu")
    causal = tunable.network.get_base_model()
    trained = [parameter for parameter in tunable.network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step(rows: list[Any]) -> float:
        total = 0.0
        with segmented(tunable.network), fast_layers(tunable.network, names):
            only = has_answers_only_layer(causal)
            for row in rows:
                laid = micro_batch(row, torch.device("cpu"), tunable.dtype, answers_only=only, vision=tunable.vision)
                outputs = tunable.vision.encoder_outputs(row.pictures)
                inputs = {"input_ids": laid.input_ids, "position_ids": laid.position_ids, "segments": laid.segments, "use_cache": False}
                hidden = causal.base_model(**inputs, mm_encoder_outputs=outputs).last_hidden_state[0, slice(None) if only else laid.sources]
                loss = chunked_head_loss(hidden, causal.get_output_embeddings().weight, laid.targets) / len(laid.targets)
                loss.backward()
                total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def measure(arguments: Any, name: str, *, store: bool) -> dict[str, Any]:
    """Steps of one kind of picture, one way."""
    from weitiao.encode import see_pictures
    from weitiao.encode.steps import pack
    from weitiao.model import attach_tuning
    from weitiao.recipe.sections import LoraTuning

    with tempfile.TemporaryDirectory() as place:
        os.environ["WEITIAO_CACHE"] = place
        model, renderer, samples, rows = model_and_rows(arguments, Path(place), SIZES[name], arguments.rows)
        started = time.process_time()
        seeing = see_pictures(model, renderer, samples, store=store)
        fill_seconds = time.process_time() - started
        tunable = replace(attach_tuning(seeing, LoraTuning(r=8, lora_dropout=0.0)))
        del model, seeing
        step, packed = make_step(tunable), pack(rows, 1024)
        tunable.network.train()
        before, peak = psutil.Process().memory_info().rss, Peak()
        peak.start()
        step(packed)
        started = time.process_time()
        losses = [step(packed) for _ in range(arguments.steps)]
        seconds = time.process_time() - started
        peak.ends.set()
        n_tokens = sum(len(row.input_ids) for row in rows) * arguments.steps
        return {
            "pictures": name,
            "store": store,
            "dtype": str(tunable.dtype).removeprefix("torch."),
            "image_tokens": rows[0].pictures[0].n_tokens,
            "fill_seconds": round(fill_seconds, 2),
            "seconds_per_step": round(seconds / arguments.steps, 3),
            "seconds_for_epochs": {n: round(fill_seconds + n * seconds / arguments.steps, 1) for n in (1, 2, 10)},
            "tokens_per_second": round(n_tokens / seconds, 1),
            "memory_before_mb": before >> 20,
            "memory_peak_mb": peak.bytes >> 20,
            "loss": round(losses[-1], 4),
        }


def main() -> None:
    """Measure each way in a process of its own, or (``--one``) one of them here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tower-layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--one", nargs=2)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments, arguments.one[0], store=arguments.one[1] == "store")))
        return
    settings = [f"--{name}={getattr(arguments, name.replace('-', '_'))}" for name in ("layers", "tower-layers", "steps", "rows", "dtype")]
    for name in SIZES:
        for way in ("tower", "store"):
            subprocess.run([sys.executable, __file__, *settings, "--one", name, way], check=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
