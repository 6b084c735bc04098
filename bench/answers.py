"""Answers per second: the embedded engine, with and without guessed tokens, transformers' own ``generate`` and other engines, in turn.

Run as ``python -m bench.answers [--rows N] [--rounds N] [--model NAME | --run RUN] [--engine NAME:ARG]... [--threads N] [--batch-size N]
[--plain-batch N] [--ours] [--json]``.

Classification (a shared instruction of about 300 tokens, 5 answer tokens at most) and extraction (up to 120 answer tokens), greedy. Free on
all sides so that answers can be compared; for the embedded engine also classification by scoring labels, and extraction held to its schema.
``generate`` gets as many rows at once as the embedded engine. Both have answered a row before their time begins, weights laid out included.
With ``--run``, the tuned model of a finished extraction run answers that run's own test rows, its adapter merged in on all sides. With
``--engine`` as well (as ``weitiao predict`` takes it) it answers the made-up rows of both kinds, and so does each engine.
Time is the processor's where one thread works, so that neighbours on the machine do not count; for other engines always the clock's.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import PeftModel

from bench.rows import LABELS, make_rows
from bench.shapes import gemm_rate
from weitiao import answering, chat, infer, model, runs
from weitiao.demo.complaints import make_complaints
from weitiao.recipe.sections import Chat, Model
from weitiao.seams import Answer, Constraint, Engine, LoadedModel, Renderer, Sample, Sampling, text_message

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
    constraint: Callable[[Sample], Constraint | None]
    """What answers of the variant that is held are held to."""


@dataclass(frozen=True)
class Result:
    """One pass over the rows by one engine."""

    answers: list[Answer]
    seconds: float
    peak_bytes: int
    """Memory of the process at its highest, weights of the network included."""
    passes: dict[str, int] = field(default_factory=dict)
    """Over answers, and what became of guessed tokens."""


def works(n_rows: int) -> list[Work]:
    """Both kinds of work."""
    texts = [row["instruction"] for row in make_complaints(n_rows, 7)]
    classify = [_sample(str(i), CLASSIFY, text) for i, text in enumerate(texts)]
    extract = [_sample(str(i), row[0]["content"], row[1]["content"]) for i, row in enumerate(make_rows("extraction", n_rows))]
    held = Constraint(json_schema=SCHEMA)
    return [Work("classification", classify, 5, lambda _sample: None), Work("extraction", extract, 120, lambda _sample: held)]


def work_of_run(run: runs.Run, n_rows: int) -> Work:
    """The test rows of a finished extraction run."""
    task, recipe = answering.task_of(run)
    rows = [json.loads(line) for line in (run.path / "tuned" / "answers.jsonl").read_text(encoding="utf-8").splitlines()[:n_rows]]
    samples = [_sample(row["id"], recipe.data.system or "", row["prompt"]) for row in rows]
    return Work("extraction", samples, recipe.evaluate.max_new_tokens, task.constraint)


def _sample(name: str, system: str, text: str) -> Sample:
    return Sample(name, name, (text_message("system", system), text_message("user", text)))


def merged_model(run: runs.Run) -> tuple[LoadedModel, Renderer]:
    """A run's tuned model with its adapter in its weights, none of them kept thin, and the run's renderer."""
    recipe, facts = run.recipe(), model.read_facts(run.path / "best")
    device = model.pick_device(recipe.model.device)
    loaded = model.load_checkpoint(run.path / "best", device=str(device), dtype=model.pick_dtype(recipe.model.dtype, device))
    if isinstance(loaded.network, PeftModel):
        loaded = replace(loaded, network=loaded.network.merge_and_unload())
    return loaded, chat.make_renderer(loaded.processor, Chat(**facts.chat), recipe.encode.keep)


def by_generate(loaded: LoadedModel, renderer: Renderer, work: Work, batch_size: int) -> Result:
    """What transformers' ``generate`` answers, after it has answered one row."""
    plain_answers(loaded, renderer, replace(work, samples=work.samples[:1], max_new_tokens=1), 1)
    return measured(lambda: plain_answers(loaded, renderer, work, batch_size))


def plain_answers(loaded: LoadedModel, renderer: Renderer, work: Work, batch_size: int) -> list[Answer]:
    """Answers of transformers' ``generate``: rows in their order, ``batch_size`` at once, filled up on the left."""
    answers = []
    for start in range(0, len(work.samples), batch_size):
        prompts = [renderer.prompt(sample.prompt).input_ids for sample in work.samples[start : start + batch_size]]
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


def by_engine(loaded: LoadedModel, renderer: Renderer, work: Work, batch_size: int, **how: bool) -> Result:
    """The embedded engine's greedy answers; ``how`` says ``held`` to the constraint, and ``speculative``. Weights are laid out before."""
    engine = infer.make_engine(loaded, renderer, batch_size, speculative=how["speculative"], hold=True)
    list(engine.generate(work.samples[:1], Sampling(max_new_tokens=1)))
    n_before = engine.tally.n_passes
    constraint = work.constraint if how["held"] else None
    result = measured(lambda: in_order(engine.generate(work.samples, Sampling(max_new_tokens=work.max_new_tokens), constraint)))
    tally = engine.tally
    passes = {"passes": tally.n_passes - n_before, "drafted": tally.n_drafted, "accepted": tally.n_accepted}
    return replace(result, passes=passes)


def by_labels(loaded: LoadedModel, renderer: Renderer, work: Work, batch_size: int) -> Result:
    """The embedded engine's likeliest labels. Weights are laid out before."""
    engine = infer.make_engine(loaded, renderer, batch_size, hold=True)
    list(engine.score_labels(work.samples[:1], lambda _sample: LABELS))
    return measured(lambda: in_order(engine.score_labels(work.samples, lambda _sample: LABELS)))


def measured(work: Callable[[], list[Answer]], *, of_children: bool = False) -> Result:
    """Time and memory of a pass, done in this process or in those that it has started."""
    clock = time.process_time if torch.get_num_threads() == 1 and not of_children else time.perf_counter
    with _peak(of_children=of_children) as peak:
        started = clock()
        answers = work()
        seconds = clock() - started
    return Result(answers, seconds, peak[0])


@contextmanager
def _peak(*, of_children: bool) -> Iterator[list[int]]:
    process, highest, is_over = psutil.Process(), [0], threading.Event()

    def bytes_now() -> int:
        watched = process.children(recursive=True) if of_children else [process]
        return sum(one.memory_info().rss for one in watched)

    def watch() -> None:
        while not is_over.wait(0.1):
            with suppress(psutil.NoSuchProcess):
                highest[0] = max(highest[0], bytes_now())

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
        **results[0].passes,
    }


def by_other(engine: Engine, work: Work, *, held: bool = False) -> Result:
    """Another engine's greedy answers; memory of all processes that this one has started, so of all other engines together."""
    sampling, constraint = Sampling(max_new_tokens=work.max_new_tokens), work.constraint if held else None
    return measured(lambda: in_order(engine.generate(work.samples, sampling, constraint)), of_children=True)


def variants(loaded: LoadedModel, renderer: Renderer, work: Work, batch_size: int, plain_batch: int) -> dict[str, Callable[[], Result]]:
    """What is measured of one kind of work; the first two and ``generate`` (left out at 0 rows) give free answers, which must be equal."""

    def embedded(*, held: bool, speculative: bool) -> Callable[[], Result]:
        return lambda: by_engine(loaded, renderer, work, batch_size, held=held, speculative=speculative)

    found = {
        "embedded": embedded(held=False, speculative=True),
        "embedded, nothing guessed": embedded(held=False, speculative=False),
    }
    if plain_batch:
        found["generate"] = lambda: by_generate(loaded, renderer, work, plain_batch)
    if work.name == "classification":
        found["embedded, labels scored"] = lambda: by_labels(loaded, renderer, work, batch_size)
    else:
        found["embedded, held to the schema"] = embedded(held=True, speculative=True)
        found["embedded, held to the schema, nothing guessed"] = embedded(held=True, speculative=False)
    return found


def compare(loaded: LoadedModel, work: Work, found: dict[str, Callable[[], Result]], n_rounds: int, renderer: Renderer) -> dict[str, Any]:
    """All variants in turn on one kind of work; whatever gives free answers is set beside the embedded engine's."""
    held = [name for name in found if "held" in name or "scored" in name]
    pairs = [("embedded", name) for name in found if name != "embedded" and name not in held]
    pairs += [(held[0], name) for name in held[1:]]
    results: dict[str, list[Result]] = {name: [] for name in found}
    for _ in range(n_rounds):
        for name, measure in found.items():
            results[name].append(measure())
            print(f"{work.name}, {name}: {results[name][-1].seconds:.1f} s", file=sys.stderr, flush=True)
    prompts = [renderer.prompt(sample.prompt).input_ids for sample in work.samples]
    low, high = min(prompts), max(prompts)
    n_shared = next(i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    rate = gemm_rate(loaded.network.config, 512, loaded.dtype)
    seconds = {name: sum(result.seconds for result in each) for name, each in results.items()}
    return {
        "rows": len(work.samples),
        "mean_prompt_tokens": round(sum(map(len, prompts)) / len(prompts), 1),
        "shared_tokens": n_shared,
        "gemm_gigaflop_per_second": round(rate / 1e9, 1),
        "equal_answers": {f"{a} = {b}": _equal(results[a][0], results[b][0]) for a, b in pairs},
        "times_as_fast": {f"{a} / {b}": round(seconds[b] / seconds[a], 2) for a, b in pairs},
        **{name: figures(loaded, each, 0 if name == "generate" else n_shared, rate) for name, each in results.items()},
    }


def _equal(some: Result, others: Result) -> float:
    """Share of rows with the same answer."""
    return round(sum(a.text == b.text for a, b in zip(some.answers, others.answers, strict=True)) / len(some.answers), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=128, help="rows of each kind")
    parser.add_argument("--rounds", type=int, default=2, help="passes of each engine, in turn")
    parser.add_argument("--model", default="bundled:qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--run", type=Path, help="a finished extraction run whose tuned model answers its own test rows")
    parser.add_argument("--engine", action="append", default=[], help="another engine for the run's model; may be given several times")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=64, help="rows that the embedded engine answers at once")
    parser.add_argument("--plain-batch", type=int, help="rows that generate answers at once; as --batch-size where not given")
    parser.add_argument("--only", choices=["classification", "extraction"])
    parser.add_argument("--ours", action="store_true", help="leave transformers' generate out")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.engine and not chosen.run:
        parser.error("--engine needs --run: other engines load a run's exports")
    run = runs.read_run(chosen.run) if chosen.run else None
    if run is not None:
        loaded, renderer = merged_model(run)
        kinds = works(chosen.rows) if chosen.engine else [work_of_run(run, chosen.rows)]
    else:
        loaded = model.load_base(Model(path=chosen.model))
        renderer = chat.make_renderer(loaded.processor, Chat())
        kinds = works(chosen.rows)
    plain_batch = 0 if chosen.ours else chosen.plain_batch or chosen.batch_size
    found: dict[str, Any] = {"model": loaded.name, "threads": chosen.threads, "dtype": str(loaded.dtype)}
    found |= {"batch_size": chosen.batch_size, "plain_batch_size": plain_batch}
    with ExitStack() as stack:
        others = {spec: stack.enter_context(answering.open_engine(run, spec)) for spec in chosen.engine} if run is not None else {}
        for work in kinds:
            if chosen.only in (None, work.name):
                measures = variants(loaded, renderer, work, chosen.batch_size, plain_batch)
                for spec, engine in others.items():
                    name = spec.partition(":")[0]
                    measures[name] = partial(by_other, engine, work)
                    if work.name == "extraction":
                        measures[f"{name}, held to the schema"] = partial(by_other, engine, work, held=True)
                found[work.name] = compare(loaded, work, measures, chosen.rounds, renderer)
                print(json.dumps({work.name: found[work.name]}, indent=2, ensure_ascii=False), file=sys.stderr, flush=True)
    if chosen.json:
        print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main()
