"""A recipe file as plain values, and for every key the place where it was written.

YAML gives values without lines; an error needs the line. So the file is composed into nodes first: duplicate keys are found there,
and the line of every key is kept beside the values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from weitiao.errors import RecipeError

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the root: ``("export", 0, "kind")``."""

Line = int


@dataclass(frozen=True)
class Document:
    """Values as the YAML file has them, and where each key stands."""

    path: Path
    values: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)
    """``file:line`` of a key, or ``override a.b=c``; a key without an entry stands where its nearest ancestor stands."""

    def place(self, keys: KeyPath) -> str:
        """Where a key, or its nearest ancestor that was written down, stands."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.places:
                return self.places[keys[:end]]
        return str(self.path)


def dotted(keys: KeyPath) -> str:
    """A key path as overrides write it: ``export.0.kind``."""
    return ".".join(str(key) for key in keys)


def read_document(path: Path) -> Document:
    """Read a recipe file.

    Args:
        path: a YAML file in UTF-8.

    Returns:
        Its values, which are a mapping, with the line of every key.

    Raises:
        RecipeError: the file cannot be read, is not YAML, is empty, is not a mapping, has a key twice, or a date that is none.
    """
    text = _read_text(path)
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise RecipeError("the file is empty", where=str(path), hint="`weitiao init DATA` writes a recipe to start from")
        _refuse_duplicates(node, path, ())
        values = _constructed(loader, node, path)
    except yaml.YAMLError as error:
        raise _not_yaml(error, path, text) from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise RecipeError(
            f"a recipe is a mapping of keys to values, and this file holds {_noun(values)}",
            where=f"{path}:{node.start_mark.line + 1}",
            hint="it starts like this:  task: {kind: classification}",
        )
    places: dict[KeyPath, str] = {}
    _note_places(node, path, (), places)
    return Document(path, values, places)


def _constructed(loader: yaml.SafeLoader, node: yaml.Node, path: Path) -> Any:
    try:
        return loader.construct_document(node)
    except ValueError as error:
        bad = next((scalar for scalar in _scalars(node) if not _is_value(scalar.value)), None)
        where = f"{path}:{bad.start_mark.line + 1}" if bad is not None else str(path)
        shown = f"`{bad.value[:40]}`" if bad is not None else "a value"
        raise RecipeError(f"{shown} looks like a date or a number and is none ({error})", where=where, hint="put it in quotes") from error


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """The values, and keys, that are written without quotes."""
    if isinstance(node, yaml.ScalarNode) and node.style is None:
        yield node
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from (scalar for part in pair for scalar in _scalars(part))
    elif isinstance(node, yaml.SequenceNode):
        yield from (scalar for item in node.value for scalar in _scalars(item))


def _is_value(text: str) -> bool:
    """Whether a text without quotes is a value: ``2024-30-01`` has the form of a date and is none."""
    try:
        yaml.safe_load(text)
    except ValueError:
        return False
    except yaml.YAMLError:
        pass
    return True


def _read_text(path: Path) -> str:
    if path.is_dir():
        hint = f"the recipe of a run folder is {path / 'recipe.yaml'}" if (path / "recipe.yaml").exists() else "name the YAML file itself"
        raise RecipeError("this is a folder, not a recipe", where=str(path), hint=hint)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError("no such recipe", where=str(path), hint=_recipes_nearby(path)) from None
    except UnicodeDecodeError as error:
        raise RecipeError("the file is not text in UTF-8", where=str(path), hint="save it as UTF-8") from error
    except OSError as error:
        raise RecipeError(f"the file cannot be read ({error.strerror})", where=str(path)) from error


def _recipes_nearby(path: Path) -> str:
    folders = [path.parent, Path("recipes")]
    found = sorted({str(file) for folder in folders if folder.is_dir() for file in folder.glob("*.yaml")})[:12]
    return f"recipes here: {', '.join(found)}" if found else "`weitiao init DATA` writes a recipe"


def _not_yaml(error: yaml.YAMLError, path: Path, text: str) -> RecipeError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
    if mark is None:
        return RecipeError(f"this is not YAML: {problem}", where=str(path))
    where = f"{path}:{mark.line + 1}"
    lines = text.splitlines()
    if mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
        return RecipeError("a tab stands where YAML wants blanks", where=where, hint="indent with two blanks")
    return RecipeError(
        f"this is not YAML: {problem} (column {mark.column + 1})",
        where=where,
        hint="look for a missing colon, bracket or quote in this line or the one before it",
    )


def _refuse_duplicates(node: yaml.Node, path: Path, ancestors: tuple[int, ...]) -> None:
    if id(node) in ancestors:
        raise RecipeError("a YAML alias refers to what it stands in", where=f"{path}:{node.start_mark.line + 1}")
    inside = (*ancestors, id(node))
    if isinstance(node, yaml.MappingNode):
        first_lines: dict[str, Line] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in first_lines:
                    raise RecipeError(
                        f"the key `{key.value}` stands twice, first in line {first_lines[key.value]}",
                        where=f"{path}:{line}",
                        hint="keep one of the two",
                    )
                first_lines[key.value] = line
            _refuse_duplicates(value, path, inside)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, path, inside)


def _note_places(node: yaml.Node, path: Path, keys: KeyPath, places: dict[KeyPath, str]) -> None:
    # After construction merge keys (`<<`) are resolved in the nodes, so that merged keys have places too.
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*keys, str(key.value))
            places[inner] = f"{path}:{key.start_mark.line + 1}"
            _note_places(value, path, inner, places)
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            inner = (*keys, position)
            places[inner] = f"{path}:{item.start_mark.line + 1}"
            _note_places(item, path, inner, places)


def _noun(value: object) -> str:
    return "a list" if isinstance(value, list) else "a single value"
