"""The model card: ``README.md`` beside the weights, from what the run folder knows."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weitiao.model import CheckpointFacts, hub_id, list_models, read_facts
from weitiao.recipe.sections import Images

USES: dict[str, str] = {
    "classification": "Sorting texts like those of its training rows into the labels it was trained on.",
    "ner": "Finding the entity types it was trained on in texts like those of its training rows.",
    "extraction": "Reading the fields below out of texts like those of its training rows, as one JSON object.",
    "ocr": "Reading formulas from pictures like those of its training rows, as LaTeX.",
    "caption": "Describing photos like those of its training rows.",
    "chat": "Answering in the manner, and on the subjects, of its training conversations.",
    "text": "Continuing texts like the documents it was trained on.",
}


LIBRARIES: dict[str, str] = {
    "adapter": "peft",
    "merged": "transformers",
    "gguf": "gguf",
    "ollama": "gguf",
    "openvino": "openvino",
}


def write_card(folder: Path, checkpoint: Path, run_path: Path, *, kind: str, check: Mapping[str, Any]) -> None:
    """Write ``README.md``, and the base's licence file where it has one.

    Args:
        folder: where the artifact lies.
        checkpoint: what it was made from.
        run_path: the run folder; ``scores.json``, ``data.json`` and ``recipe.yaml`` are used where they are there.
        kind: of the artifact.
        check: what the comparison with the checkpoint showed; empty where there was none.
    """
    facts = read_facts(checkpoint)
    licence = base_licence(facts)
    for licence_file in _licence_files(Path(facts.base_path)):
        shutil.copyfile(licence_file, folder / licence_file.name)
    parts = [
        _front_matter(facts, kind, licence),
        f"# {run_path.resolve().name}\n\nMade with weitiao from `{facts.base}`.",
        f"## Intended use\n\n{USES[facts.task['kind']]} Check its answers where a mistake is costly.\n\n{_settings(facts, licence)}",
        _figures(_read(run_path / "scores.json"), facts.task),
        _check(check, kind),
        _data(_read(run_path / "data.json")),
        _recipe(run_path / "recipe.yaml"),
        f"## How to use\n\n{_usage(kind, facts)}",
    ]
    (folder / "README.md").write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def base_licence(facts: CheckpointFacts) -> str | None:
    """Licence of the base model: as its own card says, or as the table of bundled models says; None where nobody says.

    Args:
        facts: of the checkpoint.

    Returns:
        An identifier as hubs use it, in lower case, e.g. ``apache-2.0``.
    """
    card = Path(facts.base_path) / "README.md"
    if card.exists():
        stated = re.search(r"\A---\n(?:.*\n)*?license:\s*(\S+)", card.read_text(encoding="utf-8"))
        if stated:
            return stated.group(1).lower()
    return next((model.licence.lower() for model in list_models() if model.name == facts.base and model.licence), None)


def _licence_files(base: Path) -> list[Path]:
    return [
        file for file in sorted(base.glob("*")) if file.is_file() and file.name.upper().split(".")[0] in {"LICENSE", "LICENCE", "NOTICE"}
    ]


def _front_matter(facts: CheckpointFacts, kind: str, licence: str | None) -> str:
    base = hub_id(facts)
    lines = [
        f"license: {licence or 'other'}",
        *([f"base_model: {base}", f"base_model_relation: {'adapter' if kind == 'adapter' else 'finetune'}"] if base else []),
        f"library_name: {LIBRARIES[kind]}",
        f"pipeline_tag: {'image-text-to-text' if facts.is_vision else 'text-generation'}",
        "tags: [weitiao, " + facts.task["kind"] + "]",
    ]
    return "---\n" + "\n".join(lines) + "\n---"


def _settings(facts: CheckpointFacts, licence: str | None) -> str:
    lines = [
        f"- Task: {facts.task['kind']}",
        f"- Thinking mode: {'on' if facts.chat.get('enable_thinking') else 'off'}; the chat template here does the same by default",
        f"- Longest prompt in training: {facts.max_prompt_tokens} tokens",
    ]
    if facts.task.get("fields"):
        lines.append(f"- Fields: {', '.join(facts.task['fields'])}")
    if facts.task.get("labels"):
        lines.append(f"- Labels: {', '.join(facts.task['labels'])}")
    if facts.is_vision:
        lines.append(f"- Pictures: {_pictures(Images.model_validate(facts.chat.get('images', {})))}")
    if facts.system:
        lines.append(f"- System message: {facts.system}")
    if licence is None:
        lines.append("- Licence: the base model's own terms apply; they were not found beside its weights")
    return "\n".join(lines)


def _pictures(section: Images) -> str:
    background = f"transparent parts over {section.background}"
    if section.size is not None:
        return f"brought to {section.size[0]} x {section.size[1]} pixels (height x width) before anything else, {background}"
    return f"proportions kept, {section.min_pixels} to {section.max_pixels} pixels, {background}; preprocessor_config.json says the same"


def _figures(scores: Mapping[str, Any] | None, task: Mapping[str, Any]) -> str:
    if not scores or not scores["tuned"]["n"]:
        return ""
    rows = []
    for name, tuned in scores["tuned"]["metrics"].items():
        low, high = scores["tuned"]["intervals"].get(name, (None, None))
        interval = f"{low:.4f} to {high:.4f}" if low is not None and high is not None else ""
        before = (scores.get("baseline") or {}).get("metrics", {}).get(name)
        rows.append(f"| {name} | {_number(before)} | {_number(tuned)} | {interval} |")
    head = "| Metric | Base model | This model | 95 % interval |\n|---|---|---|---|\n"
    return f"## Evaluation\n\nOn {scores['tuned']['n']} rows that were not trained on, {_means(task)}.\n\n{head}" + "\n".join(rows)


def _means(task: Mapping[str, Any]) -> str:
    """How the rows were answered for the figures."""
    if task["kind"] == "text":
        return "by the likelihood of their texts"
    if task["kind"] == "classification" and not task.get("multi_label"):
        return "with scored labels"
    return "with generated answers"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _check(check: Mapping[str, Any], kind: str) -> str:
    if not check.get("n_prompts"):
        return ""
    if "equal_tokens" in check:
        return (
            f"Read back by openvino-genai, these weights ({check['dtype']}) gave the trained model's greedy answers to "
            f"{check['equal_answers']:.0%} of {check['n_prompts']} held-out prompts, and {check['equal_tokens']:.0%} of their tokens."
        )
    reader = "PEFT on the base model" if kind == "adapter" else "transformers"
    return (
        f"Read back by plain {reader}, these weights ({check['dtype']}) gave the trained model's greedy answers to "
        f"{check['equal_answers']:.0%} of {check['n_prompts']} held-out prompts; logits differed by at most "
        f"{check['logit_difference']:.1e} of their size ({check['tolerance']:g} is allowed)."
    )


def _data(report: Mapping[str, Any] | None) -> str:
    if not report:
        return ""
    split = ", ".join(f"{count} {name}" for name, count in report["split"].items())
    return f"## Data\n\n{report['n_kept']} of {report['n_read']} rows ({split}). Fingerprint (SHA-256): `{report['fingerprint']}`"


def _recipe(path: Path) -> str:
    return f"## Recipe\n\n```yaml\n{path.read_text(encoding='utf-8').strip()}\n```" if path.exists() else ""


OTHER_USES: dict[str, str] = {
    "gguf": "llama-cli -m FILE.gguf --jinja   # or: llama-server -m FILE.gguf --jinja",
    "ollama": 'ollama create NAME -f Modelfile && ollama run NAME "…"',
    "openvino": "weitiao predict RUN -i rows.jsonl -o answers.jsonl --engine openvino",
}


def _usage(kind: str, facts: CheckpointFacts) -> str:
    if kind in OTHER_USES:
        return f"```bash\n{OTHER_USES[kind]}\n```"
    reader = "AutoModelForImageTextToText" if facts.is_vision else "AutoModelForCausalLM"
    load = f'{reader}.from_pretrained("FOLDER")'
    if kind == "adapter":
        load = f'PeftModel.from_pretrained({reader}.from_pretrained({_base(facts)}), "FOLDER")'
        load += '\nmodel.generation_config = GenerationConfig.from_pretrained("FOLDER")  # greedy; PEFT keeps the base model\'s settings'
    if facts.is_vision:
        return f"""```python
processor = AutoProcessor.from_pretrained("FOLDER")  # needs torchvision; `weitiao predict` and `weitiao serve` do not
model = {load}
messages = [{{"role": "user", "content": [{{"type": "image", "path": "FILE.png"}}, {{"type": "text", "text": "…"}}]}}]
prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
answer = model.generate(**prompt, max_new_tokens=256)
print(processor.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
```"""
    return f"""```python
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = {load}
messages = [{{"role": "user", "content": "…"}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
answer = model.generate(**prompt, max_new_tokens=256)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
```"""


def _base(facts: CheckpointFacts) -> str:
    """The base as an argument of ``from_pretrained``."""
    revision = f', revision="{facts.revision}"' if facts.revision else ""
    return f'"{hub_id(facts) or facts.base_path}"{revision}'


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
