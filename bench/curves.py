"""Cost curves: time and memory of a training step against rows, row length, rank and model size, with the machine's limit drawn in.

    python -m bench.curves --size quick --out docs     # some minutes; pip install matplotlib (requirements-curves.txt)

Models have Qwen's shapes and random weights. Each point is a process of its own (its peak memory is its own): one step to warm up, then the
best of ``--rounds``. The limit is what plain matrix products of the same shapes would take for the useful operations alone. Writes
``curves.json`` beside the plots, so that ``--draw`` draws them again without measuring.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.shapes import arithmetic, body_parameters, gemm_rate, random_network, token_rows, useful_flop

USUAL: dict[str, Any] = {"model": "0.5B", "rows": 4, "length": 256, "rank": 8}
SIZES: dict[str, dict[str, list[Any]]] = {
    "tiny": {"rows": [1, 2], "length": [64, 128]},
    "quick": {"rows": [1, 2, 4, 8], "length": [64, 256, 1024], "rank": [8, 64], "model": ["0.1B", "0.5B"]},
    "full": {
        "rows": [1, 2, 4, 8, 16, 32],
        "length": [64, 128, 256, 512, 1024],
        "rank": [4, 8, 16, 64, 256],
        "model": ["0.1B", "0.5B", "1.5B"],
    },
}
LABELS = {"rows": "rows a step", "length": "tokens a row", "rank": "rank of the adapter", "model": "model"}
N_ANSWER = 16


def measure(point: dict[str, Any], rounds: int, layers: int | None) -> dict[str, Any]:
    """Seconds and peak memory of a step, and the seconds that the machine's own rate would allow."""
    from weitiao.encode.steps import MICRO_BATCH_TOKENS, pack
    from weitiao.model.tuning import attach_tuning
    from weitiao.recipe.sections import LoraTuning
    from weitiao.seams import LoadedModel
    from weitiao.train.fast import fast_layers, has_answers_only_layer
    from weitiao.train.head import chunked_head_loss
    from weitiao.train.segments import micro_batch, segmented

    dtype = getattr(torch, point["dtype"])
    base = random_network(point["model"], layers, dtype)
    config, n_body = base.config, body_parameters(base)
    loaded = LoadedModel(base, None, Path(), point["model"], dtype)
    network = attach_tuning(loaded, LoraTuning(r=point["rank"])).network.train()
    rows = token_rows(point["rows"], point["length"], point["length"], N_ANSWER)
    packed = pack(rows, max(MICRO_BATCH_TOKENS, point["length"]))
    names = frozenset({"answer_logits", "last_layer", "lora_linear", "fused_attention", "fused_mlp"})
    optimizer = torch.optim.AdamW([weight for weight in network.parameters() if weight.requires_grad], fused=True)
    taken = []
    with segmented(network), fast_layers(network, names):
        for _ in range(rounds + 1):
            started = time.perf_counter()
            for row in packed:
                batch = micro_batch(row, torch.device("cpu"), dtype, answers_only=has_answers_only_layer(base))
                inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "segments": batch.segments, "use_cache": False}
                hidden = base.get_decoder()(**inputs).last_hidden_state[0]
                chunked_head_loss(hidden, base.get_output_embeddings().weight, batch.targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            taken.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    lengths = [point["length"]] * point["rows"]
    flop = useful_flop(sum(lengths), N_ANSWER * point["rows"], lengths, config, n_body, full=False)
    rate = gemm_rate(config, dtype=dtype)
    weights = sum(weight.numel() * weight.element_size() for weight in base.parameters())
    return point | {
        "seconds": min(taken[1:]),
        "limit_seconds": flop / rate,
        "peak_memory_bytes": peak,
        "weights_bytes": weights,
        "gemm_gflops": rate / 1e9,
    }


def draw(points: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """One picture: a column per curve, time above, memory below."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(points), figsize=(4 * len(points), 6.5), squeeze=False)
    for column, (name, found) in enumerate(points.items()):
        x = range(len(found))
        above, below = axes[0][column], axes[1][column]
        above.plot(x, [point["seconds"] for point in found], "o-", label="measured")
        above.plot(x, [point["limit_seconds"] for point in found], "--", label="matrix products alone")
        below.plot(x, [point["peak_memory_bytes"] / 2**30 for point in found], "o-", label="peak of the process")
        below.plot(x, [point["weights_bytes"] / 2**30 for point in found], "--", label="weights")
        for axis, unit in ((above, "seconds a step"), (below, "GiB")):
            axis.set_xticks(list(x), [str(point[name]) for point in found])
            axis.set_xlabel(LABELS[name])
            axis.set_ylabel(unit)
            axis.set_ylim(bottom=0)
            axis.legend(fontsize=8)
            axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(folder / "curves.svg", metadata={"Date": None})


def main() -> None:
    """Measure each point in a process of its own, save, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="quick")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--layers", type=int, help="instead of all of the model's layers")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--draw", action="store_true", help="only draw what curves.json holds")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: bfloat16 where the CPU computes in it"
    )
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(json.loads(options.point), options.rounds, options.layers)))
        return
    file = options.out / "curves.json"
    points: dict[str, list[dict[str, Any]]] = json.loads(file.read_text()) if options.draw else {}
    usual = USUAL | {"dtype": arithmetic(options.dtype)}
    for name, values in {} if options.draw else SIZES[options.size].items():
        points[name] = []
        for value in values:
            command = [sys.executable, "-m", "bench.curves", "--rounds", str(options.rounds), "--point", json.dumps(usual | {name: value})]
            command += ["--layers", str(options.layers)] if options.layers else []
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
            points[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(json.dumps(points[name][-1]), file=sys.stderr, flush=True)
            file.write_text(json.dumps(points, indent=1) + "\n")
    draw(points, options.out)


if __name__ == "__main__":
    main()
