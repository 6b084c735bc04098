"""Where weights come from: a folder, a run, a ``.gguf`` file, a bundled model or a hub id in; an ordinary Hugging Face folder out."""

from __future__ import annotations

from pathlib import Path

from weitiao.errors import CommandError, ModelError
from weitiao.model.bundled import PREFIX, resolve_bundled
from weitiao.model.gguf import resolve_gguf


def resolve_weights(path: str, revision: str | None = None) -> Path:
    """Return the folder of a model: ``config.json``, ``*.safetensors``, tokenizer, chat template, generation config.

    Args:
        path: a folder, a run folder (its ``best/`` is meant), a ``.gguf`` file, ``bundled:NAME``, or a hub id ``OWNER/NAME``.
        revision: branch, tag or commit of a hub id.

    Returns:
        A folder that exists.

    Raises:
        CommandError: ``path`` names nothing, or ``revision`` is given for something that has none.
        ModelError: the weights cannot be fetched, checked or used.
    """
    place = Path(path).expanduser()
    if path.startswith(PREFIX):
        return resolve_bundled(path.removeprefix(PREFIX))
    if place.is_file() and place.suffix.lower() == ".gguf":
        return resolve_gguf(place)
    if place.is_dir():
        return place
    raise CommandError("x", where=path)


def list_models() -> list:
    return []
