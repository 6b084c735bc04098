"""Whether an exported folder answers as the model that was scored, found out by answering the same prompts with both.

The folder is read by plain transformers, an adapter by plain PEFT, in a fresh process (``reload.py``), which renders the prompts with
the folder's own chat template. Both decode greedily in float32; logits are compared at every step up to the first token that differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, cat

from weitiao.errors import ExportError
from weitiao.seams import Message, Renderer, Sample

N_CHECKED = 4
"""Most prompts that are answered where logits are compared."""
N_CHECKED_BY_TOKENS = 16
"""Most prompts where an engine shows its tokens only, which tell less."""
MEAN_TOKENS = 128
"""Tokens of a prompt, about; longer ones are fewer, so that the comparison takes seconds on a small model."""
N_NEW = 24
"""Tokens of each answer."""
DOCUMENT_TOKENS = 64
"""Tokens of a document's beginning, which stand for the prompt where there is none."""

TOLERANCES: dict[str, float] = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2, "f16": 1e-2, "q8_0": 2e-1}
"""Largest difference of logits allowed, by the dtype of the files: 2-norm over the vocabulary, relative to that of the logits less their
mean. float32 differs by the order of additions; 16-bit files by rounding each weight (2^-11 or 2^-8 of it) in every layer; Q8_0
by rounding each to 1/127 of the largest of its block of 32."""

TOKEN_TOLERANCES: dict[str, float] = {"float32": 0.95, "float16": 0.8, "int8": 0.5}
"""Smallest share of greedy tokens that must agree where an engine shows no logits: after the first near tie the rest may differ."""


@dataclass(frozen=True, slots=True)
class CheckPrompt:
    """A prompt in the run's own tokens."""

    sample: Sample
    token_ids: list[int]
    messages: list[dict[str, Any]] | None
    """The same prompt for a chat template; None where the template alone cannot give it (shortened text, control tokens, documents)."""
    pixels: Mapping[str, Tensor] = field(default_factory=dict)
    """``pixel_values`` and ``image_grid_thw`` of its pictures; empty without pictures."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Greedy answers and what they were chosen from."""

    tokens: list[list[int]]
    logits: Tensor
    """(prompts, steps, vocabulary), float32."""
    template_ids: list[list[int] | None]
    """Tokens that the folder's chat template gave for a prompt."""


@dataclass(frozen=True, slots=True)
class EngineAnswers:
    """Greedy answers of an engine that shows no logits, and how it would go about a prompt by itself."""

    tokens: list[list[int]]
    """With or without the stop token at their end."""
    texts: list[str | None]
    """What the folder's chat template gave for a prompt; None where ``CheckPrompt.messages`` is."""
    stop_ids: list[int]
    """Tokens that end an answer by the folder's own settings."""


def check_prompts(renderer: Renderer, samples: Sequence[Sample], max_prompt_tokens: int, n_checked: int = N_CHECKED) -> list[CheckPrompt]:
    """The first held-out prompts, as many as are quickly answered.

    Args:
        renderer: the run's renderer.
        samples: held-out rows.
        max_prompt_tokens: longest prompt of the run.
        n_checked: most prompts.

    Returns:
        Up to ``n_checked`` prompts; at least one unless there are no samples.
    """
    prompts: list[CheckPrompt] = []
    n_tokens = 0
    for sample in samples[:n_checked]:
        if sample.prompt:
            rendered = renderer.prompt(sample.prompt, max_prompt_tokens)
            plain = rendered.n_shortened == 0 and not any("<|" in message.text for message in sample.prompt)
            turns = [{"role": message.role, "content": _content(message)} for message in sample.prompt]
            values = renderer.images.pixels(rendered.pictures) if rendered.pictures else ()
            pixels = dict(zip(("pixel_values", "image_grid_thw"), values, strict=False))
            prompt = CheckPrompt(sample, rendered.input_ids, turns if plain else None, pixels)
        else:
            prompt = CheckPrompt(sample, renderer.conversation(sample.messages).input_ids[:DOCUMENT_TOKENS], None)
        n_tokens += len(prompt.token_ids)
        if prompts and n_tokens > n_checked * MEAN_TOKENS:
            break
        prompts.append(prompt)
    return prompts


def _content(message: Message) -> str | list[dict[str, str]]:
    """As the templates of text models and, for messages with images, of vision models take it."""
    if all(part.kind == "text" for part in message.parts):
        return message.text
    return [{"type": part.kind, part.kind: part.text} for part in message.parts]


def _pixels(prompts: Sequence[CheckPrompt]) -> dict[str, Tensor]:
    """Of the pictures of all prompts, in their order; empty without pictures."""
    held = [prompt.pixels for prompt in prompts if prompt.pixels]
    return {name: cat([pixels[name] for pixels in held]) for name in (held[0] if held else ())}


def answer_here(network: Any, prompts: Sequence[CheckPrompt]) -> Answers:
    """Answer with a network in memory.

    Args:
        network: the run's model in float32, adapter beside the base.
        prompts: what to answer.

    Returns:
        Its answers.
    """
    from weitiao.export.reload import greedy_answers

    tokens, logits = greedy_answers(network, [prompt.token_ids for prompt in prompts], N_NEW, _pixels(prompts))
    return Answers(tokens, logits, [None] * len(prompts))


def answer_there(place: Path, prompts: Sequence[CheckPrompt], *, tokenizer: Path | None = None, base: Path | None = None) -> Answers:
    """Answer with an exported folder or file, in a fresh process that has only transformers and PEFT.

    Args:
        place: an ordinary Hugging Face folder, a PEFT adapter, or a GGUF file.
        prompts: what to answer.
        tokenizer: folder of the run's tokenizer, for a GGUF file.
        base: folder of the base model, for an adapter.

    Returns:
        Its answers, and the tokens its chat template gives.

    Raises:
        ExportError: it cannot be read there.
    """
    with tempfile.TemporaryDirectory(prefix="weitiao-check-") as name:
        names = ("request.json", "result.json", "logits.safetensors", "pixels.safetensors")
        request, result, logits, pixels = (Path(name) / file for file in names)
        save_file(_pixels(prompts), pixels)
        content = {
            "n_pictures": [len(prompt.pixels.get("image_grid_thw", ())) for prompt in prompts],
            "prompts": [prompt.token_ids for prompt in prompts],
            "messages": [prompt.messages for prompt in prompts],
            "n_new": N_NEW,
            "tokenizer": str(tokenizer),
            "base": str(base) if base is not None else None,
        }
        request.write_text(json.dumps(content), encoding="utf-8")
        # -P: the script's own folder must not be searched for modules.
        command = [sys.executable, "-P", str(Path(__file__).with_name("reload.py")), *map(str, (place, request, result, logits, pixels))]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if process.returncode != 0:
            reason = "\n".join(process.stderr.strip().splitlines()[-3:])
            reader = "transformers" if base is None else "PEFT"
            raise ExportError(f"plain {reader} cannot read what was exported", where=str(place), hint=reason)
        answered = json.loads(result.read_text(encoding="utf-8"))
        return Answers(answered["tokens"], load_file(logits)["logits"], answered["template_ids"])


def answer_openvino(python: Path, folder: Path, prompts: Sequence[CheckPrompt]) -> EngineAnswers:
    """Answer with an OpenVINO folder, in a fresh process of the environment that holds openvino-genai.

    Args:
        python: of that environment.
        folder: what optimum-intel wrote.
        prompts: what to answer.

    Returns:
        Its answers, the texts its chat template gives, and its stop tokens.

    Raises:
        ExportError: the folder cannot be read there.
    """
    with tempfile.TemporaryDirectory(prefix="weitiao-check-") as name:
        request, result = Path(name) / "request.json", Path(name) / "result.json"
        content = {"prompts": [prompt.token_ids for prompt in prompts], "messages": [prompt.messages for prompt in prompts], "n_new": N_NEW}
        request.write_text(json.dumps(content), encoding="utf-8")
        command = [str(python), "-P", str(Path(__file__).with_name("reload_openvino.py")), *map(str, (folder, request, result))]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode != 0:
            reason = "\n".join(process.stderr.strip().splitlines()[-3:])
            raise ExportError("openvino-genai cannot read what was exported", where=str(folder), hint=reason)
        return EngineAnswers(**json.loads(result.read_text(encoding="utf-8")))


def compare_prompts(
    texts: Sequence[str], stop_ids: Sequence[int], found: EngineAnswers, folder: Path, prompts: Sequence[CheckPrompt]
) -> None:
    """Compare what an engine makes of a conversation by itself, and where it would end an answer, with what the run does.

    Args:
        texts: the run's prompts.
        stop_ids: the run's stop tokens.
        found: of the engine.
        folder: for messages.
        prompts: whose texts these are.

    Raises:
        ExportError: the chat template gives another text, or answers end at other tokens.
    """
    for prompt, wanted, text in zip(prompts, texts, found.texts, strict=True):
        if text is not None and text != wanted:
            raise ExportError("the exported chat template gives another text than training used", where=f"{folder}, {prompt.sample.origin}")
    if set(found.stop_ids) != set(stop_ids):
        raise ExportError(
            f"the exported settings end answers at tokens {sorted(found.stop_ids)}, the run at {sorted(stop_ids)}", where=str(folder)
        )


def compare_tokens(
    expected: Answers, found: Sequence[Sequence[int]], file_dtype: str, folder: Path, prompts: Sequence[CheckPrompt]
) -> dict[str, object]:
    """Compare greedy answers of an engine that shows no logits.

    Args:
        expected: of the run's model.
        found: of the engine; see ``EngineAnswers.tokens``.
        file_dtype: of the folder's weights; decides the tolerance.
        folder: for messages.
        prompts: what was answered.

    Returns:
        ``n_prompts``, ``equal_answers`` and ``equal_tokens`` (shares, in [0, 1]), ``tolerance``, ``dtype``.

    Raises:
        ExportError: fewer tokens than ``TOKEN_TOLERANCES`` says agree up to the first that differs.
    """
    n_same = n_equal = n_tokens = 0
    for here, there in zip(expected.tokens, found, strict=True):
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(here, there, strict=False))))
        ended = same == len(there) and same >= len(here) - 1
        n_equal += ended
        n_same += len(here) if ended else same
        n_tokens += len(here)
    share = n_same / n_tokens if n_tokens else 1.0
    tolerance = TOKEN_TOLERANCES[file_dtype]
    if share < tolerance:
        raise ExportError(
            f"the exported weights answer otherwise than the trained model: {share:.0%} of the tokens agree where {tolerance:.0%} must",
            where=str(folder),
            hint="export with more bits (dtype), or use the adapter with its base",
        )
    equal = n_equal / len(prompts) if prompts else 1.0
    return {"n_prompts": len(prompts), "equal_answers": equal, "equal_tokens": share, "tolerance": tolerance, "dtype": file_dtype}


def compare(expected: Answers, found: Answers, file_dtype: str, folder: Path, prompts: Sequence[CheckPrompt]) -> dict[str, object]:
    """Compare an exported folder's answers with those of the model that was scored.

    Args:
        expected: of the run's model.
        found: of the exported folder.
        file_dtype: of the folder's files; decides the tolerance.
        folder: for messages.
        prompts: what was answered.

    Returns:
        ``n_prompts``, ``equal_answers`` (share, in [0, 1]), ``logit_difference`` (largest, relative), ``tolerance``, ``dtype``.

    Raises:
        ExportError: the chat template gives other tokens than the run's renderer, logits differ by more than the tolerance, an answer
            goes another way at a place that is no near tie, or ends at a token where the other goes on.
    """
    tolerance = TOLERANCES[file_dtype]
    worst, n_equal = 0.0, 0
    for i, prompt in enumerate(prompts):
        template_ids = found.template_ids[i]
        if template_ids is not None and template_ids != prompt.token_ids:
            raise ExportError("the exported chat template gives other tokens than training used", where=f"{folder}, {prompt.sample.origin}")
        here, there = expected.tokens[i], found.tokens[i]
        n_same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(here, there, strict=False))))
        n_equal += here == there
        n_compared = min(n_same + 1, len(here), len(there))
        for step in range(n_compared):
            worst = max(worst, _difference(expected.logits[i, step], found.logits[i, step]))
        tie = n_same < n_compared and _preference(expected.logits[i, n_same], here[n_same], there[n_same]) <= tolerance
        if worst > tolerance or (n_same < n_compared and not tie):
            raise ExportError(
                f"the exported weights answer otherwise than the trained model: logits differ by {worst:.2g} of their size where "
                f"{tolerance:g} is allowed, answers agree in {n_same} of {len(here)} tokens",
                where=f"{folder}, {prompt.sample.origin}",
                hint="" if file_dtype == "float32" else "export with more bits (dtype), or use the adapter with its base",
            )
        # The limit on new tokens cuts both at the same length, so that the shorter one of two ended at a stop token.
        if n_same == min(len(here), len(there)) and len(here) != len(there):
            what = "the exported settings end an answer at other tokens than the run"
            raise ExportError(what, where=f"{folder}, {prompt.sample.origin}")
    share = n_equal / len(prompts) if prompts else 1.0
    return {"n_prompts": len(prompts), "equal_answers": share, "logit_difference": worst, "tolerance": tolerance, "dtype": file_dtype}


def _difference(expected_V: Tensor, found_V: Tensor) -> float:
    return float((expected_V - found_V).norm() / (expected_V - expected_V.mean()).norm())


def _preference(logits_V: Tensor, chosen: int, other: int) -> float:
    """How far the chosen token's logit lies above another's, relative to how far it lies above the mean."""
    return float((logits_V[chosen] - logits_V[other]) / (logits_V[chosen] - logits_V.mean()))
