"""A finished run tried out: its tuned model and the base that it started from, each a function from a text or an image to an answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from weitiao import answering, evaluate, runs, web
from weitiao.errors import EngineError, RowError
from weitiao.predict import calibrated
from weitiao.seams import Engine, Record, text_message


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
    task, _ = answering.task_of(run)
    base, tuned, is_vision = both_models(run)
    with web.open_page(run.path.resolve().name, task.kind, base, tuned, with_image=is_vision, port=port) as address:
        yield address


def tuned_model(path: Path) -> web.Answering:
    """The tuned model alone.

    Args:
        path: a run folder.

    Returns:
        The function that answers.
    """
    run = runs.read_run(path)
    return _answerer(run, "tuned", answering.embedded_engine(run)[0])


def both_models(run: runs.Run) -> tuple[web.Answering, web.Answering, bool]:
    """Base and tuned model; with LoRA both are the same weights, the adapter switched off for the base.

    Args:
        run: a finished run.

    Returns:
        The functions that answer, base first, and whether the model takes images.
    """
    engine, loaded, _ = answering.embedded_engine(run)
    is_adapter = hasattr(loaded.network, "disable_adapter")
    base_engine = engine if is_adapter else answering.embedded_engine(run, tuned=False)[0]
    without: Callable[[], AbstractContextManager[None]] = loaded.network.disable_adapter if is_adapter else nullcontext
    lock = threading.Lock()

    def alone(answer: web.Answering, around: Callable[[], AbstractContextManager[None]]) -> web.Answering:
        def answer_alone(text: str, image: Path | None) -> web.Shown:
            with lock, around():
                return answer(text, image)

        return answer_alone

    base, tuned = _answerer(run, "baseline", base_engine), _answerer(run, "tuned", engine)
    return alone(base, without), alone(tuned, nullcontext), loaded.is_vision


def _answerer(run: runs.Run, name: str, engine: Engine) -> web.Answering:
    """A model asked as ``predict`` asks it: in the way of the task, with the run's labels, probabilities at the run's temperature."""
    task, recipe = answering.task_of(run)
    candidates, temperature = answering.candidates_of(run), answering.temperature_of(run, name)

    def answer(text: str, image: Path | None) -> web.Shown:
        record = Record("typed", "typed", text, candidates=candidates, images=(image,) if image else ())
        started = time.perf_counter()
        try:
            sample = task.make_sample(record)
            if task.answer_mode == "likelihood":  # a document, which has no answer but a continuation
                beginning = replace(sample, messages=(*sample.messages, text_message("assistant", "")))
                said = evaluate.answer_questions(engine, [beginning], recipe.evaluate, recipe.run.seed)[0]["answer"]
                return web.Shown(said, said, True, time.perf_counter() - started)
            ((_, answered),) = evaluate.ask(engine, task, [sample], recipe.evaluate, recipe.run.seed)
        except (RowError, EngineError) as error:
            return web.Shown("", None, False, 0.0, problem=error.what)
        prediction = task.parse(answered, sample)
        probabilities = calibrated(answered.label_probabilities, temperature) if answered.label_probabilities else None
        seconds = time.perf_counter() - started
        return web.Shown(answered.text, prediction.value, prediction.is_valid, seconds, probabilities, prediction.flags)

    return answer
