"""Which engine answers for a run: the one in this process, or another that ``--engine NAME[:ARG]`` names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from weitiao import chat, infer, model, runs, tasks
from weitiao.errors import CommandError
from weitiao.recipe import Recipe, nearest_name
from weitiao.recipe.sections import Chat
from weitiao.seams import Engine, LoadedModel, Renderer, Task

Opener = Callable[[runs.Run, str], Iterator[Engine]]


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


def embedded_engine(run: runs.Run, *, tuned: bool = True) -> tuple[Engine, LoadedModel, Renderer]:
    """Load a run's model into this process.

    Args:
        run: a finished run.
        tuned: False for the base that it started from.

    Returns:
        The engine, and the model and renderer that it answers with.
    """
    recipe, facts = run.recipe(), model.read_facts(run.path / "best")
    loaded = model.load_checkpoint(run.path / "best", device=recipe.model.device, adapter=tuned)
    renderer = chat.make_renderer(loaded.processor, Chat(**facts.chat), recipe.encode.keep)
    return infer.make_engine(loaded, renderer, recipe.evaluate.batch_size, facts.max_prompt_tokens), loaded, renderer


def task_of(run: runs.Run) -> tuple[Task, Recipe]:
    """A run's task and recipe."""
    recipe = run.recipe()
    return tasks.make_task(recipe.task, recipe.data.system), recipe


def _embedded(run: runs.Run, argument: str) -> Iterator[Engine]:
    if argument:
        raise CommandError("the embedded engine takes no argument", where="--engine", hint="write --engine embedded")
    yield embedded_engine(run)[0]


ENGINES: dict[str, Opener] = {
    "embedded": _embedded,
}
"""Name -> how it is opened."""
