"""Every text recipe that is shipped, on real rows: it loads, its data passes, and the whole path runs on a tiny model."""

import json
from pathlib import Path

import pytest

from weitiao import pipeline, preview
from weitiao.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"

RECIPES = {
    "fudan-news": ("cls_fudan/dev.jsonl", ["data.limit=60", "data.allow_dropped=1", "encode.max_tokens=256"], "accuracy"),
    "thucnews-titles": ("cls_thucnews_titles/dev.jsonl", ["data.limit=80", "train.eval_steps=1"], "accuracy"),
    "chinese-ner": ("ner_ccfbdci/dev.jsonl", ["data.limit=60", "encode.max_tokens=1024"], "entity_f1"),
    "receipts": ("extract_receipts/dev.jsonl", ["data.limit=24", "data.allow_dropped=1"], "field_f1"),
    "capybara-text": ("capybara/raw", [], ""),
    "capybara-chat": ("capybara/sft_train.json", [], ""),
}
TINY = ["track={kind: none}", "export=[]", "train.max_steps=2", "train.batch_rows=4"]
FEW = ["evaluate.n_valid=4", "evaluate.n_suspects=8"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_text_recipe_runs_on_real_rows(name: str, tiny_qwen2: Path, tmp_path: Path) -> None:
    place, own, metric = RECIPES[name]
    if not (DATA / place).exists():
        pytest.skip(f"{DATA / place} is not there")
    settings = [f"model.path={tiny_qwen2}", f"data.train.path={DATA / place}", *TINY, *own, "evaluate.n_bootstrap=100"]
    settings += ["evaluate.max_new_tokens=12", *(FEW if metric else [])]
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", settings)
    report = preview.check_recipe(recipe)
    assert report.n_kept > 0
    assert not [finding for finding in report.findings if finding.severity == "error"]
    summary = pipeline.run_recipe(recipe, tmp_path / "run")
    assert summary.report.stat().st_size > 10_000
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert facts["status"] == "finished"
    assert facts["training"]["n_steps"] == 2
    assert facts["training"]["validation_seconds"] == (pytest.approx(0, abs=0) if not metric else pytest.approx(0, abs=600))
    assert (tmp_path / "run" / "parameters.json").exists()
    if metric:
        assert facts["training"]["select_by"] == metric
        assert set(summary.comparison.gain) >= {metric}
    else:
        assert len(json.loads((tmp_path / "run" / "tuned" / "questions.json").read_text(encoding="utf-8"))) == 1
    if metric == "accuracy":
        details = json.loads((tmp_path / "run" / "tuned" / "scores.json").read_text(encoding="utf-8"))["details"]
        assert [row["precision"] for row in details["confidence"]["coverage"]] == [0.95, 0.98, 0.99]
        assert details["confidence"]["curve"][-1][0] == 1.0


def test_a_long_article_keeps_both_ends_its_options_and_its_label(tiny_qwen2: Path, tmp_path: Path) -> None:
    """The usual script cuts at the right end: options, the assistant's header and the label go first."""
    text = "开头" + "中间的话" * 2000 + "结尾"
    rows = [{"text": f"{text}{i}", "category": ["Art", "Space"], "output": ("Art", "Space")[i % 2]} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    settings = [f"model.path={tiny_qwen2}", f"data.train.path={tmp_path / 'rows.jsonl'}", "encode.max_tokens=200"]
    for row in preview.look_at(load_recipe(ROOT / "recipes" / "fudan-news.yaml", settings), 6):
        told, trained = ("".join(piece for piece, on in row.pieces if on == is_trained) for is_trained in (False, True))
        assert row.n_tokens <= 200
        assert "文本:开头" in told
        assert "结尾" in told
        assert ",类型选型:['Art', 'Space']<|im_end|>" in told
        assert f"<|im_start|>assistant\n{trained}" in "".join(piece for piece, _ in row.pieces)
        assert trained in ("Art<|im_end|>", "Space<|im_end|>")
