"""Many clients at a server of one run against one request at a time: lost and mixed answers, latency, throughput.

    python -m bench.load [RUN] [--clients 64] [--requests 128] [--max-tokens 32] [--alone 16]

starts `weitiao serve RUN` on a free port of 127.0.0.1. RUN is a run folder; without one, bundled:qwen2.5-coder-0.5b-instruct is put into
one with an untrained adapter. Answers are compared with those that the same prompts get when nobody else asks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import openai
from tests.serve.runs import EXTRACTION, make_run
from tests.serve.servers import running

from weitiao.demo import write_complaints

BUNDLED = "bundled:qwen2.5-coder-0.5b-instruct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=128, help="in all, shared by the clients")
    parser.add_argument("--alone", type=int, default=16, help="of them, asked one after the other for comparison")
    parser.add_argument("--max-tokens", type=int, default=32)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = given.run or make_run(Path(folder) / "run", BUNDLED, EXTRACTION, max_new_tokens=given.max_tokens, batch_size=64)
        texts = _texts(Path(folder), given.requests)
        with running(run, "--max-waiting", str(given.clients)) as server:
            asyncio.run(_compare(f"{server.url}/v1", run.name, texts, given))
            print(f"memory of the server: {server.memory_bytes() / 1e9:.2f} GB")


async def _compare(url: str, model: str, texts: list[str], given: argparse.Namespace) -> None:
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=1200)

    async def ask(text: str) -> tuple[str, float, int]:
        started = time.perf_counter()
        done = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], max_tokens=given.max_tokens)
        assert done.usage
        return done.choices[0].message.content or "", time.perf_counter() - started, done.usage.completion_tokens

    await ask(texts[0])
    started = time.perf_counter()
    alone = [await ask(text) for text in texts[: given.alone]]
    alone_seconds = time.perf_counter() - started

    waiting = asyncio.Queue[int]()
    for i in range(len(texts)):
        waiting.put_nowait(i)
    together: dict[int, tuple[str, float, int]] = {}

    async def client_of_many() -> None:
        while not waiting.empty():
            i = waiting.get_nowait()
            together[i] = await ask(texts[i])

    started = time.perf_counter()
    await asyncio.gather(*(client_of_many() for _ in range(given.clients)))
    seconds = time.perf_counter() - started

    mixed = [i for i in range(given.alone) if together[i][0] != alone[i][0]]
    _show("one at a time", alone, alone_seconds)
    _show(f"{given.clients} clients", list(together.values()), seconds)
    print(f"lost: {len(texts) - len(together)} of {len(texts)}; other than alone: {len(mixed)} of {given.alone}")
    for i in mixed:
        print(json.dumps({"alone": alone[i][0], "together": together[i][0]}, ensure_ascii=False))
    print(f"throughput: {len(texts) / seconds / (len(alone) / alone_seconds):.2f} x one at a time")


def _show(name: str, answers: list[tuple[str, float, int]], seconds: float) -> None:
    latencies = sorted(latency for _, latency, _ in answers)
    p95 = latencies[min(len(latencies) - 1, round(0.95 * len(latencies)))]
    n_tokens = sum(n for _, _, n in answers)
    p50 = statistics.median(latencies)
    rate = f"{len(answers) / seconds:6.2f} requests/s, {n_tokens / seconds:7.1f} tokens/s"
    print(f"{name:<14} {len(answers):>5} requests in {seconds:7.1f} s: {rate}, latency p50 {p50:.2f} s, p95 {p95:.2f} s")


def _texts(folder: Path, n: int) -> list[str]:
    """Complaints, all different."""
    path = folder / "complaints.jsonl"
    write_complaints(path, n, 1)
    return [json.loads(line)["instruction"] for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
