"""Memory and time of reading, checking and encoding a file of many rows: run as ``python bench/encode_stream.py [ROWS] [MODEL] [FILE]``.

Rows are those of ``data_stream.py``: 300 Chinese characters with one of 20 labels. MODEL is what ``model.path`` takes; only its tokenizer
is loaded. Encodes into a cache folder of its own, then plans an epoch and fetches its first steps. Prints one JSON object with seconds and
with the peak memory of the process after each stage.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from data_stream import write_rows
from weitiao import chat, data, encode, model, tasks
from weitiao.recipe.sections import Chat, Data, Encode, Model
from weitiao.recipe.tasks import Classification

N_STEPS = 20


def peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    name = sys.argv[2] if len(sys.argv) > 2 else "bundled:qwen2.5-coder-0.5b-instruct"
    path = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(tempfile.gettempdir()) / f"weitiao-stream-{n_rows}.jsonl"
    if not path.exists():
        write_rows(path, n_rows)
    shown: dict[str, float] = {"rows": n_rows}
    clock = time.perf_counter()

    def note(stage: str) -> None:
        nonlocal clock
        shown[f"{stage}_seconds"] = round(time.perf_counter() - clock, 1)
        shown[f"{stage}_peak_bytes"] = peak_memory_bytes()
        clock = time.perf_counter()

    renderer = chat.make_renderer(model.load_processor(Model(path=name)), Chat(), "head")
    note("tokenizer")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["WEITIAO_CACHE"] = cache
        samples = data.load_samples(
            Data.model_validate({"train": {"path": str(path)}}), tasks.make_task(Classification(kind="classification")), 42
        )
        note("data")
        before = time.process_time()
        encoded = encode.encode_samples(samples, renderer, Encode())
        note("encode")
        shown["encode_cpu_seconds"] = round(time.process_time() - before, 1)
        encode.encode_samples(samples, renderer, Encode())
        note("again")
        plan = encode.plan_steps(
            encoded.rows, batch_tokens=8192, batch_rows=None, micro_batch_tokens=None, packing=True, share_prefix=True, seed=42
        )
        note("plan")
        for index in range(min(N_STEPS, len(plan))):
            plan.step(0, index)
        note("steps")
    shown |= {"encoded_rows": len(encoded.rows), "tokens": encoded.n_tokens, "steps": len(plan), "prefix_length": plan.prefix_length}
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
