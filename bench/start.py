"""How long the command takes until its first step begins and ends, by stages: ``python -m bench.start [--rows N] [--rounds N]``.

Writes made-up rows and a recipe without validation and test rows, so that training is the first work after the data. Then runs the command
line in processes of its own, in turn with an empty cache and with the one that the run before left, and ends each after its first step. The
first number is what it takes until the libraries are imported; rows are read beside that, in another process. Prints one JSON
object per process: seconds from the start of the process, and processor seconds of the process until then.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.rows import make_rows

STARTED = "WEITIAO_BENCH_STARTED"
STAGES = {"data": "_refuse_unknown_metric", "model": "load_base", "encode": "encode_samples"}


def write_inputs(folder: Path, kind: str, n_rows: int, model: str) -> Path:
    """Rows and recipe; the recipe's file."""
    rows = folder / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as file:
        for messages in make_rows(kind, n_rows):
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    recipe = {"task": {"kind": "chat"}, "data": {"train": {"path": str(rows)}, "split": {"valid": 0, "test": 0}}, "model": {"path": model}}
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(recipe | {"train": {"batch_rows": 1}}, ensure_ascii=False), encoding="utf-8")
    return file


def child(recipe: str, run: str) -> None:
    """The command line itself, with a note of when each stage was over; ends with the first step."""
    began = float(os.environ[STARTED])
    notes: dict[str, list[float]] = {}

    def note(stage: str) -> None:
        notes[stage] = [round(time.time() - began, 2), round(time.process_time(), 2)]

    from weitiao import cli
    from weitiao.cli import verbs

    before = verbs.importing

    @contextlib.contextmanager
    def importing() -> Iterator[None]:
        with before():
            yield
        note("libraries imported")
        _watch(note, notes)

    verbs.importing = importing  # type: ignore[attr-defined]
    cli.main(["run", recipe, "-o", run])


def _watch(note: Callable[[str], None], notes: dict[str, list[float]]) -> None:
    """Note the stages of the pipeline, which is imported by now, and end with the first step."""
    import transformers

    from weitiao import encode, model, pipeline, train

    for room, (stage, name) in zip((pipeline, model, encode), STAGES.items(), strict=True):
        setattr(room, name, _noting(getattr(room, name), stage, note))
    before, init = train.run_training, transformers.Trainer.__init__

    class End(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            note("first step begins")

        def on_step_end(self, *_: Any, **__: Any) -> None:
            note("first step ends")
            print(json.dumps(notes), flush=True)
            os._exit(0)

    def with_end(self: Any, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        self.add_callback(End())

    @functools.wraps(before)
    def watched(*args: Any, **kwargs: Any) -> Any:
        note("training is called")
        return before(*args, **kwargs)

    transformers.Trainer.__init__ = with_end  # type: ignore[method-assign]
    train.run_training = watched


def _noting(function: Callable[..., Any], stage: str, note: Callable[[str], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        done = function(*args, **kwargs)
        note(stage)
        return done

    return noted


def main() -> None:
    """Run the processes in turn and print what each noted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=15_000)
    parser.add_argument("--kind", choices=["classification", "extraction"], default="classification")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="bundled:qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    from weitiao.model.weights import resolve_weights

    base = options.model if Path(options.model).is_dir() else str(resolve_weights(options.model, None))
    with tempfile.TemporaryDirectory() as work:
        recipe = write_inputs(Path(work), options.kind, options.rows, base)
        for number in range(options.rounds):
            for state in ("empty cache", "cached"):
                environment = os.environ | {"WEITIAO_CACHE": f"{work}/cache-{number}", STARTED: repr(time.time())}
                environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as where the package is installed for use
                command = [sys.executable, "-m", "bench.start", "--child", str(recipe), f"{work}/run-{number}-{state[:5]}"]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
                if done.returncode or not done.stdout.strip():
                    sys.exit(f"{state}: {done.stderr.strip()[-2000:]}")
                print(json.dumps({"state": state, "rows": options.rows} | json.loads(done.stdout.strip().splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main()
