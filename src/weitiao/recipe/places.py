"""Relative paths in a recipe become absolute while it is read, so that the run folder's copy works from anywhere.

In a file they start at the file's folder, then at the working folder; in an override, which is typed in the working folder, the other
way round. A path that exists in neither is taken to be in the first, for the error that names it later.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from weitiao.errors import RecipeError
from weitiao.recipe.document import Document, KeyPath

PREFIXES = ("hub:", "bundled:")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
GLOB_CHARACTERS = frozenset("*?[")
SOURCE_KEYS = ("train", "valid", "test")


def with_absolute_paths(document: Document) -> Document:
    """Make the paths of data and model absolute; hub ids and ``bundled:`` names stay as they are.

    Args:
        document: its ``values`` are changed in place; they belong to the caller alone.

    Returns:
        The same document.

    Raises:
        RecipeError: a path begins with ``~NAME``, and there is no such user.
    """
    data = document.values.get("data")
    for name in SOURCE_KEYS:
        source = data.get(name) if isinstance(data, dict) else None
        if isinstance(source, dict):
            _make_absolute(source, ("data", name, "path"), document)
        elif isinstance(source, list):
            for position, item in enumerate(source):
                _make_absolute(item, ("data", name, position, "path"), document)
    _make_absolute(document.values.get("model"), ("model", "path"), document)
    return document


def _make_absolute(section: Any, keys: KeyPath, document: Document) -> None:
    if isinstance(section, dict) and isinstance(section.get("path"), str) and section["path"]:
        bases = [document.path.resolve().parent, Path.cwd()]
        if document.place(keys).startswith("override "):
            bases.reverse()
        try:
            path = Path(section["path"]).expanduser()
        except RuntimeError:
            hint = "a path that begins with ~NAME is in that user's home folder; write the whole path"
            raise RecipeError(f"`{section['path']}`: there is no such user", where=document.place(keys), hint=hint) from None
        section["path"] = _absolute(section["path"], path, bases, may_be_hub_id=keys[0] == "model")


def _absolute(written: str, path: Path, bases: list[Path], *, may_be_hub_id: bool) -> str:
    if written.startswith(PREFIXES):
        return written
    if path.is_absolute():
        return str(path)
    for base in bases:
        if _exists(base, path):
            return str(_joined(base, path))
    if may_be_hub_id and HUB_ID.fullmatch(written) and path.suffix != ".gguf":
        return written
    return str(_joined(bases[0], path))


def _exists(base: Path, path: Path) -> bool:
    if (base / path).exists():
        return True
    try:
        return not GLOB_CHARACTERS.isdisjoint(str(path)) and next(base.glob(str(path)), None) is not None
    except ValueError:  # no pattern, such as `**.csv`: reading the data says so
        return False


def _joined(base: Path, path: Path) -> Path:
    # normpath would follow `..` through links wrongly; resolving the folder keeps a linked file's own name.
    whole = base / path
    return whole.parent.resolve() / whole.name if whole.name not in ("", "..") else whole.resolve()
