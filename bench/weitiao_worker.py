"""Trains weitiao's way on rows in the order given: ``python -m bench.weitiao_worker SETTINGS.json``; settings and result as peer_worker's.

Takes the same doors as ``weitiao run``: renderer, packing, tuning, Trainer. Only the dealing of rows into steps is the file's own order,
so that every contestant's step has the same rows.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench import peer_worker
from weitiao.chat import make_renderer
from weitiao.encode.steps import common_prefix, pack
from weitiao.model.load import load_network
from weitiao.model.tuning import attach_tuning
from weitiao.recipe.sections import Chat, FullTuning, LoraTuning, Train
from weitiao.seams import IGNORED, EncodedRow, LoadedModel, text_message
from weitiao.train import TrainHooks, run_training


class GivenSteps:
    """Steps of the file's own order; implements ``seams.Steps``."""

    def __init__(self, rows: list[EncodedRow], rows_per_step: int, micro_batch_tokens: int) -> None:
        self.rows, self.rows_per_step = rows, rows_per_step
        self.micro_batch_tokens = max(micro_batch_tokens, *(len(row.input_ids) for row in rows))
        self.prefix_length = common_prefix(rows)

    def __len__(self) -> int:
        return len(self.rows) // self.rows_per_step

    def step(self, epoch: int, index: int) -> list[EncodedRow]:  # noqa: ARG002 - the order never changes
        chosen = self.rows[index * self.rows_per_step : (index + 1) * self.rows_per_step]
        return pack(chosen, self.micro_batch_tokens, self.prefix_length if self.prefix_length >= 8 else 0)


def encoded(messages: list[list[dict[str, str]]], renderer: Any, cut: int) -> list[EncodedRow]:
    """Rows with the answers trained, up to the last trained token."""
    made = []
    for row in messages:
        rendered = renderer.conversation([text_message(m["role"], m["content"]) for m in row])  # type: ignore[arg-type]
        end = min(cut, max(i for i, on in enumerate(rendered.trained) if on) + 1)
        ids = rendered.input_ids[:end]
        made.append(EncodedRow(ids, [t if on else IGNORED for t, on in zip(ids, rendered.trained, strict=False)], (end,)))
    return made


def main() -> None:
    """Train as the settings say, write what it took."""
    settings = peer_worker.SETTINGS
    dtype, folder = getattr(torch, settings["dtype"]), Path(settings["folder"])
    base, is_lora = Path(settings["base"]), settings["tuning"] == "lora"
    narrow = torch.bfloat16 if is_lora and settings.get("thin", False) else None
    network, processor = load_network(base, dtype, torch.device("cpu"), narrow=narrow)
    tuning = LoraTuning(lora_dropout=settings["dropout"]) if is_lora else FullTuning()
    model = attach_tuning(LoadedModel(network, processor, base, "bench", dtype), tuning)
    rows = encoded(peer_worker.messages(), make_renderer(processor, Chat()), settings["cut"])
    steps = GivenSteps(rows, settings["rows_per_step"], settings["micro_batch_tokens"])
    section = Train(
        max_steps=settings["steps"],
        learning_rate=settings["learning_rate"],
        gradient_checkpointing=settings["recompute"],
        max_grad_norm=1.0,
        num_train_epochs=1000,
        fast=settings.get("fast", "all"),
        optim=settings.get("optim", "adamw"),
    )

    class EndedError(Exception):
        """Nothing is saved for use: only the loop is measured."""

    def save(_folder: Path) -> None:
        raise EndedError

    peer_worker.watch()
    hooks = TrainHooks(lambda _step: {}, "none", False, save, lambda _folder: replace(model), lambda _entry: None)
    # Evaluated and saved once, at the end: the others do neither.
    section = section.model_copy(update={"eval_steps": section.max_steps})
    with suppress(EndedError):
        run_training(model, steps, section, hooks, folder=folder / "checkpoints", best=folder / "best", seed=42)
    peer_worker.write_result()
    counts = {"lengths": [len(row.input_ids) for row in rows], "answers": [sum(x != IGNORED for x in row.labels) for row in rows]}
    Path(settings["out"]).with_suffix(".rows.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    main()
