"""Finished runs without the training: a tiny model with a random adapter in a run folder, as `weitiao run` leaves one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from weitiao import chat, model, runs
from weitiao.recipe import Recipe

EXTRACTION = {"kind": "extraction", "fields": ["name", "address", "email", "question"]}
CLASSIFICATION = {"kind": "classification", "labels": ["体育", "财经", "科技"]}


def make_run(
    folder: Path,
    base: Path | str,
    task: dict[str, Any],
    *,
    max_new_tokens: int = 24,
    batch_size: int = 16,
    evaluate: dict[str, Any] | None = None,
    **data: Any,
) -> Path:
    """Write a run folder.

    Args:
        folder: the run.
        base: a tiny model's folder, or what else `model.path` takes.
        task: the recipe's section.
        max_new_tokens: of the recipe.
        batch_size: of the recipe.
        evaluate: other settings of the recipe's `evaluate`.
        **data: settings of the recipe's `data`.

    Returns:
        `folder`.
    """
    recipe = Recipe.model_validate(
        {
            "task": task,
            "data": {"train": {"path": "rows.jsonl"}, **data},
            "model": {"path": str(base), "dtype": "float32"},  # in bfloat16 a row beside others may choose another token
            "evaluate": {"max_new_tokens": max_new_tokens, "batch_size": batch_size, **(evaluate or {})},
        }
    )
    run = runs.open_run(folder, "new")
    with run.recording(recipe):
        loaded = model.load_base(recipe.model)
        tuned = model.attach_tuning(loaded, recipe.model.tuning, 1)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for name, weight in tuned.network.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.3)
        facts = model.CheckpointFacts(
            base=recipe.model.path,
            base_path=str(loaded.path),
            revision=None,
            tuning=recipe.model.tuning.model_dump(mode="json"),
            chat=recipe.chat.model_dump(mode="json"),
            task=recipe.task.model_dump(mode="json"),
            system=recipe.data.system,
            max_tokens=512,
            max_prompt_tokens=400,
            keep=recipe.encode.keep,
            dtype="float32",
            is_vision=loaded.is_vision,
        )
        model.save_checkpoint(tuned, chat.chat_template(loaded.processor, recipe.chat.enable_thinking), facts, folder / "best")
        run.save("data", {"statistics": {"candidates": []}})
    return folder
