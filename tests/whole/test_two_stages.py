"""Documents, then questions: a tiny model learns texts by heart, and a second run goes on from the first."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from weitiao import pipeline
from weitiao.finished import evaluate_run
from weitiao.recipe import load_recipe
from weitiao.trying import tuned_model

DOCUMENTS = {
    "a.txt": "小区垃圾堆积成山，物业不接电话。电梯坏了三天。",
    "b.txt": "the model answers a question about data. 停车难，路灯不亮。",
}
TURNS = [("who answers", "the model answers a question"), ("小区", "垃圾堆积成山，物业不接电话。")]
COMMON: dict[str, Any] = {
    "track": {"kind": "none"},
    "export": [],
    "train": {"num_train_epochs": 60, "learning_rate": 5e-3, "batch_rows": 2, "lr_scheduler_type": "constant", "save_total_limit": 1},
}


def run(folder: Path, name: str, content: dict[str, Any]) -> Path:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content | COMMON, allow_unicode=True), encoding="utf-8")
    return pipeline.run_recipe(load_recipe(folder / f"{name}.yaml"), folder / name).path


@pytest.fixture(scope="module")
def stages(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stages")
    (folder / "documents").mkdir()
    for name, text in DOCUMENTS.items():
        (folder / "documents" / name).write_text(text, encoding="utf-8")
    chats = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in TURNS]
    (folder / "chats.json").write_text(json.dumps(chats, ensure_ascii=False), encoding="utf-8")
    none = {"valid": 0, "test": 0}
    text = run(
        folder,
        "text",
        {
            "task": {"kind": "text", "questions": ["小区垃圾堆积成山，", "the model answers a question"]},
            "data": {"train": {"path": "documents"}, "split": none},
            "model": {"path": str(tiny_qwen2), "tuning": {"kind": "full"}},
            "evaluate": {"max_new_tokens": 60, "n_suspects": 0},
        },
    )
    chat = run(
        folder,
        "chat",
        {
            "task": {"kind": "chat"},
            "data": {"train": {"path": "chats.json"}, "split": none},
            "model": {"path": str(text), "tuning": {"kind": "full"}},
            "evaluate": {"max_new_tokens": 60, "n_suspects": 0},
        },
    )
    return text, chat


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_beginning_is_continued_to_the_documents_end_and_never_repeated(stages: tuple[Path, Path]) -> None:
    """The usual script shows the prompt and the answer together; and without an end of text the answer would run on."""
    said = {row["question"]: row["answer"] for row in read(stages[0] / "tuned" / "questions.json")}
    assert said == {
        "小区垃圾堆积成山，": "物业不接电话。电梯坏了三天。",
        "the model answers a question": " about data. 停车难，路灯不亮。",
    }
    before = {row["question"]: row["answer"] for row in read(stages[0] / "baseline" / "questions.json")}
    assert before.keys() == said.keys()
    assert before != said
    assert tuned_model(stages[0])("小区垃圾堆积成山，", None).answer == said["小区垃圾堆积成山，"]


def test_a_second_run_goes_on_from_the_first_and_learns_its_answers(stages: tuple[Path, Path]) -> None:
    scores = evaluate_run(stages[1], stages[1].parent / "chats.json")
    assert scores.metrics["rouge_l"] == 1.0
    assert scores.metrics["perplexity"] < 1.1
    facts = read(stages[1] / "run.json")["training"]
    assert facts["loss_last"] < 0.1 < facts["loss_first"]
    assert read(stages[1] / "run.json")["hashes"]["weights"] != read(stages[0] / "run.json")["hashes"]["weights"]
