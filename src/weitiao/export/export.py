"""The door of the room: which artifacts are made, and that each folder appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from weitiao.errors import ExportError
from weitiao.export.adapter import write_adapter
from weitiao.export.card import write_card
from weitiao.export.converted import write_gguf_folder, write_ollama_folder, write_openvino_folder
from weitiao.export.merged import write_merged
from weitiao.log import logger
from weitiao.recipe.sections import Export
from weitiao.seams import Artifact, Sample

Maker = Callable[[Path, Export, Path, Path, Sequence[Sample]], dict[str, object]]
"""Checkpoint, settings, run folder, folder to fill, held-out samples; gives what the check showed, raises when it fails."""


def export_checkpoint(checkpoint: Path, exports: Sequence[Export], run_path: Path, samples: Sequence[Sample]) -> tuple[Artifact, ...]:
    """Make the artifacts that a recipe asks for, each in a folder of its kind's name below the run.

    Args:
        checkpoint: ``RUN/best``: an adapter or whole weights, with ``weitiao.json``.
        exports: what to make.
        run_path: the run folder; its ``scores.json``, ``data.json`` and ``recipe.yaml``, where present, go into the model card.
        samples: held-out rows; a few of them are answered by both models to compare them.

    Returns:
        One artifact per export, in order. An older folder of the same kind is replaced.

    Raises:
        ExportError: an artifact cannot be made, or answers otherwise than the checkpoint; its folder is not left behind.
        ModelError: the checkpoint or its base cannot be read.
    """
    return tuple(_make(checkpoint, export, run_path, samples) for export in exports)


def _make(checkpoint: Path, export: Export, run_path: Path, samples: Sequence[Sample]) -> Artifact:
    folder = run_path / export.kind
    partial = folder.with_name(f"{export.kind}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    logger.info("exporting: %s", folder)
    try:
        check = MAKERS[export.kind](checkpoint, export, run_path, partial, samples)
        write_card(partial, checkpoint, run_path, kind=export.kind, check=check)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise ExportError(f"the folder cannot be written: {error.strerror or error}", where=str(folder)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Artifact(export.kind, folder, size_bytes, check)


def _make_adapter(checkpoint: Path, _export: Export, _run_path: Path, folder: Path, samples: Sequence[Sample]) -> dict[str, object]:
    return write_adapter(checkpoint, folder, samples)


def _make_merged(checkpoint: Path, export: Export, _run_path: Path, folder: Path, samples: Sequence[Sample]) -> dict[str, object]:
    assert export.kind == "merged"
    return write_merged(checkpoint, folder, export.dtype, samples)


def _make_gguf(checkpoint: Path, export: Export, run_path: Path, folder: Path, samples: Sequence[Sample]) -> dict[str, object]:
    assert export.kind == "gguf"
    return write_gguf_folder(checkpoint, folder, export.dtype, samples, run_path.resolve().name)


def _make_ollama(checkpoint: Path, export: Export, run_path: Path, folder: Path, samples: Sequence[Sample]) -> dict[str, object]:
    assert export.kind == "ollama"
    return write_ollama_folder(checkpoint, folder, export.dtype, samples, run_path, run_path.resolve().name)


def _make_openvino(checkpoint: Path, export: Export, _run_path: Path, folder: Path, samples: Sequence[Sample]) -> dict[str, object]:
    assert export.kind == "openvino"
    return write_openvino_folder(checkpoint, folder, export.dtype, samples)


MAKERS: dict[str, Maker] = {
    "adapter": _make_adapter,
    "merged": _make_merged,
    "gguf": _make_gguf,
    "ollama": _make_ollama,
    "openvino": _make_openvino,
}
