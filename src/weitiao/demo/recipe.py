"""The demo's recipe, beside its data."""

from __future__ import annotations

from pathlib import Path
from string import Template

from weitiao.demo.complaints import write_complaints
from weitiao.recipe import load_recipe

N_ROWS = 800

WHOLE = {"limit": 264, "valid": 0.06, "test": 0.18}
QUICK = {"limit": 100, "valid": 0.12, "test": 0.38}
"""Rows used, and the shares that are not trained on: some 200 rows are trained, or some 50; more than 40 are test rows in either."""

RECIPE = Template("""\
# Pull name, address, e-mail and complaint out of messages, as JSON: the made-up data of `weitiao demo`, on an ordinary laptop.
task:
  kind: extraction
  fields: [name, address, email, question]
data:
  train: {path: complaints.jsonl}
  columns: {text: instruction, answer: output}
  limit: $limit                  # of 800 rows; more rows, longer training, better figures
  split: {valid: $valid, test: $test}
model:
  path: bundled:qwen2.5-coder-0.5b-instruct
  tuning: {kind: lora, r: 8, lora_alpha: 32, lora_dropout: 0.1}
encode: {max_tokens: 512}
train: {num_train_epochs: 1, learning_rate: 3e-4, batch_tokens: 1024}
evaluate: {select_by: field_f1, max_new_tokens: 160, n_valid: 16, n_suspects: 0}   # no answer of these rows is wrong
""")


def is_whole(folder: Path) -> bool:
    """Whether the recipe in a demo's folder trains on some 200 rows.

    Args:
        folder: that ``demo_recipe`` wrote to.

    Returns:
        False for some 50 rows.
    """
    return load_recipe(folder / "recipe.yaml").data.limit == WHOLE["limit"]


def demo_recipe(folder: Path, *, quick: bool = False) -> Path:
    """Write ``complaints.jsonl`` and ``recipe.yaml``.

    Args:
        folder: made where it does not exist.
        quick: train on some 50 rows instead of 200.

    Returns:
        The recipe's path. Files that are there already are written anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_complaints(folder / "complaints.jsonl", N_ROWS)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.substitute(QUICK if quick else WHOLE), "utf-8")
    return recipe
