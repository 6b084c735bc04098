"""What each fast path is worth: one micro-batch forward and backward, the variants in turn (A B A B), least time of each.

    python -m bench.step [--size 0.5B --layers 2 --tokens 1024 --rounds 3 --tuning lora --dtype bfloat16]

Times are processor seconds of one thread, so that a busy machine disturbs them little. Prints one JSON line per variant: seconds, share of
the machine's own rate in plain matrix products of the same shapes, and what the graph keeps for the backward pass.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

from bench.shapes import body_parameters, gemm_rate, random_network, token_rows, useful_flop
from weitiao.encode.steps import pack
from weitiao.model.tuning import attach_tuning
from weitiao.recipe.sections import FullTuning, LoraTuning
from weitiao.seams import EncodedRow, LoadedModel
from weitiao.train.fast import fast_layers, has_answers_only_layer
from weitiao.train.head import chunked_head_loss
from weitiao.train.segments import micro_batch, segmented

BASE = ["answer_logits", "lora_linear"]
VARIANTS = {
    "none": [],
    "answer_logits": ["answer_logits"],
    "+lora_linear": BASE,
    "+last_layer": [*BASE, "last_layer"],
    "+fused_attention": [*BASE, "last_layer", "fused_attention"],
    "+fused_mlp": [*BASE, "last_layer", "fused_attention", "fused_mlp"],
    "+recompute": [*BASE, "last_layer", "fused_attention", "fused_mlp", "recompute"],
}


def micro_step(network: Any, row: EncodedRow, names: list[str]) -> tuple[float, int]:
    """Processor seconds of forward and backward, and bytes kept between them."""
    causal = network.get_base_model() if hasattr(network, "peft_config") else network
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with segmented(network), fast_layers(network, frozenset(names), recompute="recompute" in names):
        started = time.process_time()
        batch = micro_batch(row, torch.device("cpu"), causal.dtype, answers_only=has_answers_only_layer(causal))
        inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "segments": batch.segments, "use_cache": False}
        wanted = slice(None) if batch.segments.sources is not None else batch.sources
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            if "answer_logits" in names:
                hidden = causal.get_decoder()(**inputs).last_hidden_state[0, wanted]
                loss = chunked_head_loss(hidden, causal.get_output_embeddings().weight, batch.targets)
            else:
                loss = torch.nn.functional.cross_entropy(network(**inputs).logits[0, wanted], batch.targets, reduction="sum")
        loss.backward()
    network.zero_grad()
    return time.process_time() - started, sum(sizes.values())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="0.5B")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tuning", choices=["lora", "full"], default="lora")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    dtype = getattr(torch, options.dtype)
    base = random_network(options.size, options.layers, dtype)
    tuning = LoraTuning(lora_dropout=0.1) if options.tuning == "lora" else FullTuning()
    network = attach_tuning(LoadedModel(base, None, None, options.size, dtype), tuning).network.train()  # type: ignore[arg-type]
    rows = token_rows(max(1, options.tokens // 205), 160, 200, 12)
    (row, *_) = pack(rows, options.tokens)
    flop = useful_flop(
        len(row.input_ids),
        12 * len(row.segment_lengths),
        list(row.segment_lengths),
        base.config,
        body_parameters(base),
        full=options.tuning == "full",
    )
    best = {name: (float("inf"), 0) for name in options.only}
    for _ in range(options.rounds):
        for name in options.only:
            best[name] = min(best[name], micro_step(network, row, VARIANTS[name]))
    rate = gemm_rate(base.config, dtype=dtype)
    for name, (seconds, kept) in best.items():
        facts = {
            "variant": name,
            "seconds": round(seconds, 3),
            "gflops": round(flop / seconds / 1e9, 1),
            "gemm_gflops": round(rate / 1e9, 1),
        }
        print(json.dumps(facts | {"share": round(flop / seconds / rate, 3), "kept_mb": round(kept / 1e6, 1)}), flush=True)


if __name__ == "__main__":
    main()
