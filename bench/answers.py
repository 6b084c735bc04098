"""Answers per second: the embedded engine beside transformers' own ``generate`` in batches of 8, in turn, on the same rows.

Run as ``python -m bench.answers [--rows N] [--rounds N] [--model NAME] [--threads N] [--batch-size N] [--json]``.

Classification (a shared instruction of about 300 tokens, 5 answer tokens at most) and extraction (up to 120 answer tokens), greedy and
unconstrained on both sides so that answers can be compared; then, for the embedded engine alone, classification by scoring labels and
extraction held to its schema. Time is the processor's where one thread works, so that neighbours on the machine do not count.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from bench.rows import LABELS, make_rows
from bench.shapes import gemm_rate
from weitiao import chat, infer, model
from weitiao.demo.complaints import make_complaints
from weitiao.recipe.sections import Chat, Model
from weitiao.seams import Answer, Constraint, LoadedModel, Renderer, Sample, Sampling, text_message

N_PLAIN = 8
"""Rows of a batch of ``generate``."""
CLASSIFY = (
    "你是一个文本分类领域的专家。你会接收到一段投诉文本，请从下面的类别中选出唯一正确的一个，只输出类别名称，不要输出任何解释。类别说明："
    + "".join(
        f"{label}：凡是主要内容与{label}有关的文本，包括相关的人物、机构、事件、政策和日常生活中的问题，都归入{label}；" for label in LABELS
    )
    + "如果一段文本涉及多个类别，请选择篇幅最多的那一个；如果都不明显，请选择最接近的一个。"
)
FIELDS = ("name", "address", "email", "question")
SCHEMA = {
    "type": "object",
    "properties": {field: {"type": "string"} for field in FIELDS},
    "required": list(FIELDS),
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Work:
    """Rows of one kind, and how long their answers may be."""

    name: str
    samples: list[Sample]
    max_new_tokens: int


@dataclass(frozen=True)
class Result:
    """One pass over the rows by one engine."""

    answers: list[Answer]
    seconds: float
    peak_bytes: int
    """Memory of the process at its highest, weights of the network included."""


def works(n_rows: int) -> list[Work]:
    """Both kinds of work."""
    texts = [row["instruction"] for row in make_complaints(n_rows, 7)]
    classify = [_sample(str(i), CLASSIFY, text) for i, text in enumerate(texts)]
    extract = [_sample(str(i), row[0]["content"], row[1]["content"]) for i, row in enumerate(make_rows("extraction", n_rows))]
    return [Work("classification", classify, 5), Work("extraction", extract, 120)]


def _sample(name: str, system: str, text: str) -> Sample:
    return Sample(name, name, (text_message("system", system), text_message("user", text)))


def by_generate(loaded: LoadedModel, renderer: Renderer, work: Work) -> list[Answer]:
    """Answers of transformers' ``generate``: rows in their order, batches of 8, filled up on the left."""
    answers = []
    for start in range(0, len(work.samples), N_PLAIN):
        prompts = [renderer.prompt(sample.prompt).input_ids for sample in work.samples[start : start + N_PLAIN]]
        width = max(map(len, prompts))
        ids = torch.tensor([[renderer.pad_token_id] * (width - len(row)) + row for row in prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        settings = {"max_new_tokens": work.max_new_tokens, "do_sample": False, "pad_token_id": renderer.pad_token_id}
        with torch.no_grad():
            whole = loaded.network.generate(
                input_ids=ids, attention_mask=mask, eos_token_id=list(renderer.stop_token_ids), repetition_penalty=1.0, **settings
            )
        for prompt, row in zip(prompts, whole[:, width:].tolist(), strict=True):
            end = next((i + 1 for i, token in enumerate(row) if token in renderer.stop_token_ids), len(row))
            answers.append(Answer(renderer.decode(row[:end]), len(prompt), end, "stop"))
    return answers


def in_order(answers: Iterator[tuple[int, Answer]]) -> list[Answer]:
    """Answers in the order of their rows."""
    return [answer for _, answer in sorted(answers, key=lambda pair: pair[0])]


def measured(work: Callable[[], list[Answer]]) -> Result:
    """Time and memory of a pass."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    with _peak() as peak:
        started = clock()
        answers = work()
        seconds = clock() - started
    return Result(answers, seconds, peak[0])


@contextmanager
def _peak() -> Iterator[list[int]]:
    process, highest, is_over = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.1):
            highest[0] = max(highest[0], process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield highest
    finally:
        is_over.set()
        thread.join()


def needed_flop(loaded: LoadedModel, answers: list[Answer], n_shared: int) -> float:
    """2 FLOP per parameter and token read, the head per answer token, attention's two products; ``n_shared`` tokens are read once."""
    config = loaded.network.config
    n_body = sum(weight.numel() for name, weight in loaded.network.named_parameters() if ".layers." in name)
    n_new = sum(answer.n_new_tokens for answer in answers)
    n_read = n_shared + sum(answer.n_prompt_tokens - n_shared + answer.n_new_tokens - 1 for answer in answers)
    pairs = n_shared**2 / 2 + sum(((a.n_prompt_tokens + a.n_new_tokens) ** 2 - n_shared**2) / 2 for a in answers)
    attention = 4 * pairs * config.hidden_size * config.num_hidden_layers
    return float(2 * n_read * n_body + 2 * n_new * config.vocab_size * config.hidden_size + attention)


def figures(loaded: LoadedModel, results: list[Result], n_shared: int, rate: float) -> dict[str, Any]:
    """What is printed of an engine: the median of its passes."""
    seconds = sorted(result.seconds for result in results)[len(results) // 2]
    answers = results[0].answers
    return {
        "rows_per_second": round(len(answers) / seconds, 3),
        "new_tokens_per_second": round(sum(answer.n_new_tokens for answer in answers) / seconds, 2),
        "mean_new_tokens": round(sum(answer.n_new_tokens for answer in answers) / len(answers), 1),
        "share_of_gemm_rate": round(needed_flop(loaded, answers, n_shared) / seconds / rate, 3),
        "peak_gigabytes": round(max(result.peak_bytes for result in results) / 1e9, 2),
        "seconds": [round(result.seconds, 1) for result in results],
    }


def compare(loaded: LoadedModel, renderer: Renderer, work: Work, batch_size: int, n_rounds: int) -> dict[str, Any]:
    """Both engines in turn on one kind of work, and what only the embedded one does."""
    engine = infer.make_engine(loaded, renderer, batch_size)
    greedy = Sampling(max_new_tokens=work.max_new_tokens)
    plain, embedded = [], []
    for _ in range(n_rounds):
        embedded.append(measured(lambda: in_order(engine.generate(work.samples, greedy))))
        plain.append(measured(lambda: by_generate(loaded, renderer, work)))
    if work.name == "classification":
        extra = "embedded, labels scored"
        other = measured(lambda: in_order(engine.score_labels(work.samples, lambda _sample: LABELS)))
    else:
        extra = "embedded, held to the schema"
        other = measured(lambda: in_order(engine.generate(work.samples, greedy, lambda _sample: Constraint(json_schema=SCHEMA))))
    prompts = [renderer.prompt(sample.prompt).input_ids for sample in work.samples]
    low, high = min(prompts), max(prompts)
    n_shared = next(i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    rate = gemm_rate(loaded.network.config, 512, loaded.dtype)
    pairs = zip(embedded[0].answers, plain[0].answers, strict=True)
    return {
        "rows": len(work.samples),
        "mean_prompt_tokens": round(sum(map(len, prompts)) / len(prompts), 1),
        "shared_tokens": n_shared,
        "gemm_gigaflop_per_second": round(rate / 1e9, 1),
        "equal_answers": round(sum(a.text == b.text for a, b in pairs) / len(prompts), 3),
        "times_as_fast": round(sum(result.seconds for result in plain) / sum(result.seconds for result in embedded), 2),
        "embedded": figures(loaded, embedded, n_shared, rate),
        f"generate, batches of {N_PLAIN}": figures(loaded, plain, 0, rate),
        extra: figures(loaded, [other], n_shared, rate),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=128, help="rows of each kind")
    parser.add_argument("--rounds", type=int, default=2, help="passes of each engine, in turn")
    parser.add_argument("--model", default="bundled:qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=64, help="rows that the embedded engine answers at once")
    parser.add_argument("--only", choices=["classification", "extraction"])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    loaded = model.load_base(Model(path=chosen.model))
    renderer = chat.make_renderer(loaded.processor, Chat())
    found: dict[str, Any] = {"model": chosen.model, "threads": chosen.threads, "dtype": str(loaded.dtype), "batch_size": chosen.batch_size}
    for work in works(chosen.rows):
        if chosen.only in (None, work.name):
            found[work.name] = compare(loaded, renderer, work, chosen.batch_size, chosen.rounds)
            print(json.dumps({work.name: found[work.name]}, indent=2, ensure_ascii=False), file=sys.stderr, flush=True)
    if chosen.json:
        print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main()
