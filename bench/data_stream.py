"""Memory and time of reading, checking and splitting a file of many rows: run as ``python bench/data_stream.py [ROWS] [FILE]``.

Rows are of 300 Chinese characters with one of 20 labels; the file is written first, unless it is there. Prints one JSON object: rows,
size of the file, seconds, rows per second, peak memory of the process, and the time to fetch 1,000 samples in random order.
"""

import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from weitiao.data import load_samples
from weitiao.recipe.sections import Data
from weitiao.recipe.tasks import Classification
from weitiao.tasks import make_task

LABELS = [f"类别{number}" for number in range(20)]
N_CHARACTERS = 300


def write_rows(path: Path, n_rows: int) -> None:
    draw = random.Random(1)
    signs = [chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(4000)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(n_rows):
            row = {"text": "".join(draw.choices(signs, k=N_CHARACTERS)), "label": draw.choice(LABELS)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main() -> None:
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.gettempdir()) / f"weitiao-stream-{n_rows}.jsonl"
    if not path.exists():
        write_rows(path, n_rows)
    task = make_task(Classification(kind="classification"))
    started = time.perf_counter()
    samples = load_samples(Data.model_validate({"train": {"path": str(path)}}), task, 42)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    for index in random.Random(2).sample(range(len(samples.train)), min(1000, len(samples.train))):
        samples.train[index]
    fetching = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    shown = {
        "rows": samples.report.n_read,
        "kept": samples.report.n_kept,
        "file_bytes": path.stat().st_size,
        "seconds": round(seconds, 1),
        "rows_per_second": round(samples.report.n_read / seconds),
        "cpu_seconds": round(time.process_time(), 1),
        "peak_memory_bytes": peak,
        "random_samples_per_second": round(1000 / fetching),
    }
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
