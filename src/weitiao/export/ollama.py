"""An Ollama model: a Modelfile beside a GGUF file, its template made of what the run's own chat template writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from weitiao.errors import ExportError

Turn = Mapping[str, str]
Render = Callable[[Sequence[Turn]], str]
"""Turns as a chat template takes them -> the prompt as text, up to where the answer begins."""

MARKS = ("\ue100", "\ue101", "\ue102", "\ue103")
"""Stand for the contents of turns, to see what a template writes around them."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a chat template writes around each turn, and before an answer."""

    before: Mapping[str, str]
    """By role."""
    after: str
    answer: str
    """What a prompt ends with."""
    default_system: str | None
    """System message of a conversation that brings none; None where the template adds none."""


def template_pieces(render: Render, stop_token: str) -> Pieces:
    """Find what a chat template writes, by rendering a conversation of marks.

    Args:
        render: the run's chat template.
        stop_token: ends every turn.

    Returns:
        The pieces.

    Raises:
        ExportError: the template does not write each turn by itself.
    """
    system, first, said, second = MARKS
    turns = [("system", system), ("user", first), ("assistant", said), ("user", second)]
    whole = render([{"role": role, "content": mark} for role, mark in turns])
    between: list[str] = []
    rest = whole
    for mark in MARKS:
        head, found, rest = rest.partition(mark)
        if not found:
            raise _refusal()
        between.append(head)
    after = f"{stop_token}\n"
    if not rest.startswith(after) or not all(gap.startswith(after) for gap in between[1:]):
        raise _refusal()
    starts = [between[0], *(gap.removeprefix(after) for gap in between[1:])]
    before = dict(zip(("system", "user", "assistant"), starts, strict=False))
    plain = render([{"role": "user", "content": first}])
    head, _, _ = plain.partition(before["user"] + first)
    default = head.removeprefix(before["system"]).removesuffix(after) if head else None
    pieces = Pieces(before, after, rest.removeprefix(after), default)
    if starts[3] != before["user"] or prompt_text(pieces, [{"role": "user", "content": first}]) != plain:
        raise _refusal()
    return pieces


def prompt_text(pieces: Pieces, turns: Sequence[Turn]) -> str:
    """The prompt that Ollama makes of ``modelfile``'s template; it puts the default system message first where there is none.

    Args:
        pieces: of the template.
        turns: a conversation before its answer.

    Returns:
        Text, control tokens included.
    """
    given = list(turns)
    if pieces.default_system is not None and not any(turn["role"] == "system" for turn in given):
        given.insert(0, {"role": "system", "content": pieces.default_system})
    return "".join(f"{pieces.before[turn['role']]}{turn['content']}{pieces.after}" for turn in given) + pieces.answer


def modelfile(
    pieces: Pieces, *, weights: str, system: str | None, stops: Sequence[str], max_new_tokens: int, context: int, licence: str | None
) -> str:
    """The text of a ``Modelfile``.

    Args:
        pieces: of the chat template.
        weights: name of the GGUF file beside it.
        system: the run's system message; None for the template's own, an empty one for none.
        stops: texts of the stop tokens.
        max_new_tokens: longest answer.
        context: tokens of prompt and answer together.
        licence: of the base model.

    Returns:
        Lines for ``ollama create``.
    """
    branches = [
        f'{"if" if i == 0 else "else if"} eq .Role "{role}" }}}}{_plain(text)}{{{{ .Content }}}}{_plain(pieces.after)}{{{{ '
        for i, (role, text) in enumerate(pieces.before.items())
    ]
    template = "{{ range .Messages }}{{ " + "".join(branches) + "end }}{{ end }}" + _plain(pieces.answer)
    spoken = pieces.default_system if system is None else system
    lines = [f"FROM ./{weights}", f'TEMPLATE """{template}"""']
    if spoken:
        if '"""' in spoken:
            raise ExportError("the system message holds three quotes in a row, which a Modelfile cannot", where="data.system")
        lines.append(f'SYSTEM """{spoken}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1", f"PARAMETER num_predict {max_new_tokens}"]
    lines.append(f"PARAMETER num_ctx {context}")
    if licence is not None:
        lines.append(f"LICENSE {licence}")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text as Go's templates take it."""
    return text.replace("{{", '{{ "{{" }}')


def _refusal() -> ExportError:
    return ExportError(
        "this chat template does not write each turn by itself, as Ollama's templates do",
        hint="export `kind: gguf` instead: the file holds the template as it is",
    )
