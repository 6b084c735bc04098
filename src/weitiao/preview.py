"""What can be seen before a run: the audit of its data, and rows as the model sees them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import groupby

from weitiao import chat, data, encode, model, tasks
from weitiao.errors import CommandError, ModelError
from weitiao.recipe import Recipe
from weitiao.seams import DataReport, Picture, Renderer, Sample


@dataclass(frozen=True, slots=True)
class LookRow:
    """A row as the model sees it."""

    origin: str
    pieces: tuple[tuple[str, bool], ...]
    """Text and whether it is trained, in order."""
    ids: tuple[int, ...]
    n_tokens: int
    n_trained: int
    n_shortened: int
    pictures: tuple[Picture, ...] = ()
    """Images of the row, with their size in the model and their tokens."""


def check_recipe(recipe: Recipe) -> DataReport:
    """Read and audit a recipe's data, and count its tokens; nothing is trained or written.

    Args:
        recipe: to be checked.

    Returns:
        What was read, kept, rejected and found; too many unusable rows are a finding of severity ``error``. Where the tokenizer cannot
        be had, ``tokens`` says why nothing was counted.

    Raises:
        DataError: the data cannot be read, or no row of it can be used.
    """
    samples = data.load_samples(recipe.data, tasks.make_task(recipe.task, recipe.data.system), recipe.run.seed, stops=False)
    try:
        renderer = chat.make_renderer(model.load_processor(recipe.model), recipe.chat, recipe.encode.keep)
    except (ModelError, CommandError) as error:
        return replace(samples.report, tokens={"not_counted": str(error)})
    encoded = encode.encode_samples(samples, renderer, recipe.encode, allow_dropped=1.0)
    return encode.with_tokens(samples.report, encoded, recipe.encode.max_tokens, recipe.data.allow_dropped)


def look_at(recipe: Recipe, n: int) -> list[LookRow]:
    """Show training rows as tokens.

    Args:
        recipe: whose data and template are looked at.
        n: rows, >= 1.

    Returns:
        The first rows of the training part.
    """
    task = tasks.make_task(recipe.task, recipe.data.system)
    samples = data.load_samples(recipe.data, task, recipe.run.seed)
    renderer = chat.make_renderer(model.load_processor(recipe.model), recipe.chat, recipe.encode.keep)
    limit = encode.encode_samples(samples, renderer, recipe.encode, allow_dropped=1.0).max_prompt_tokens
    return [_look_row(sample, renderer, limit) for sample in samples.train[:n]]


def _look_row(sample: Sample, renderer: Renderer, limit: int) -> LookRow:
    row = renderer.conversation(sample.messages, limit)
    end = row.trained_end  # as in training
    token_ids = tuple(row.input_ids[:end])
    marked = zip(token_ids, row.trained[:end], strict=True)
    runs_of_tokens = [(trained, [token for token, _ in run]) for trained, run in groupby(marked, key=lambda pair: pair[1])]
    pieces = tuple((_REPEATED.sub(_times, renderer.text(ids)), trained) for trained, ids in runs_of_tokens)
    return LookRow(sample.origin, pieces, token_ids, len(token_ids), sum(row.trained), row.n_shortened, row.pictures)


_REPEATED = re.compile(r"(<\|image_pad\|>){2,}")


def _times(placeholders: re.Match[str]) -> str:
    return f"<|image_pad|> × {placeholders.group().count('<|image_pad|>')}"
