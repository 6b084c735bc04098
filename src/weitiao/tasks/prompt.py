"""How a record becomes the messages before the answer: the system's wording, the user's template, and what may be shortened.

The user's turn is a template such as ``文本:{text},类型选型:{category}``. Its words and the row's short fields are pieces that stay
whole; ``{text}`` is the only piece that may be shortened.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from weitiao.errors import RecipeError, RowError
from weitiao.seams import Message, Part, Record, Sample, Task, text_message

FIELDS = ("text", "instruction", "candidates", "category")
"""What a template may name in braces; ``category`` is S3's word for ``candidates``."""

N_LOOKED_AT = 100
"""Most rows that are read to see whether all have one system message."""


@dataclass(frozen=True, slots=True)
class Wording:
    """The words around a row. The system message is the recipe's, else the row's own, else the task's."""

    pieces: tuple[tuple[str, str], ...]
    """The user's template as (literal words, field after them); the field is empty after the last words."""
    recipe_system: str | None = None
    """``data.system``; an empty string is an empty system message."""


def make_wording(template: str | None, default: str, system: str | None) -> Wording:
    """Read a template for the user's turn.

    Args:
        template: the recipe's ``task.prompt``; None for the task's own.
        default: the task's own template.
        system: the recipe's ``data.system``.

    Returns:
        The wording, its template split at the fields. ``{{`` and ``}}`` stand for braces.

    Raises:
        RecipeError: the template names a field that no row has, lacks the text that the task's own has, or its braces do not match.
    """
    wanted = default if template is None else template
    try:
        parsed = [(literal, name) for literal, name, _spec, _conversion in string.Formatter().parse(wanted)]
    except ValueError as err:
        hint = "write {{ and }} for braces that stay in the prompt"
        raise RecipeError(f"the template cannot be read: {err}", where="task.prompt", hint=hint) from err
    unknown = [name for _, name in parsed if name is not None and name not in FIELDS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in FIELDS)
        hint = f"known fields are {known}; write {{{{ and }}}} for braces that stay in the prompt"
        raise RecipeError(f"the template names an unknown field {{{unknown[0]}}}", where="task.prompt", hint=hint)
    if "{text}" in default and not {"text", "instruction"} & {name for _, name in parsed}:
        hint = "put {text} where the row's text belongs"
        raise RecipeError("the template leaves the row's text out, so that the model would never see it", where="task.prompt", hint=hint)
    return Wording(tuple((literal, name or "") for literal, name in parsed), system)


def single_turn(record: Record) -> Record:
    """The record with a conversation of one question taken apart into system, text, images and answer.

    Args:
        record: any record; one without ``messages`` is returned as it is, but alpaca rows without ``input`` get their
            ``instruction`` as the text.

    Returns:
        A record without ``messages``.

    Raises:
        RowError: the conversation has several turns, which a task with one question and one answer cannot use.
    """
    if not record.messages:
        return replace(record, text=record.instruction, instruction="") if record.instruction and not record.text else record
    roles = [message.role for message in record.messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if turns not in (["user"], ["user", "assistant"]):
        hint = "this task wants one question and one answer per row; for conversations use task.kind: chat"
        raise RowError(f"a conversation of {len(turns)} turns", where=record.origin, hint=hint)
    user = record.messages[len(roles) - len(turns)]
    images = tuple(part.image for part in user.parts if part.image is not None)
    return replace(
        record,
        text=user.text,
        system=record.messages[0].text if roles[0] == "system" else record.system,
        answer=record.messages[-1].text if roles[-1] == "assistant" else record.answer,
        images=images or record.images,
        messages=(),
    )


def prompt_messages(wording: Wording, record: Record, default_system: str | None) -> tuple[Message, ...]:
    """The messages before the answer.

    Args:
        wording: of the recipe.
        record: a row without ``messages``; images come before the text.
        default_system: the task's own system message; None where it has none.

    Returns:
        A system message, where there is one, and the user's message.
    """
    system = wording.recipe_system if wording.recipe_system is not None else record.system or default_system
    images = tuple(Part("image", image=path) for path in record.images)
    user = Message("user", images + tuple(part for part in _fill(wording, record) if part.text))
    return (user,) if system is None else (text_message("system", system), user)


def usual_system(task: Task, given: str | None, candidates: Sequence[str], samples: Sequence[Sample] = ()) -> str | None:
    """The system message for a prompt that brings none.

    Args:
        task: of the run.
        given: the recipe's ``data.system``.
        candidates: labels or entity types of the training rows, for rows that name none.
        samples: training rows; up to ``N_LOOKED_AT`` of them, spread evenly, are read.

    Returns:
        The recipe's; else the one that all ``samples`` have; else what the task gives to rows without one of their own. None where
        that is none.
    """
    if given is not None:
        return given
    used = {_system_of(samples[i]) for i in range(0, len(samples), -(-len(samples) // N_LOOKED_AT))} if samples else set()
    if len(used) == 1:
        return used.pop()
    try:
        return _system_of(task.make_sample(Record("a row", "-", text="-", candidates=tuple(candidates))))
    except RowError:
        return None


def _system_of(sample: Sample) -> str | None:
    first = sample.messages[0]
    return first.text if first.role == "system" else None


def _fill(wording: Wording, record: Record) -> Iterable[Part]:
    names = [name for _, name in wording.pieces]
    if record.instruction and "instruction" not in names:
        yield Part("text", f"{record.instruction}\n")
    for literal, name in wording.pieces:
        yield Part("text", literal)
        if name == "text":
            yield Part("text", record.text, shortenable=True)
        elif name == "instruction":
            yield Part("text", record.instruction)
        elif name:
            yield Part("text", label_list(record.candidates))


def label_list(labels: Iterable[str]) -> str:
    """Labels as published adapters for S3 saw them in the prompt: ``['Sports', 'Art']``."""
    return "[" + ", ".join(f"'{label}'" for label in labels) + "]"


def source_text(sample: Sample) -> str:
    """The user's own text of a sample: what may be shortened, or else all text of the last user message."""
    for message in reversed(sample.prompt):
        if message.role == "user":
            own = "".join(part.text for part in message.parts if part.shortenable)
            return own or message.text
    return ""
