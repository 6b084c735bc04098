"""Rows for the benchmarks, made by a seeded generator: ``messages`` with a system message, the user's text and the answer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from weitiao.demo.complaints import SYSTEM, make_complaints

LABELS = ("体育", "财经", "科技", "娱乐", "教育", "军事", "时政", "房产", "环境", "交通")
CAPYBARA = Path(__file__).parents[2] / "shared/data/capybara"
CLASSIFY = "你是一个文本分类领域的专家，你会接收到一段文本和几个潜在的分类选项，请输出文本内容的正确类型"


def make_rows(kind: str, n: int, seed: int = 42) -> list[list[dict[str, str]]]:
    """Conversations of one kind.

    Args:
        kind: ``classification`` (50 to 900 tokens, long-tailed, an answer of a few tokens), ``extraction`` (120 to 250 tokens, an answer of
            60 to 120), ``capybara`` (the four published conversations) or ``documents`` (their four documents, each one message).
        n: how many.
        seed: equal seeds give equal rows.

    Returns:
        For each row its messages.
    """
    if kind in ("capybara", "documents"):
        rows = _capybara() if kind == "capybara" else _documents()
        return [rows[i % len(rows)] for i in range(n)]
    if kind == "extraction":
        return [_messages(row["system"] or SYSTEM, row["instruction"], row["output"]) for row in make_complaints(n, seed)]
    dice = random.Random(seed)
    words = [row["instruction"] for row in make_complaints(200, seed)]
    made = []
    for _ in range(n):
        n_characters = min(1300, max(40, int(dice.lognormvariate(5.3, 0.8))))
        text = "".join(dice.choices(words, k=1 + n_characters // 60))[:n_characters]
        label = dice.choice(LABELS)
        made.append(_messages(CLASSIFY, f"文本:{text}（{label}）,类型选型:{list(LABELS)}", label))
    return made


def _capybara() -> list[list[dict[str, str]]]:
    """With the empty system message that was published, so that no template puts its own."""
    read = json.loads((CAPYBARA / "sft_train.json").read_text(encoding="utf-8"))
    return [[{"role": "system", "content": ""}, *(m for m in row["messages"] if m["role"] != "system")] for row in read]


def _documents() -> list[list[dict[str, str]]]:
    files = sorted((CAPYBARA / "raw").glob("*.txt"))
    return [[{"role": "assistant", "content": file.read_text(encoding="utf-8")}] for file in files]


def read_rows(path: Path, n: int) -> list[list[dict[str, str]]]:
    """Conversations of a file of JSON lines, as published data sets have them.

    Args:
        path: rows with ``text``, ``category`` and ``output``, or with ``instruction`` and ``output``.
        n: how many, from the start.

    Returns:
        For each row its messages.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    found: list[dict[str, Any]] = [json.loads(line) for line in lines if line][:n]
    return [
        _messages(
            row.get("system") or CLASSIFY, row.get("instruction") or f"文本:{row['text']},类型选型:{row['category']}", str(row["output"])
        )
        for row in found
    ]


def _messages(system: str, user: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}, {"role": "assistant", "content": answer}]


def by_steps(rows: list[list[dict[str, str]]], rows_per_step: int) -> list[list[dict[str, str]]]:
    """Rows in the order in which everyone trains on them: the same rows in each step, similar lengths beside each other within it."""
    ordered = []
    for start in range(0, len(rows) // rows_per_step * rows_per_step, rows_per_step):
        ordered += sorted(rows[start : start + rows_per_step], key=lambda row: -sum(len(message["content"]) for message in row))
    return ordered
