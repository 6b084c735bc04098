"""A finished run tried out: its tuned model and the base that it started from, each a function from a text or an image to an answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from weitiao import answering, evaluate, runs, web
from weitiao.errors import EngineError, RowError
from weitiao.predict import calibrated
from weitiao.recipe import Recipe
from weitiao.seams import Engine, Record, Task


@contextmanager
def web_page(path: Path, port: int) -> Iterator[str]:
    """Serve the page on which a run is tried out.

    Args:
        path: a run folder.
        port: on 127.0.0.1; 0 for any that is free.

    Yields:
        The page's address.

    Raises:
        CommandError: there is no such run, Gradio is not installed, or the port is taken.
    """
    run = runs.read_run(path)
    task, recipe = answering.task_of(run)
    base, tuned, is_vision = both_models(run, task, recipe)
    with web.open_page(run.path.resolve().name, task.kind, base, tuned, with_image=is_vision, port=port) as address:
        yield address


def both_models(run: runs.Run, task: Task, recipe: Recipe) -> tuple[web.Answering, web.Answering, bool]:
    """Base and tuned model; with LoRA both are the same weights, the adapter switched off for the base.

    Args:
        run: a finished run.
        task: of the run.
        recipe: of the run.

    Returns:
        The functions that answer, base first, and whether the model takes images.
    """
    engine, loaded, _ = answering.embedded_engine(run)
    is_adapter = hasattr(loaded.network, "disable_adapter")
    base_engine = engine if is_adapter else answering.embedded_engine(run, tuned=False)[0]
    without: Callable[[], AbstractContextManager[None]] = loaded.network.disable_adapter if is_adapter else nullcontext
    candidates = answering.candidates_of(run)
    lock = threading.Lock()

    def answerer(name: str, engine: Engine, around: Callable[[], AbstractContextManager[None]]) -> web.Answering:
        temperature = answering.temperature_of(run, name)

        def answer(text: str, image: Path | None) -> web.Shown:
            record = Record("typed", "typed", text, candidates=candidates, images=(image,) if image else ())
            with lock, around():
                return _answered(engine, task, recipe, record, temperature)

        return answer

    return answerer("baseline", base_engine, without), answerer("tuned", engine, nullcontext), loaded.is_vision


def _answered(engine: Engine, task: Task, recipe: Recipe, record: Record, temperature: float) -> web.Shown:
    started = time.perf_counter()
    try:
        sample = task.make_sample(record)
        ((_, answer),) = evaluate.ask(engine, task, [sample], recipe.evaluate, recipe.run.seed)
    except (RowError, EngineError) as error:
        return web.Shown("", None, False, 0.0, problem=error.what)
    prediction = task.parse(answer, sample)
    probabilities = calibrated(answer.label_probabilities, temperature) if answer.label_probabilities else None
    seconds = time.perf_counter() - started
    return web.Shown(answer.text, prediction.value, prediction.is_valid, seconds, probabilities, prediction.flags)
