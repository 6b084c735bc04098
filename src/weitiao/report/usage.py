"""The run's own facts, and the commands that put its result to work."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weitiao.report.read import RunRecord
from weitiao.report.wording import duration, number, size

VISION = frozenset({"ocr", "caption"})


@dataclass(frozen=True, slots=True)
class Command:
    """Something to type, and what it does."""

    does: str
    text: str


def run_facts(record: RunRecord) -> list[tuple[str, str]]:
    """Key figures of the run: name and text, only those that are known."""
    facts, training = record.facts, record.facts.get("training") or {}
    total, trainable = facts.get("n_parameters"), facts.get("n_trainable")
    share = f"{trainable:,} of {total:,} ({100 * trainable / total:.2f} %)" if total and trainable is not None else None
    found = [
        ("Trained parameters", share),
        ("Steps", _text(training.get("n_steps"))),
        ("Best step", _text(training.get("best_step"))),
        ("Training time", _with(duration, training.get("seconds"))),
        ("Validation", _validation_time(record)),
        ("Tokens per second", _with(number, training.get("tokens_per_second"))),
        ("Peak memory", _with(size, training.get("peak_memory_bytes"))),
        ("Device", " ".join(str(facts[key]) for key in ("device", "dtype") if facts.get(key)) or None),
        ("Seed", _text(facts.get("seed"))),
        ("Scored in", _scoring_time(record)),
        ("Started", _moment(facts.get("started"))),
        ("Finished", _moment(facts.get("finished"))),
        ("Processor", _text((facts.get("machine") or {}).get("processor"))),
    ]
    return [(name, text) for name, text in found if text]


def fingerprints(record: RunRecord) -> list[tuple[str, str]]:
    """Versions and hashes, name and text."""
    versions: Mapping[str, Any] = record.facts.get("versions") or {}
    hashes: Mapping[str, Any] = record.facts.get("hashes") or {}
    own = [("weitiao", str(record.facts["weitiao"]))] if record.facts.get("weitiao") else []
    return [
        *own,
        *((str(name), str(version)) for name, version in versions.items()),
        *((f"SHA-256 of the {name}", str(value)) for name, value in hashes.items()),
    ]


def commands(record: RunRecord) -> list[Command]:
    """The exact commands for this run folder.

    Args:
        record: the run.

    Returns:
        Commands that work for what the run made; without a best checkpoint, the one that goes on with the run.
    """
    run = shlex.quote(str(record.path))
    if "best" not in record.folders:
        return [Command("Go on with this run", f"weitiao run {shlex.quote(str(record.path / 'recipe.yaml'))} -o {run} --resume")]
    found = [
        Command("Answer a file of rows", f"weitiao predict {run} -i rows.jsonl -o answers.jsonl"),
        Command("Talk to it", f"weitiao chat {run}"),
        Command("Score it on another file of the same shape", f"weitiao evaluate {run} --data other.jsonl --json"),
    ]
    if "merged" in record.folders:
        found.append(Command("Without weitiao, with plain transformers", _snippet(record)))
    else:
        found.append(Command("Make an ordinary model folder of it", f"weitiao export {run}"))
    return found


def _snippet(record: RunRecord) -> str:
    folder = json.dumps(str(record.path / "merged"), ensure_ascii=False)
    if record.task in VISION:
        loading = ("AutoModelForImageTextToText", "AutoProcessor", "processor")
        content = '[{"type": "image", "path": "picture.png"}, {"type": "text", "text": "..."}]'
    else:
        loading = ("AutoModelForCausalLM", "AutoTokenizer", "tokenizer")
        content = '"..."'
    model_class, reader_class, reader = loading
    return f"""from transformers import {model_class}, {reader_class}

model = {model_class}.from_pretrained({folder})
{reader} = {reader_class}.from_pretrained({folder})
messages = [{{"role": "user", "content": {content}}}]  # as `weitiao look` shows them
inputs = {reader}.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, max_new_tokens=256)
print({reader}.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""


def question_rows(record: RunRecord) -> list[tuple[str, str, str]]:
    """The recipe's own questions with the answers of both models: question, base, tuned."""
    answers: Sequence[dict[str, str]] = [
        {str(row.get("question")): str(row.get("answer")) for row in side.questions} for side in (record.baseline, record.tuned)
    ]
    return [(question, *(side.get(question, "–") for side in answers)) for question in dict.fromkeys([*answers[1], *answers[0]])]  # type: ignore[misc]


def _text(value: Any) -> str | None:
    return None if value is None else f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def _moment(value: Any) -> str | None:
    """An ISO time without seconds."""
    return None if not value else f"{str(value)[:16].replace('T', ' ')} UTC"


def _with(words: Any, value: Any) -> str | None:
    return words(value) if isinstance(value, (int, float)) else None


def _validation_time(record: RunRecord) -> str | None:
    """Time in evaluations during training, and its share of the training time that contains it."""
    spent = sum(seconds for row in record.evaluations if isinstance(seconds := row.get("seconds"), (int, float)))
    whole = (record.facts.get("training") or {}).get("seconds")
    share = f" ({100 * spent / whole:.0f} % of training)" if spent and whole and spent <= whole else ""
    return f"{duration(spent)}{share}" if spent else None


def _scoring_time(record: RunRecord) -> str | None:
    times = [(name, side.scores.get("seconds")) for name, side in (("base", record.baseline), ("tuned", record.tuned))]
    return ", ".join(f"{name} {duration(seconds)}" for name, seconds in times if seconds) or None
