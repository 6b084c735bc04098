"""Exports for other engines, made from the merged weights: GGUF for llama.cpp, a GGUF with its Modelfile for Ollama, OpenVINO's format."""

from __future__ import annotations

import gc
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from weitiao.cache import cache_root
from weitiao.chat import chat_template, make_renderer
from weitiao.errors import ExportError
from weitiao.export.card import base_licence
from weitiao.export.check import (
    N_CHECKED,
    N_CHECKED_BY_TOKENS,
    Answers,
    CheckPrompt,
    answer_here,
    answer_openvino,
    answer_there,
    check_prompts,
    compare,
    compare_prompts,
    compare_tokens,
)
from weitiao.export.gguf import GgufFacts, write_gguf
from weitiao.export.merged import check_room, merged_network
from weitiao.export.ollama import modelfile, prompt_text, template_pieces
from weitiao.model import CheckpointFacts, load_checkpoint, read_facts
from weitiao.recipe.sections import Chat, Evaluate
from weitiao.seams import Renderer, Sample, text_message

OPENVINO_PACKAGES = ("optimum-intel[openvino]==2.2.0", "openvino-genai")
OPENVINO_WEIGHTS = {"float32": "fp32", "float16": "fp16", "int8": "int8"}


@dataclass(frozen=True, slots=True)
class Source:
    """The run's model in memory, what it answers, and how its prompts look."""

    network: Any
    """Merged, float32."""
    processor: Any
    template: str
    facts: CheckpointFacts
    renderer: Renderer
    prompts: list[CheckPrompt]
    expected: Answers


def write_gguf_folder(checkpoint: Path, folder: Path, kind: str, samples: Sequence[Sample], run_name: str) -> dict[str, object]:
    """Write ``NAME-KIND.gguf`` and prove that it answers as the checkpoint does.

    Args:
        checkpoint: an adapter or whole weights, with ``weitiao.json``.
        folder: made; must not exist.
        kind: ``f16`` or ``q8_0``.
        samples: held-out rows for the comparison.
        run_name: becomes the file's name.

    Returns:
        What the comparison showed; see ``check.compare``.

    Raises:
        ExportError: the model does not fit into the format, or the file answers otherwise than the checkpoint.
    """
    source = _source(checkpoint, samples)
    file = folder / f"{_slug(run_name)}-{kind}.gguf"
    return _write_checked(source, checkpoint, file, kind, run_name)


def write_ollama_folder(
    checkpoint: Path, folder: Path, kind: str, samples: Sequence[Sample], run_path: Path, run_name: str
) -> dict[str, object]:
    """Write ``Modelfile`` and the GGUF beside it, for ``ollama create NAME -f Modelfile``.

    Args:
        checkpoint: an adapter or whole weights, with ``weitiao.json``.
        folder: made; must not exist.
        kind: ``f16`` or ``q8_0``.
        samples: held-out rows for the comparison; the Modelfile's template must give their prompts to the letter.
        run_path: the run folder; its recipe says how long answers are.
        run_name: for the file's metadata.

    Returns:
        What the comparison showed; see ``check.compare``.

    Raises:
        ExportError: Ollama's templates cannot say what the run's says, or as for GGUF.
    """
    source = _source(checkpoint, samples)
    text, facts = source.renderer.text, source.facts

    def render(turns: Sequence[Any]) -> str:
        return text(source.renderer.prompt([text_message(turn["role"], turn["content"]) for turn in turns]).input_ids)

    stops = [text([token]) for token in source.renderer.stop_token_ids]
    pieces = template_pieces(render, stops[0])
    for prompt in source.prompts:
        if prompt.messages is not None and prompt_text(pieces, prompt.messages) != text(prompt.token_ids):
            raise ExportError("Ollama's template gives another prompt than training used", where=prompt.sample.origin)
    n_new = _max_new_tokens(run_path)
    content = modelfile(
        pieces,
        weights=f"model-{kind}.gguf",
        system=facts.system,
        stops=stops,
        max_new_tokens=n_new,
        context=facts.max_prompt_tokens + n_new,
        licence=base_licence(facts),
    )
    check = _write_checked(source, checkpoint, folder / f"model-{kind}.gguf", kind, run_name)
    (folder / "Modelfile").write_text(content, encoding="utf-8")
    return check


def write_openvino_folder(checkpoint: Path, folder: Path, dtype: str, samples: Sequence[Sample]) -> dict[str, object]:
    """Convert the merged weights with optimum-intel, which lives in an environment of its own, and prove that they answer alike.

    Args:
        checkpoint: an adapter or whole weights, with ``weitiao.json``.
        folder: made; must not exist.
        dtype: a key of ``OPENVINO_WEIGHTS``.
        samples: held-out rows for the comparison.

    Returns:
        What the comparison showed; see ``check.compare_tokens``.

    Raises:
        ExportError: optimum-intel is not there or fails, or the folder renders, ends or answers otherwise than the checkpoint.
    """
    environment = openvino_environment()
    source = _source(checkpoint, samples, N_CHECKED_BY_TOKENS)
    merged = folder.with_name(f"{folder.name}.merged")
    shutil.rmtree(merged, ignore_errors=True)
    try:
        check_room(source.network, torch.float32, folder.parent)
        source.network.save_pretrained(merged)
        source.processor.chat_template = source.template
        source.processor.save_pretrained(merged)
        prompts, expected, stop_ids = source.prompts, source.expected, source.network.generation_config.eos_token_id
        texts = [source.renderer.text(prompt.token_ids) for prompt in prompts]
        del source
        gc.collect()  # The converter needs the memory.
        words = ["export", "openvino", "--model", merged, "--task", "text-generation-with-past"]
        command = [environment / "optimum-cli", *words, "--weight-format", OPENVINO_WEIGHTS[dtype], folder]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ExportError("optimum-intel failed", where=str(folder), hint="\n".join(done.stderr.strip().splitlines()[-5:]))
    finally:
        shutil.rmtree(merged, ignore_errors=True)
    found = answer_openvino(environment / "python", folder, prompts)
    compare_prompts(texts, stop_ids, found, folder, prompts)
    return compare_tokens(expected, found.tokens, dtype, folder, prompts)


def openvino_environment() -> Path:
    """The folder of programs of the environment that holds optimum-intel and openvino-genai.

    Returns:
        ``bin`` of the environment in the cache folder.

    Raises:
        ExportError: it is not there; says how to make it.
    """
    place = cache_root() / "engines" / "openvino"
    if not (place / "bin" / "optimum-cli").exists():
        packages = " ".join(f'"{name}"' for name in OPENVINO_PACKAGES)
        raise ExportError(
            "optimum-intel is not installed; it needs an older transformers, so it gets an environment of its own (1.6 GB)",
            where=str(place),
            hint=f"python3 -m venv {place}\n{place}/bin/pip install {packages}",
        )
    return place / "bin"


def _source(checkpoint: Path, samples: Sequence[Sample], n_checked: int = N_CHECKED) -> Source:
    facts = read_facts(checkpoint)
    tuned = load_checkpoint(checkpoint, device="cpu", dtype=torch.float32)
    if tuned.is_vision:
        raise ExportError("vision models are exported as `merged` or `adapter` only", where=str(checkpoint), hint="export `kind: merged`")
    section = Chat(**facts.chat)
    renderer = make_renderer(tuned.processor, section)
    prompts = check_prompts(renderer, samples, facts.max_prompt_tokens, n_checked)
    expected = answer_here(tuned.network, prompts)
    template = chat_template(tuned.processor, section.enable_thinking)
    return Source(merged_network(tuned), tuned.processor, template, facts, renderer, prompts, expected)


def _write_checked(source: Source, checkpoint: Path, file: Path, kind: str, name: str) -> dict[str, object]:
    check_room(source.network, torch.float16, file.parent.parent)
    file.parent.mkdir()
    about = GgufFacts(
        name=name,
        licence=base_licence(source.facts),
        base=source.facts.base,
        chat_template=source.template,
        stop_token_ids=tuple(source.renderer.stop_token_ids),
        pad_token_id=source.renderer.pad_token_id,
    )
    write_gguf(source.network, source.processor, about, kind, file)
    return compare(source.expected, answer_there(file, source.prompts, tokenizer=checkpoint), kind, file, source.prompts)


def _max_new_tokens(run_path: Path) -> int:
    recipe = run_path / "recipe.yaml"
    content = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.exists() else {}
    return Evaluate(**(content.get("evaluate") or {})).max_new_tokens


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "model"
