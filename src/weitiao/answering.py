"""Which engine answers for a run: the one in this process, or another that ``--engine NAME[:ARG]`` names."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import requests

from weitiao import chat, evaluate, infer, model, runs, spread, tasks
from weitiao.cache import cache_root
from weitiao.errors import CommandError, EngineError
from weitiao.predict import WINDOW
from weitiao.recipe import Recipe, nearest_name
from weitiao.recipe.sections import Chat
from weitiao.seams import Engine, LoadedModel, Renderer, Task

Opener = Callable[[runs.Run, str], Iterator[Engine]]

WHERE_VLLM = "--engine vllm"
START_SECONDS = 900
"""Longest time that vLLM may take to start; on a CPU it compiles for minutes."""


@contextmanager
def open_engine(run: runs.Run, spec: str = "embedded") -> Iterator[Engine]:
    """Start what answers with a run's tuned model, and stop it afterwards.

    Args:
        run: a finished run.
        spec: ``NAME`` or ``NAME:ARG``; see ``ENGINES``.

    Yields:
        The engine.

    Raises:
        CommandError: no engine has that name.
        EngineError: it is not installed, cannot be reached, or lacks what the run needs.
    """
    name, _, argument = spec.partition(":")
    if name not in ENGINES:
        near = nearest_name(name, ENGINES)
        hint = (f"did you mean {near}? " if near else "") + f"engines: {', '.join(ENGINES)}"
        raise CommandError(f"there is no engine `{name}`", where="--engine", hint=hint)
    with contextmanager(ENGINES[name])(run, argument) as engine:
        yield engine


def window_of(spec: str) -> int:
    """Rows that an engine is best given at once."""
    return spread.WINDOW if spec.partition(":")[0] == "ray" else WINDOW


def embedded_engine(run: runs.Run, *, tuned: bool = True) -> tuple[infer.EmbeddedEngine, LoadedModel, Renderer]:
    """Load a run's model into this process.

    Args:
        run: a finished run.
        tuned: False for the base that it started from.

    Returns:
        The engine, and the model and renderer that it answers with.
    """
    recipe, facts = run.recipe(), model.read_facts(run.path / "best")
    section = recipe.model
    loaded = model.load_checkpoint(
        run.path / "best",
        device=section.device,
        dtype=None if section.dtype == "auto" else model.pick_dtype(section.dtype, model.pick_device(section.device)),
        adapter=tuned,
        trust_remote_code=section.trust_remote_code,
    )
    renderer = chat.make_renderer(loaded.processor, Chat(**facts.chat), recipe.encode.keep)
    engine = infer.make_engine(loaded, renderer, recipe.evaluate.batch_size, facts.max_prompt_tokens, hold=True)
    return engine, loaded, renderer


def task_of(run: runs.Run) -> tuple[Task, Recipe]:
    """A run's task and recipe."""
    recipe = run.recipe()
    return tasks.make_task(recipe.task, recipe.data.system), recipe


def candidates_of(run: runs.Run) -> tuple[str, ...]:
    """Labels or entity types of a run's training rows, for rows that name none."""
    return tuple(run.read("data")["statistics"].get("candidates", ()))


def temperature_of(run: runs.Run, name: str = "tuned") -> float:
    """Of label probabilities, as validation rows chose it for ``baseline`` or ``tuned``; 1 where nothing was calibrated."""
    calibration = calibration_of(run, name)
    return calibration.temperature if calibration else 1.0


def calibration_of(run: runs.Run, name: str) -> evaluate.Calibration | None:
    """What validation rows chose for ``baseline`` or ``tuned``; None where nothing was calibrated."""
    is_there = (run.path / name / "calibration.json").exists()
    return evaluate.Calibration.from_json(run.read(f"{name}/calibration")) if is_there else None


def _embedded(run: runs.Run, argument: str) -> Iterator[Engine]:
    if argument:
        raise CommandError("the embedded engine takes no argument", where="--engine", hint="write --engine embedded")
    yield embedded_engine(run)[0]


def _http(run: runs.Run, argument: str) -> Iterator[Engine]:
    """ARG is the server's address; ``#NAME`` behind it names the model. The key comes from ``OPENAI_API_KEY``."""
    yield _server(run, argument, os.environ.get("OPENAI_API_KEY"))


def _vllm(run: runs.Run, argument: str) -> Iterator[Engine]:
    """ARG is the Python that has vLLM; started as ``weitiao serve`` does it, and stopped afterwards."""
    facts, n_new = model.read_facts(run.path / "best"), run.recipe().evaluate.max_new_tokens
    port = _free_port()
    words = ["serve", str(run.path), "--engine", f"vllm:{argument}", "--port", str(port), "--max-new-tokens", str(n_new)]
    words += ["--max-prompt-tokens", str(facts.max_prompt_tokens)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        command = [sys.executable, "-c", "from weitiao.cli import main; main()", *words]
        with subprocess.Popen(command, stdout=said, stderr=said, text=True) as process:
            try:
                _wait_until_ready(process, f"http://127.0.0.1:{port}/health", said)
                yield _server(run, f"http://127.0.0.1:{port}/v1#{run.path.name}", None)
            except EngineError as error:
                if process.poll() is None or error.where == WHERE_VLLM:
                    raise
                raise EngineError("vLLM ended while it was asked", where=WHERE_VLLM, hint=_last_lines(said)) from error
            finally:
                process.terminate()


def _openvino(run: runs.Run, argument: str) -> Iterator[Engine]:
    """ARG is the exported folder; ``RUN/openvino`` where it is not given."""
    folder = Path(argument) if argument else run.path / "openvino"
    if not (folder / "openvino_model.xml").exists():
        raise EngineError("there is no OpenVINO export here", where=str(folder), hint=f"weitiao export {run.path} --kind openvino")
    facts, recipe = model.read_facts(run.path / "best"), run.recipe()
    python = cache_root() / "engines" / "openvino" / "bin" / "python"
    with infer.openvino_engine(
        python, folder, _renderer(run), batch_size=recipe.evaluate.batch_size, max_prompt_tokens=facts.max_prompt_tokens
    ) as engine:
        yield engine


def _ray(run: runs.Run, argument: str) -> Iterator[Engine]:
    """ARG is the number of workers; one per CPU where it is not given."""
    if argument and (not argument.isdigit() or int(argument) < 1):
        raise CommandError("the number of workers is no number", where=f"--engine ray:{argument}", hint="write --engine ray:2")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with spread.ray_engine(run.path, int(argument) if argument else None) as engine:
        yield engine


def _renderer(run: runs.Run) -> Renderer:
    recipe, facts = run.recipe(), model.read_facts(run.path / "best")
    return chat.make_renderer(model.load_processor(recipe.model), Chat(**facts.chat), recipe.encode.keep)


def _server(run: runs.Run, address: str, key: str | None) -> Engine:
    facts, recipe = model.read_facts(run.path / "best"), run.recipe()
    return infer.connect_server(
        address, _renderer(run), concurrency=recipe.evaluate.batch_size, max_prompt_tokens=facts.max_prompt_tokens, key=key
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[str], address: str, said: IO[str]) -> None:
    for _ in range(START_SECONDS):
        if process.poll() is not None:
            raise EngineError("vLLM does not start", where=WHERE_VLLM, hint=_last_lines(said))
        try:
            with infer.session_for(address) as session:
                if session.get(address, timeout=5).ok:
                    return
        except requests.RequestException:
            pass
        time.sleep(1)
    raise EngineError(f"vLLM did not start within {START_SECONDS} s", where=WHERE_VLLM)


def _last_lines(said: IO[str]) -> str:
    """Of what vLLM printed: the errors' own lines where there are any, without the traces around them."""
    said.seek(0)
    lines = said.read().strip().splitlines()
    return "\n".join([line for line in lines if re.search(r"\w+Error: ", line)][-2:] or lines[-5:])


ENGINES: dict[str, Opener] = {
    "embedded": _embedded,
    "http": _http,
    "openvino": _openvino,
    "ray": _ray,
    "vllm": _vllm,
}
"""Name -> how it is opened."""
