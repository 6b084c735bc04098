"""Write docs/cli.md from ``--help`` and docs/recipe.md from the strings under the recipe's fields; ``--check`` only compares."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.main import get_command
from typer.testing import CliRunner

from weitiao.cli import app
from weitiao.recipe import Recipe, Setting, all_settings
from weitiao.recipe.known import kind_of, sections_at

DOCS = Path(__file__).parent
WIDTH = 100


def cli_page() -> str:
    """``docs/cli.md``: the help of every verb, as the command prints it."""
    parts = [
        "# The command line\n",
        "Made by `make docs` from `weitiao VERB --help`. Results for programs go to files or, with `--json`, to stdout as one JSON",
        "object; everything for people goes to stderr. Exit codes: 0 done, 1 failed, 2 the recipe, the data or the command is wrong,",
        "130 interrupted.\n",
    ]
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    verbs: list[list[str]] = [[]]
    for name, command in commands.items():
        verbs.extend([[name, inner] for inner in command.commands] if hasattr(command, "commands") else [[name]])
    for words in verbs:
        shown = CliRunner().invoke(app, [*words, "--help"], prog_name="weitiao", env={"COLUMNS": str(WIDTH)}, catch_exceptions=False)
        parts.append(f"## weitiao {' '.join(words)}\n".replace(" \n", "\n"))
        parts.append(f"```\n{shown.output.strip()}\n```\n")
    return "\n".join(parts)


def recipe_page() -> str:
    """``docs/recipe.md``: every setting with its values, default and meaning."""
    parts = [
        "# The recipe\n",
        "Made by `make docs` from `src/weitiao/recipe/`. One YAML file, valid for every verb; unknown keys are errors, and so is a setting",
        "that would have no effect. On the command line `a.b=c` replaces a setting: `weitiao run recipe.yaml train.learning_rate=2e-4`.\n",
    ]
    section = ""
    for setting in all_settings():
        parent = setting.name.partition(".")[0]
        if parent != section:
            section = parent
            parts.append(f"\n## {section}\n")
            annotation = Recipe.model_fields[section].annotation
            if isinstance(annotation, type):
                parts.append(f"{annotation.__doc__}\n")
        parts.append(f"- `{setting.name}`: {_values(setting)}  \n  {_help(setting)}".rstrip())
    return "\n".join(parts) + "\n"


def _values(setting: Setting) -> str:
    """What a setting may be, and is where it is not written; where its kinds differ in that, one after the other."""
    if setting.kinds:
        default = ", required" if setting.info.is_required() else f", default `{setting.kinds[0]}`"
        return " | ".join(f"`{kind}`" for kind in setting.kinds) + default
    if not setting.owners:
        return f"`{_words(setting.info.annotation)}`{_default(setting.info)}"
    *place, name = setting.name.split(".")
    sections = {kind_of(section): section for section in sections_at(tuple(place), {})}
    kinds_of: dict[str, list[str]] = {}
    for kind in setting.owners:
        info = sections[kind].model_fields[name]
        kinds_of.setdefault(f"`{_words(info.annotation)}`{_default(info)}", []).append(kind)
    return "; ".join(f"{words} (kind `{'`, `'.join(kinds)}`)" for words, kinds in kinds_of.items())


def _words(annotation: Any) -> str:
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " | ".join(str(each) for each in arguments)
    if get_origin(annotation) is Annotated:
        return _words(arguments[0])
    if get_origin(annotation) is list:
        return f"list of {_words(arguments[0])}"
    if get_origin(annotation) is dict:
        return f"mapping of {_words(arguments[0]) if arguments[0] is str else 'field'} to {_words(arguments[1])}"
    if arguments:
        return " | ".join(_words(each) for each in arguments if each is not type(None))
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true | false"}.get(annotation.__name__, annotation.__name__)


def _default(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return ", required"
    if default is None or default in ({}, []):
        return ""
    return f", default `{str(default).lower() if isinstance(default, bool) else default}`"


def _help(setting: Setting) -> str:
    return (setting.info.description or "").replace("``", "`").replace("\n", " ")


PAGES: dict[str, Callable[[], str]] = {"cli.md": cli_page, "recipe.md": recipe_page}


def main() -> None:
    """Write the pages, or with ``--check`` fail where one is not current."""
    os.environ["COLUMNS"] = str(WIDTH)
    stale = []
    for name, page in PAGES.items():
        text, path = page(), DOCS / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(f"docs/{name}")
    if stale:
        sys.exit(f"not current: {', '.join(stale)}; `make docs` writes them anew")


if __name__ == "__main__":
    main()
