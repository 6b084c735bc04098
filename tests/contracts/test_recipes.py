"""The recipes that are shipped load, the list of settings is deliberate, and the pages made from help texts are current."""

import subprocess
import sys
from pathlib import Path

import pytest

from weitiao.recipe import all_settings, load_recipe, recipe_yaml

ROOT = Path(__file__).parents[2]

RECIPES = {
    "capybara-chat": ("chat", "Qwen/Qwen2-0.5B-Instruct", "full"),
    "capybara-text": ("text", "Qwen/Qwen2-0.5B", "full"),
    "chinese-ner": ("ner", "Qwen/Qwen2-1.5B-Instruct", "lora"),
    "coco-caption": ("caption", "Qwen/Qwen2-VL-2B-Instruct", "lora"),
    "complaint-extraction": ("extraction", "Qwen/Qwen3-0.6B", "lora"),
    "fudan-news": ("classification", "Qwen/Qwen2-1.5B-Instruct", "lora"),
    "latex-ocr": ("ocr", "Qwen/Qwen2-VL-2B-Instruct", "lora"),
    "receipts": ("extraction", "Qwen/Qwen3-0.6B", "lora"),
    "thucnews-titles": ("classification", "Qwen/Qwen2-1.5B-Instruct", "lora"),
}


def test_every_shipped_recipe_is_named_here():
    assert {path.stem for path in (ROOT / "recipes").glob("*.yaml")} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_loads_and_reads_back(name, tmp_path):
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert (recipe.task.kind, recipe.model.path, recipe.model.tuning.kind) == RECIPES[name]
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_runs_offline_with_overrides(name):
    offline = ["model.path=bundled:qwen2.5-coder-0.5b-instruct", "data.train={path: rows.jsonl}", "data.limit=1000"]
    assert load_recipe(ROOT / "recipes" / f"{name}.yaml", offline).data.limit == 1000


SETTINGS = """
task.kind task.prompt task.fields task.fields.type task.fields.values task.fields.optional task.fields.copied task.labels task.multi_label
task.questions
data.train.path data.train.subset data.train.split data.train.weight data.valid data.test data.split.valid data.split.test data.split.by
data.split.near data.shape data.columns data.system data.limit data.allow_dropped data.encoding data.delimiter
model.path model.revision model.tuning.kind model.tuning.r model.tuning.lora_alpha model.tuning.lora_dropout model.tuning.target_modules
model.tuning.use_rslora model.tuning.vision model.dtype model.device model.trust_remote_code
chat.enable_thinking chat.images.min_pixels chat.images.max_pixels chat.images.size chat.images.background
encode.max_tokens encode.keep encode.packing
train.num_train_epochs train.max_steps train.learning_rate train.lr_scheduler_type train.warmup_ratio train.weight_decay train.max_grad_norm
train.optim train.adam_beta2 train.batch_tokens train.batch_rows train.micro_batch_tokens train.gradient_checkpointing train.logging_steps
train.eval_steps train.save_total_limit train.early_stopping_patience train.fast
evaluate.select_by evaluate.max_new_tokens evaluate.batch_size evaluate.n_valid evaluate.n_bootstrap evaluate.constrained
evaluate.temperature evaluate.top_p evaluate.top_k evaluate.n_suspects
track.kind track.mode track.project track.experiment
export.kind export.dtype
run.path run.seed
"""


def test_no_new_settings():
    assert sorted(setting.name for setting in all_settings()) == sorted(SETTINGS.split())
    assert len(SETTINGS.split()) <= 90


def test_the_pages_made_from_help_texts_are_current():
    checked = subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False)
    assert checked.stderr == ""
