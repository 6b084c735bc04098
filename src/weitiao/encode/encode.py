"""The door's main function: samples in, encoded rows out, from the cache where the same rows were encoded before.

A set of rows is known by what goes in: the samples themselves, everything that the renderer's tokens depend on, the length limit, and
the code that makes tokens. So an edited template, prompt, row, setting or source file never meets rows of before.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from importlib.resources.abc import Traversable
from typing import Any

from weitiao import __version__
from weitiao.cache import build_once, cache_folder, keep_newest, mark_used
from weitiao.encode.lengths import length_findings
from weitiao.encode.rows import read_facts, write_rows
from weitiao.encode.store import StoredRows
from weitiao.errors import Problems, RowError
from weitiao.log import logger, progress
from weitiao.recipe.sections import Encode
from weitiao.seams import EncodedSet, Part, Renderer, Sample, SampleSet

CACHE_BYTES = 20_000_000_000
"""What encoded rows may take in the cache; beyond it those go that were used longest ago."""
LEAST_FREE_BYTES = 100_000_000
"""Free space below which encoding is not begun."""
ROOMS = ("chat", "encode", "tasks")
"""Source folders whose code decides about tokens."""
LIBRARIES = ("jinja2", "tokenizers", "transformers")


def encode_samples(samples: SampleSet, renderer: Renderer, section: Encode, *, allow_dropped: float = 0.01) -> EncodedSet:
    """Turn the training part into labelled rows, which lie in files of the cache.

    Args:
        samples: each with an answer; a sample that is one assistant message is a document, cut into rows of ``max_tokens``.
        renderer: makes the tokens.
        section: the recipe's ``encode``.
        allow_dropped: share of training samples that may fail to fit, in [0, 1].

    Returns:
        The rows, read when they are asked for; what was shortened and what was dropped; and the prompt limit of the run.

    Raises:
        Problems: more than ``allow_dropped`` of the training samples cannot be encoded, or none is left.
        CacheError: the cache folder is full or cannot be written to.
    """
    parent = cache_folder("encoded")
    folder = parent / encoding_key(samples, renderer, section)
    was_there = folder.is_dir()
    build_once(folder, lambda partial: write_rows(samples.train, renderer, section.max_tokens, partial), needs_bytes=LEAST_FREE_BYTES)
    mark_used(folder)
    facts, rows = read_facts(folder), StoredRows(folder)
    if was_there:
        logger.info("encoded rows: from the cache (%s)", folder)
    else:
        keep_newest(parent, CACHE_BYTES, keep=folder)
    _refuse_too_many(facts, len(samples.train), allow_dropped)
    lengths = array("q", rows.lengths.tobytes())
    return EncodedSet(
        rows,
        sum(lengths),
        facts["n_supervised_tokens"],
        facts["n_shortened"],
        facts["dropped"],
        lengths,
        facts["max_prompt_tokens"],
        length_findings(facts, len(samples.train), section.max_tokens),
        facts["lengths"],
        facts["image_tokens"],
    )


def encoding_key(samples: SampleSet, renderer: Renderer, section: Encode) -> str:
    """Name of a set of rows in the cache.

    Args:
        samples: its training part is read once.
        renderer: whose fingerprint covers tokenizer, template, thinking mode and the end that is kept.
        section: of which ``max_tokens`` decides about single rows.

    Returns:
        40 hexadecimal digits.
    """
    code = code_version(resources.files("weitiao"))
    parts = [code, renderer.fingerprint, section.max_tokens, samples.report.fingerprint, _samples_hash(samples.train)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def _samples_hash(samples: Sequence[Sample]) -> str:
    """Of everything that rendering sees and errors name. What images hold, the data report's fingerprint covers."""
    digest = hashlib.sha256()
    with progress("looking for encoded rows", len(samples)) as advance:
        for sample in samples:
            turns = [[message.role, *map(_part_values, message.parts)] for message in sample.messages]
            digest.update(json.dumps([sample.id, sample.origin, turns]).encode())
            advance(1)
    return digest.hexdigest()


def _part_values(part: Part) -> tuple[str, str, str, bool]:
    return part.kind, part.text, str(part.image or ""), part.shortenable


def code_version(package: Traversable) -> str:
    """Hash of this package's version, of its sources that decide about tokens, and of the versions of the libraries they call.

    Args:
        package: the package's folder.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256("\0".join([__version__, *map(version, LIBRARIES)]).encode())
    for room in ROOMS:
        for name, content in _sources(package / room):
            digest.update(f"\0{room}{name}\0".encode() + content)
    return digest.hexdigest()


def _sources(folder: Traversable, above: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{above}/{entry.name}"
        if entry.is_dir():
            yield from _sources(entry, name)
        elif entry.name.endswith((".py", ".jinja")):
            yield name, entry.read_bytes()


def _refuse_too_many(facts: Mapping[str, Any], n_samples: int, allow_dropped: float) -> None:
    n_dropped = facts["n_dropped"]
    if n_dropped < n_samples and n_dropped <= allow_dropped * n_samples:
        return
    shown = [RowError(what, where=where, hint=hint) for what, where, hint in facts["examples"]]
    raise Problems(
        list(shown),
        what=f"{n_dropped} of {n_samples} training rows do not fit into encode.max_tokens"
        + (f"; the first {len(shown)}:" if n_dropped > len(shown) else ":"),
    )
