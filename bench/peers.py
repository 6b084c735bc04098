"""weitiao beside the usual ways to tune a model, on the same rows, base, adapter and machine. One command; results are printed and saved.

    python -m bench.peers --size quick        # about 15 minutes on two cores in float32: extraction, four rows a step
    python -m bench.peers --size full         # both kinds of rows, 16 rows a step, every setting

Each contestant runs in a process and a venv of its own (made once with pip from ``requirements-NAME.txt``, in --cache), in every setting
that may be its best on a CPU: batches of 1 and 4; with --size full also activations computed again, and packing where it keeps rows apart.
Where --size is less, activations are kept, but by the usual script, which computes them again. Rows of a step are
the same for all and lie sorted by length, which is what grouping by length would do. Reported is the training loop from the second step on:
real tokens (none of padding) a second, peak memory of the process, the loss of each step beside the usual script's, and which share the
useful operations reach of the machine's own rate in plain matrix products at the model's shapes, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIZES: dict[str, dict[str, Any]] = {
    "proof": {"kinds": ["extraction"], "rows_per_step": 4, "steps": 2},
    "quick": {"kinds": ["extraction"], "rows_per_step": 4, "steps": 3},
    "full": {"kinds": ["classification", "extraction"], "rows_per_step": 16, "steps": 6},
}
REMOVED = {"llamafactory": ["torchvision", "torchaudio"]}
"""What a contestant requires, text training does not use, and a CPU build of torch cannot load."""
USUAL = {"peer": "plain", "batch": 4, "recompute": True}
"""The script as people write it: batches of four, gradient checkpointing."""


def settings_to_try(peers: list[str], size: str, rows_per_step: int, batches: list[int]) -> list[dict[str, Any]]:
    """Every contestant in every setting of that size whose batches fit into a step and are among those asked for."""
    one = {"packing": False}
    ours = [{"peer": "weitiao", "batch": 1, "recompute": False}]
    others: list[dict[str, Any]] = []
    for peer in ("plain", "trl", "llamafactory", "swift"):
        recompute = (False, True) if size == "full" else (False,)
        others += [{"peer": peer, "batch": batch, "recompute": again} for again in recompute for batch in (1, 4)]
    if size == "full":
        ours.append({"peer": "weitiao", "batch": 1, "recompute": True})
        others.append({"peer": "llamafactory", "batch": 1, "recompute": False, "packing": True})
    elif size == "quick":
        others = [entry for entry in others if entry["peer"] != "plain"]
    tried: list[dict[str, Any]] = []
    for wanted in [*ours, USUAL, *others]:
        entry = one | wanted | {"batch": min(wanted["batch"], rows_per_step)}
        if entry["peer"] in peers and (entry["peer"] == "weitiao" or entry["batch"] in batches) and entry not in tried:
            tried.append(entry)
    return tried


def python_of(peer: str, cache: Path) -> str | None:
    """The interpreter of a contestant's venv, made where it is missing; None where its requirements cannot be installed."""
    if peer == "weitiao":
        return sys.executable
    folder = cache / peer
    done, python = folder / "installed", folder / "bin" / "python"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        installed = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "-r", str(HERE / f"requirements-{peer}.txt")],
            check=False,
            capture_output=True,
            text=True,
        )
        if installed.returncode:
            print(f"{peer}: cannot be installed: {installed.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return None
        if peer in REMOVED:
            subprocess.run([str(python), "-m", "pip", "uninstall", "-q", "-y", *REMOVED[peer]], check=True)
        done.write_text("")
    return str(python)


def run_one(settings: dict[str, Any], python: str, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train once; what the worker measured, or the last line of what went wrong."""
    name = f"{settings['peer']}-{settings['kind']}-b{settings['batch']}{'-again' if settings['recompute'] else ''}" + (
        "-packed" if settings["packing"] else ""
    )
    out, log = work / f"{name}.json", work / f"{name}.log"
    out.unlink(missing_ok=True)
    told = settings | {"folder": str(work / name), "out": str(out)}
    (work / f"{name}.settings.json").write_text(json.dumps(told))
    module = ["-m", "bench.weitiao_worker"] if settings["peer"] == "weitiao" else [str(HERE / "peer_worker.py")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", "USE_HF": "1"}
    if options.threads:
        environment |= {"OMP_NUM_THREADS": str(options.threads)}
    started = time.time()
    with log.open("w") as file:
        try:
            command = [python, *module, str(work / f"{name}.settings.json")]
            code = subprocess.run(
                command, cwd=HERE.parent, env=environment, stdout=file, stderr=file, timeout=options.timeout, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return {"name": name, "failed": f"not finished after {options.timeout} s"}
        finally:
            shutil.rmtree(work / name, ignore_errors=True)  # checkpoints of every weight take six gigabytes
    if code or not out.exists():
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return {"name": name, "failed": lines[-1][:300] if lines else f"exit code {code}"}
    result: dict[str, Any] = json.loads(out.read_text())
    return {"name": name, "start_seconds": result["ended"][0] - started} | result


def add_rates(
    result: dict[str, Any], rows: dict[str, list[int]], rows_per_step: int, config: Any, n_body: int, rate: float, *, full: bool
) -> None:
    """Tokens, rows and useful operations a second from the second step on; one token count for all, that of our own rows."""
    from bench.shapes import useful_flop

    ended = result.pop("ended")
    chosen = slice(rows_per_step, rows_per_step * (len(ended) - 1))
    lengths, answers = rows["lengths"][chosen], rows["answers"][chosen]
    seconds = ended[-1] - ended[1]
    flop = useful_flop(sum(lengths), sum(answers), lengths, config, n_body, full=full)
    result |= {
        "seconds_per_step": seconds / (len(ended) - 2),
        "tokens_per_second": sum(lengths) / seconds,
        "rows_per_second": len(lengths) / seconds,
    }
    result |= {"gflops": flop / seconds / 1e9, "share_of_gemm_rate": flop / seconds / rate}


def main() -> None:
    """Run all, print a table, save everything."""
    options = _options()
    from bench.rows import by_steps, make_rows, read_rows
    from bench.shapes import arithmetic, gemm_rate

    work = options.out
    work.mkdir(parents=True, exist_ok=True)
    base, config, n_body = _base(options.base)
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = arithmetic(options.dtype)
    plan = SIZES[options.size]
    n_per_step, n_steps = options.rows_per_step or plan["rows_per_step"], options.steps or plan["steps"]
    report: dict[str, Any] = {"size": options.size, "rows_per_step": n_per_step, "steps": n_steps, "dtype": dtype, "results": []}
    for kind in options.kinds or plan["kinds"]:
        wanted = options.rows or n_per_step * n_steps
        rows = read_rows(Path(kind), wanted) if Path(kind).exists() else make_rows(kind, wanted)
        rows = by_steps(rows, n_per_step)
        name = Path(kind).stem
        file = work / f"{name}.jsonl"
        file.write_text("\n".join(json.dumps({"messages": row}, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
        shared = {"rows": str(file), "kind": name, "base": str(base), "rows_per_step": n_per_step, "steps": n_steps, "cut": 1024}
        shared |= {"dtype": dtype, "tuning": options.tuning, "learning_rate": options.learning_rate, "dropout": options.dropout}
        shared |= {"micro_batch_tokens": options.micro_batch_tokens}
        rate = gemm_rate(config, dtype=getattr(torch, dtype))
        counts: dict[str, list[int]] = {}
        for settings in settings_to_try(options.peers, options.size, n_per_step, options.batches):
            python = python_of(settings["peer"], options.cache)
            if python is None:
                report["results"].append({"name": settings["peer"], "failed": "its requirements cannot be installed"})
                continue
            rate = max(rate, gemm_rate(config, dtype=getattr(torch, dtype)))  # one measurement may be disturbed
            result = run_one(shared | settings, python, work, options)
            counted = work / f"{result['name']}.rows.json"
            counts = json.loads(counted.read_text()) if counted.exists() and settings["peer"] == "weitiao" else counts
            if "failed" not in result and counts:
                add_rates(result, counts, n_per_step, config, n_body, rate, full=options.tuning == "full")
            report["results"].append(settings | {"kind": name, "gemm_gflops": rate / 1e9} | result)
            print(_line(report["results"][-1]), file=sys.stderr, flush=True)
            (work / "peers.json").write_text(json.dumps(report, indent=1, ensure_ascii=False))
    print(json.dumps(report, ensure_ascii=False))


def _line(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"{result['name']:36s} failed: {result['failed']}"
    rates = f"{result.get('tokens_per_second', 0):8.1f} tokens/s {result.get('rows_per_second', 0):6.2f} rows/s"
    share = f"{100 * result.get('share_of_gemm_rate', 0):5.1f} % of {result['gemm_gflops']:.0f} GFLOP/s"
    losses = " ".join(f"{loss:.3f}" for loss in result["losses"][:6])
    return f"{result['name']:36s} {rates} {result['peak_memory_bytes'] / 2**30:6.2f} GiB {share}  loss {losses}"


def _base(name: str) -> tuple[Path, Any, int]:
    from transformers import AutoConfig, AutoModelForCausalLM

    from bench.shapes import body_parameters
    from weitiao.model.weights import resolve_weights

    folder = Path(name) if Path(name).is_dir() else resolve_weights(name, None)
    config = AutoConfig.from_pretrained(folder)
    import torch

    with torch.device("meta"):
        return folder, config, body_parameters(AutoModelForCausalLM.from_config(config))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="quick")
    parser.add_argument("--peers", nargs="+", default=["weitiao", "plain", "trl", "llamafactory", "swift"])
    parser.add_argument("--kinds", nargs="+", help="classification, extraction, capybara, documents, or files of JSON lines")
    parser.add_argument("--rows", type=int, help="rows to make or read; the first steps x rows-per-step of them are used")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rows-per-step", type=int)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4], help="rows in a batch of the others")
    parser.add_argument("--tuning", choices=["lora", "full"], default="lora")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--dropout", type=float, default=0.0, help="of the adapters; 0 makes losses comparable")
    parser.add_argument("--micro-batch-tokens", type=int, default=1024)
    parser.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: bfloat16 where the CPU computes in it"
    )
    parser.add_argument("--base", default="bundled:qwen2.5-coder-0.5b-instruct", help="a bundled name or a folder")
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS of every contestant; all cores where not given")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds that one contestant may take")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "weitiao-bench", help="for the venvs")
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
