"""While libraries are imported: the rows are read in a process of their own, and nothing looks for garbage.

Importing torch, transformers and PEFT takes seconds of one core, and so does reading and auditing rows; neither needs the other.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from weitiao.cli.display import show_messages
from weitiao.errors import WeitiaoError
from weitiao.log import logger

if TYPE_CHECKING:
    from weitiao.recipe import Recipe
    from weitiao.seams import SampleSet


@contextmanager
def importing() -> Iterator[None]:
    """Import without the collector of reference cycles, and let it never look at what was imported.

    Libraries define a million objects that all stay: looking through them again and again took a quarter of the time, and a third of what
    loading a model takes afterwards.

    Yields:
        Nothing.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


@contextmanager
def reading_ahead(recipe: Recipe) -> Iterator[Callable[[], SampleSet]]:
    """Read a recipe's rows in a process of their own, which shows its own progress and ends with the block.

    Args:
        recipe: names the rows, the task and the seed.

    Yields:
        What waits for the samples and returns them, or raises what reading them raised.
    """
    from weitiao.runs import usable_processors

    if usable_processors() == 1:
        yield lambda: _read(recipe)
        return
    spawning = multiprocessing.get_context("spawn")  # every system has it, and no thread is lost
    ours, theirs = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_send, args=(recipe, theirs, logger.isEnabledFor(logging.DEBUG)), daemon=True)
    with _interrupt_held():
        process.start()
    theirs.close()
    try:
        yield lambda: _received(ours, recipe)
    finally:
        process.terminate()
        process.join()
        ours.close()


def _received(ours: Connection, recipe: Recipe) -> SampleSet:
    try:
        samples: SampleSet | WeitiaoError = ours.recv()
    except EOFError:
        # Something unforeseen ended the process: it happens here again and is told, or does not.
        return _read(recipe)
    if isinstance(samples, WeitiaoError):
        raise samples
    return samples


def _send(recipe: Recipe, theirs: Connection, debug: bool) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that what is half written is thrown away
    show_messages(debug=debug)
    try:
        samples: SampleSet | WeitiaoError = _read(recipe)
    except WeitiaoError as error:
        samples = error
    except Exception:
        return
    theirs.send(samples)


def _read(recipe: Recipe) -> SampleSet:
    from weitiao import data, tasks

    return data.load_samples(recipe.data, tasks.make_task(recipe.task, recipe.data.system), recipe.run.seed)


@contextmanager
def _interrupt_held() -> Iterator[None]:
    """A process started in the block leaves Ctrl-C to this one from its first moment on; if one comes meanwhile, it is felt at the end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # on its first start it lets every signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
