"""Where weights come from: a folder, a run, a ``.gguf`` file, a bundled model or a hub id in; an ordinary Hugging Face folder out."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from weitiao.errors import CommandError, ModelError
from weitiao.model.bundled import BUNDLES, PREFIX, SHIPPED, bundled_folder, resolve_bundled
from weitiao.model.folder import count_stored, lacks
from weitiao.model.gguf import resolve_gguf
from weitiao.model.hub import HUB_ID, resolve_hub


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that can be named in a recipe."""

    name: str
    """What ``model.path`` takes."""
    kind: Literal["bundled", "huggingface", "modelscope"]
    path: Path | None
    """Where it lies on this machine; None where it must be fetched first."""
    size_bytes: int
    """Of the weights on disk, or of what is fetched."""
    licence: str
    """Empty where nothing on this machine says it."""
    parameters: int


def resolve_weights(path: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """Return the folder of a model: ``config.json``, ``*.safetensors``, tokenizer, chat template, generation config.

    Args:
        path: a folder, a run folder (its ``best/`` is meant), a ``.gguf`` file, ``bundled:NAME``, or a hub id ``OWNER/NAME``.
        revision: branch, tag or commit of a hub id.
        weights: whether the safetensors are needed; without, a folder may lack them and a hub is asked for the small files only.

    Returns:
        A folder that exists. A run's ``best/`` may hold an adapter instead of weights.

    Raises:
        CommandError: ``path`` names nothing, or ``revision`` is given for something that has none.
        ModelError: the weights cannot be fetched, checked or used.
    """
    place = Path(path).expanduser()
    is_local = path.startswith(PREFIX) or place.exists()
    if revision is not None and is_local:
        raise CommandError("only models of a hub have revisions", where=path, hint="leave out model.revision")
    if path.startswith(PREFIX):
        return _checked(resolve_bundled(path.removeprefix(PREFIX)), path, weights=weights)
    if place.is_file() and place.suffix.lower() == ".gguf":
        return resolve_gguf(place)
    if (place / "best").is_dir():
        return place / "best"
    if place.is_dir():
        return _checked(place, path, weights=weights)
    if not place.exists() and HUB_ID.fullmatch(path):
        return _checked(resolve_hub(path, revision, weights=weights), path, weights=weights)
    raise CommandError(
        "this is no model",
        where=path,
        hint="it may be a folder with config.json and safetensors, a run folder, a .gguf file,\n"
        f"a hub id OWNER/NAME, or one of: {', '.join(PREFIX + name for name in (*BUNDLES, *SHIPPED))}",
    )


def _checked(folder: Path, name: str, *, weights: bool) -> Path:
    problem = lacks(folder, weights=weights)
    if problem is not None:
        raise ModelError(
            f"this folder is no model that can be loaded: {problem}",
            where=str(folder) if name == str(folder) else f"{name} ({folder})",
            hint="a model needs config.json, *.safetensors and its tokenizer's files",
        )
    return folder


def list_models() -> list[ModelInfo]:
    """List the bundled models, fetched or not, and what lies in the caches of Hugging Face and ModelScope.

    Returns:
        Bundled models first, then by name. Cached repositories without safetensors are left out.
    """
    models = []
    for name, bundle in BUNDLES.items():
        folder = bundled_folder(name)
        there = folder.is_dir()
        size_bytes = count_stored(folder)[1] if there else sum(wheel.size_bytes for wheel in bundle.wheels)
        models.append(ModelInfo(PREFIX + name, "bundled", folder if there else None, size_bytes, bundle.licence, bundle.parameters))
    for name, shipped in SHIPPED.items():
        folder = bundled_folder(name)
        models.append(ModelInfo(PREFIX + name, "bundled", folder, count_stored(folder)[1], shipped.licence, shipped.parameters))
    cached = [*_in_huggingface_cache(), *_in_modelscope_cache()]
    return models + sorted(cached, key=lambda model: (model.name.lower(), model.kind))


def _in_huggingface_cache() -> Iterator[ModelInfo]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repo in repos:
        newest = max(repo.revisions, key=lambda revision: revision.last_modified, default=None)
        if repo.repo_type == "model" and newest is not None and lacks(newest.snapshot_path) is None:
            yield _info(repo.repo_id, "huggingface", newest.snapshot_path)


def _in_modelscope_cache() -> Iterator[ModelInfo]:
    if importlib.util.find_spec("modelscope_hub") is None:
        return
    from modelscope_hub import HubApi

    for repo in HubApi().scan_cache().repos:
        folder = Path(repo.local_path or "")
        snapshots = [place for place in (folder, *sorted(folder.glob("snapshots/*"))) if lacks(place) is None]
        if str(repo.repo_type).endswith("model") and snapshots:
            yield _info(repo.repo_id, "modelscope", snapshots[0])


def _info(name: str, kind: Literal["huggingface", "modelscope"], folder: Path) -> ModelInfo:
    n_parameters, n_bytes = count_stored(folder)
    return ModelInfo(name, kind, folder, n_bytes, "", n_parameters)
