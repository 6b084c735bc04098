"""Run folders as the path leaves them behind, one per kind of work, for tests of the report. Every figure is written here."""

import json
import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

EVIL = "<script>alert('x')</script> & \"quoted\""
"""A text that breaks a page which does not escape."""

COMPLAINTS = [
    (
        "龙琳",
        "宁夏回族自治区璐市城东林街g座 955491",
        "nafan@example.com",
        "小区垃圾堆积成山，晚上噪音扰人清梦，停车难上加难，简直无法忍受！",
    ),
    ("陈建华", "广东省深圳市南山区科苑路15号", "chen.jh@example.org", "快递被放在门口丢了，客服一直说在处理，已经两周没有回音。"),
    ("王秀英", "北京市朝阳区望京街道8号院", "wxy88@example.cn", "电梯坏了三天没人修，老人上下楼非常不方便。"),
    ("李强", "四川省成都市武侯区人民南路四段", "liq@example.net", "楼下餐馆油烟直接排到窗口，投诉多次无效。"),
]
SCORES: dict[str, dict[str, Any]] = {
    "extraction": {
        "baseline": {
            "metrics": {"field_f1": 0.6283185307, "exact_match": 0.225, "json_valid": 0.95},
            "intervals": {"field_f1": [0.5712, 0.6834], "exact_match": [0.1, 0.35], "json_valid": [0.875, 1.0]},
            "length_limited": 0.05,
        },
        "tuned": {
            "metrics": {"field_f1": 0.9812345678, "exact_match": 0.925, "json_valid": 1.0},
            "intervals": {"field_f1": [0.9601, 0.9969], "exact_match": [0.825, 1.0], "json_valid": [1.0, 1.0]},
            "length_limited": 0.0,
        },
        "gain": {"field_f1": [0.3529160371, 0.2955, 0.4107], "exact_match": [0.7, 0.55, 0.85], "json_valid": [0.05, 0.0, 0.125]},
    },
    "classification": {
        "baseline": {
            "metrics": {"accuracy": 0.51, "macro_f1": 0.43},
            "intervals": {"accuracy": [0.45, 0.57], "macro_f1": [0.37, 0.49]},
            "length_limited": 0.0,
        },
        "tuned": {
            "metrics": {"accuracy": 0.94, "macro_f1": 0.9275},
            "intervals": {"accuracy": [0.91, 0.965], "macro_f1": [0.89, 0.955]},
            "length_limited": 0.0,
        },
        "gain": {"accuracy": [0.43, 0.37, 0.49], "macro_f1": [0.4975, 0.43, 0.56]},
    },
    "ner": {
        "baseline": {
            "metrics": {"entity_f1": 0.71, "entity_precision": 0.7, "entity_recall": 0.72},
            "intervals": {"entity_f1": [0.66, 0.76], "entity_precision": [0.64, 0.76], "entity_recall": [0.66, 0.78]},
            "length_limited": 0.0,
        },
        "tuned": {
            "metrics": {"entity_f1": 0.72, "entity_precision": 0.73, "entity_recall": 0.7102},
            "intervals": {"entity_f1": [0.67, 0.77], "entity_precision": [0.67, 0.79], "entity_recall": [0.65, 0.77]},
            "length_limited": 0.0,
        },
        "gain": {"entity_f1": [0.01, -0.02, 0.04], "entity_precision": [0.03, -0.01, 0.07], "entity_recall": [-0.0098, -0.05, 0.03]},
    },
    "chat": {
        "baseline": {
            "metrics": {"rouge_l": 0.2134, "perplexity": 21.4567},
            "intervals": {"rouge_l": [0.18, 0.25], "perplexity": [18.2, 25.1]},
            "length_limited": 0.3,
        },
        "tuned": {
            "metrics": {"rouge_l": 0.64, "perplexity": 3.1416},
            "intervals": {"rouge_l": [0.58, 0.7], "perplexity": [2.8, 3.6]},
            "length_limited": 0.0,
        },
        "gain": {"rouge_l": [0.4266, 0.36, 0.49], "perplexity": [-18.3151, -21.9, -15.2]},
    },
    "ocr": {
        "baseline": {
            "metrics": {"exact_match": 0.5, "cer": 0.08, "bleu": 0.83},
            "intervals": {"exact_match": [0.4, 0.6], "cer": [0.05, 0.11], "bleu": [0.78, 0.88]},
            "length_limited": 0.0,
        },
        "tuned": {
            "metrics": {"exact_match": 0.31, "cer": 0.19, "bleu": None},
            "intervals": {"exact_match": [0.22, 0.4], "cer": [0.15, 0.23], "bleu": [None, None]},
            "length_limited": 0.0,
        },
        "gain": {"exact_match": [-0.19, -0.28, -0.1], "cer": [0.11, 0.07, 0.15], "bleu": [None, None, None]},
    },
}
LABELS = ["体育", "财经", "科技", "Enviornment"]
DETAILS: dict[str, dict[str, dict[str, Any]]] = {
    "extraction": {
        "baseline": {
            "fields": {
                "name": {"precision": 0.9, "recall": 0.875, "f1": 0.8873239437, "tp": 35, "fp": 4, "fn": 5},
                "address": {"precision": 0.5, "recall": 0.45, "f1": 0.4736842105, "tp": 18, "fp": 18, "fn": 22},
                "email": {"precision": 0.95, "recall": 0.95, "f1": 0.95, "tp": 38, "fp": 2, "fn": 2},
                "question": {"precision": 0.25, "recall": 0.25, "f1": 0.25, "tp": 10, "fp": 30, "fn": 30},
            },
            "flags": {"address: not in the text": 4},
        },
        "tuned": {
            "fields": {
                "name": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "tp": 40, "fp": 0, "fn": 0},
                "address": {"precision": 0.975, "recall": 0.975, "f1": 0.975, "tp": 39, "fp": 1, "fn": 1},
                "email": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "tp": 40, "fp": 0, "fn": 0},
                "question": {"precision": 0.95, "recall": 0.95, "f1": 0.95, "tp": 38, "fp": 2, "fn": 2},
            },
        },
    },
    "classification": {
        "baseline": {"classes": {label: {"precision": 0.5, "recall": 0.5, "f1": 0.5, "tp": 25, "fp": 25, "fn": 25} for label in LABELS}},
        "tuned": {
            "classes": {
                "体育": {"precision": 0.98, "recall": 0.96, "f1": 0.9699, "tp": 48, "fp": 1, "fn": 2},
                "财经": {"precision": 0.9, "recall": 0.92, "f1": 0.9099, "tp": 46, "fp": 5, "fn": 4},
                "科技": {"precision": 0.94, "recall": 0.94, "f1": 0.94, "tp": 47, "fp": 3, "fn": 3},
                "Enviornment": {"precision": 0.94, "recall": 0.94, "f1": 0.94, "tp": 47, "fp": 3, "fn": 3},
            },
            "confusion": {"labels": LABELS, "rows_are_the_truth": [[48, 1, 1, 0], [0, 46, 2, 2], [1, 1, 47, 1], [0, 3, 0, 47]]},
            "confidence": {
                "temperature": 1.37,
                "ece": 0.021,
                "ece_raw": 0.064,
                "reliability": [
                    {"from": 0.4, "to": 0.5, "n": 6, "confidence": 0.46, "accuracy": 0.5},
                    {"from": 0.7, "to": 0.8, "n": 24, "confidence": 0.76, "accuracy": 0.79},
                    {"from": 0.9, "to": 1.0, "n": 170, "confidence": 0.985, "accuracy": 0.976},
                ],
                "curve": [[0.1, 1.0], [0.5, 0.99], [0.8, 0.97], [1.0, 0.94]],
                "coverage": [
                    {
                        "precision": 0.95,
                        "confidence": 0.4711,
                        "valid": {"coverage": 0.99, "precision": 0.952},
                        "test": {"coverage": 0.985, "precision": 0.949, "n": 197},
                    },
                    {
                        "precision": 0.99,
                        "confidence": None,
                        "valid": {"coverage": 0.0, "precision": None},
                        "test": {"coverage": 0.0, "precision": None, "n": 0},
                    },
                ],
            },
        },
    },
    "ner": {
        "baseline": {"types": {"person": {"precision": 0.7, "recall": 0.72, "f1": 0.7099, "tp": 72, "fp": 31, "fn": 28}}},
        "tuned": {
            "types": {"person": {"precision": 0.73, "recall": 0.71, "f1": 0.7198, "tp": 71, "fp": 26, "fn": 29, "support": 100}},
            "rows_without_entities": {"n": 25, "right": 22},
        },
    },
    "chat": {"baseline": {"lengths": {"answers": 61.5, "references": 13.0}}, "tuned": {"lengths": {"answers": 14.25, "references": 13.0}}},
    "ocr": {
        "baseline": {"by_length": {"up to 20": {"n": 30, "exact_match": 0.6}, "over 100": {"n": 10, "exact_match": 0.2}}},
        "tuned": {"by_length": {"over 100": {"n": 10, "exact_match": 0.1}, "up to 20": {"n": 30, "exact_match": 0.38}}},
    },
}
SUSPECTS: list[dict[str, Any]] = [
    {
        "id": "n17",
        "origin": "news.jsonl:17",
        "prompt": f"文本:央行降准{EVIL},类型选型:{LABELS}",
        "answer": "体育",
        "model_answer": "财经",
        "loss": 4.605,
        "probability": 0.01,
    },
    {
        "id": "n4",
        "origin": "news.jsonl:4",
        "prompt": "文本:新款手机",
        "answer": "财经",
        "model_answer": "科技",
        "loss": 1.2,
        "probability": 0.3,
    },
]
TASKS: dict[str, str] = {
    "extraction": "{kind: extraction, fields: [name, address, email, question]}",
    "classification": "{kind: classification}",
    "ner": "{kind: ner}",
    "chat": "{kind: chat, questions: ['你帮我回答一下 Capybara 翻译软件的主要特性有什么?']}",
    "ocr": "{kind: ocr}",
}
BASES = {"ocr": "Qwen/Qwen2-VL-2B-Instruct"}


def make_run(folder: Path, kind: str, *, n_steps: int = 120) -> Path:
    """A finished run.

    Args:
        folder: of the run; made here.
        kind: of work, a key of ``SCORES``.
        n_steps: logged steps; an evaluation stands at every tenth of them.

    Returns:
        ``folder``.
    """
    for name in ("baseline", "tuned", "best", "merged", "checkpoints"):
        (folder / name).mkdir(parents=True)
    base = BASES.get(kind, "Qwen/Qwen3-0.6B")
    recipe = f"# {EVIL}\ntask: {TASKS[kind]}\nmodel:\n  path: {base}\nevaluate: {{}}\ntrain: {{learning_rate: 0.0001}}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    _write(folder / "run.json", _facts(kind, n_steps))
    _write(folder / "data.json", _data(kind))
    _write_lines(folder / "events.jsonl", [_event(step) for step in range(1, n_steps + 1)])
    main = next(iter(SCORES[kind]["tuned"]["metrics"]))
    every = max(1, n_steps // 10)
    points = [(step, 0.6 + 0.38 * math.tanh(3 * step / n_steps)) for step in range(every, n_steps + 1, every)]
    _write_lines(folder / "evaluations.jsonl", [{"step": step, "seconds": 2.5, "metrics": {main: value}} for step, value in points])
    answers = answer_rows(folder, kind)
    for side in ("baseline", "tuned"):
        scores = side_scores(kind, side)
        _write(folder / side / "scores.json", scores)
        _write_lines(folder / side / "answers.jsonl", answers[side])
    comparison = {side: side_scores(kind, side) for side in ("baseline", "tuned")}
    _write(folder / "scores.json", {**comparison, "gain": SCORES[kind]["gain"]})
    if kind == "classification":
        _write_lines(folder / "suspects.jsonl", SUSPECTS)
    if kind == "chat":
        question = "你帮我回答一下 Capybara 翻译软件的主要特性有什么?"
        _write(folder / "baseline" / "questions.json", [{"question": question, "answer": "Capybara 是一种动物。"}])
        _write(folder / "tuned" / "questions.json", [{"question": question, "answer": f"多语言、离线、{EVIL}"}])
    return folder


def side_scores(kind: str, side: str) -> dict[str, Any]:
    """The content of a side's ``scores.json``."""
    return {"n": 40, **SCORES[kind][side], "seconds": 31.5, "details": DETAILS.get(kind, {}).get(side, {})}


def answer_rows(folder: Path, kind: str) -> dict[str, list[dict[str, Any]]]:
    """Forty rows a side: the base is right in every fourth, the tuned model in all but rows 7, 8 (right before) and 11."""
    rows: dict[str, list[dict[str, Any]]] = {"baseline": [], "tuned": []}
    for i in range(40):
        prompt, right, wrong = EXAMPLES[kind](i)
        for side, is_right in (("baseline", i % 4 == 0), ("tuned", i not in {7, 8, 11})):
            value = right if is_right else wrong
            score = 1.0 if is_right else round(0.5 - i / 100, 4)
            row = {
                "id": f"row-{i}",
                "origin": f"complaints{EVIL if i == 8 else ''}.jsonl:{i + 1}",
                "prompt": prompt,
                "answer": json.dumps(value, ensure_ascii=False),
                "ended_by": "length" if side == "baseline" and i in {1, 2} else "stop",
                "reference": right,
                "prediction": None if side == "baseline" and i == 3 else value,
                "is_valid": True,
                "scores": {next(iter(SCORES[kind]["tuned"]["metrics"])): score},
            }
            if kind == "classification":
                row["probabilities"] = {"体育": 0.75, "财经": 0.25}
            if side == "tuned" and i == 11:
                row["flags"] = ["address: not in the text"]
            if kind == "ocr":
                row["images"] = [str(_picture(folder, i))]
            rows[side].append(row)
    return rows


def _extraction_example(i: int) -> tuple[str, Any, Any]:
    name, address, email, question = COMPLAINTS[i % 4]
    prompt = f"{name}，{address}，邮箱 {email}。{question}" + (EVIL if i == 8 else "") + "请尽快处理。" * (i % 5)
    right = {"name": name, "address": address, "email": email, "question": question}
    return prompt, right, {**right, "address": address[:-3] + "楼", "question": None if i == 11 else question[:10] + EVIL}


def _classification_example(i: int) -> tuple[str, Any, Any]:
    return f"文本:第{i}条新闻，{'内容' * (i + 1)},类型选型:{LABELS}", LABELS[i % 4], LABELS[(i + 1) % 4]


def _ner_example(i: int) -> tuple[str, Any, Any]:
    name = COMPLAINTS[i % 4][0]
    right = [
        {"start": 0, "end": len(name), "text": name, "label": "person"},
        {"start": 6, "end": 8, "text": "北京", "label": "geo-political"},
    ]
    return f"{name}昨天到北京出差{'，' * (i % 7)}", right, [right[0], {"start": 6, "end": 8, "text": "北京", "label": EVIL}]


def _chat_example(i: int) -> tuple[str, Any, Any]:
    return (
        f"第{i}个问题：Capybara 有什么特性？{'请详细说明。' * (i % 6)}",
        "支持多语言，可以离线使用。",
        f"支持多种语言，可以在线使用{EVIL}。",
    )


def _ocr_example(i: int) -> tuple[str, Any, Any]:
    return "你是一个LaText OCR助手", rf"\frac {{ x ^ {{ {i} }} }} {{ 2 }}", rf"\frac {{ x _ {{ {i} }} }} {{ 2 "


EXAMPLES = {
    "extraction": _extraction_example,
    "classification": _classification_example,
    "ner": _ner_example,
    "chat": _chat_example,
    "ocr": _ocr_example,
}


def _picture(folder: Path, i: int) -> Path:
    path = folder.parent / f"formula-{i}.png"
    if not path.exists():
        picture = Image.new("L", (900, 200), 255)
        ImageDraw.Draw(picture).text((30, 60), f"x^{i} / 2", fill=0, font_size=80)
        picture.save(path)
    return path


def _event(step: int) -> dict[str, Any]:
    loss = 2.1 * math.exp(-step / 25) + 0.06 + 0.05 * math.sin(step * 1.7)
    rate = 1e-4 * (1 - step / 10_001)
    norm = 0.8 + 0.4 * abs(math.cos(step))
    return {
        "step": step,
        "epoch": step / 40,
        "loss": loss,
        "learning_rate": rate,
        "grad_norm": norm,
        "tokens": 8192 * step,
        "seconds": step * 1.4,
    }


def _facts(kind: str, n_steps: int) -> dict[str, Any]:
    return {
        "weitiao": "0.1.0",
        "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
        "machine": {"processor": "AMD EPYC", "n_processors": 2},
        "device": "cpu",
        "dtype": "float32",
        "seed": 42,
        "hashes": {"data": "ab" * 32, "weights": "cd" * 32, "recipe": "ef" * 32},
        "n_parameters": 601_096_192,
        "n_trainable": 5_046_272,
        "started": "2026-03-02T09:00:00+00:00",
        "finished": "2026-03-02T09:14:05+00:00",
        **(
            {"suspects": {"n_rows": 200, "n_train": 316, "n_found": 2, "seconds": 12.5, "out_of_time": False}}
            if kind == "classification"
            else {}
        ),
        "status": "finished",
        "training": {
            "n_steps": n_steps,
            "best_step": n_steps - n_steps % 10,
            "best_metric": 0.97,
            "select_by": next(iter(SCORES[kind]["tuned"]["metrics"])),
            "seconds": 532.0,
            "tokens_per_second": 1234.5,
            "peak_memory_bytes": 3_210_000_000,
        },
    }


def _data(kind: str) -> dict[str, Any]:
    lengths = {
        "edges": [3, 50, 100, 200, 401],
        "counts": [120, 160, 90, 25],
        "min": 3,
        "median": 71.0,
        "mean": 88.2,
        "p99": 320.0,
        "max": 400,
    }
    statistics: dict[str, Any] = {"input_characters": lengths, "candidates": []}
    if kind == "classification":
        names = {"体育": 120, "财经": 110, "科技": 95, "Enviornment": 70}
        statistics["labels"] = {name: {"train": n - 20, "valid": 10, "test": 10} for name, n in names.items()}
    if kind == "ner":
        statistics["entities"] = {"rows_without": 249, "by_type": {"person": 130, "place": 70}}
    return {
        "shape": f"alpaca: instruction -> text, output -> answer ({EVIL})",
        "n_read": 400,
        "n_kept": 395,
        "rejected": {"empty answer": 3, "broken JSON": 2},
        "rejected_examples": {"empty answer": ["complaints.jsonl:17"], "broken JSON": ["complaints.jsonl:22", "complaints.jsonl:83"]},
        "findings": [
            {
                "code": "near-duplicates",
                "severity": "note",
                "count": 70,
                "message": "70 rows ask nearly the same question",
                "origins": ["complaints.jsonl:5", "complaints.jsonl:9"],
                "hint": "",
            },
            {
                "code": "value-not-in-text",
                "severity": "warning",
                "count": 2,
                "message": f"an answer has a value that does not stand in the text {EVIL}",
                "origins": ["complaints.jsonl:22", "complaints.jsonl:83"],
                "hint": "mend the rows, or set copied: false",
            },
        ],
        "split": {"train": 316, "valid": 39, "test": 40},
        "fingerprint": "12" * 32,
        "statistics": statistics,
        "tokens": {
            "rows": 316,
            "tokens": 41_234,
            "supervised_tokens": 12_345,
            "shortened": 4,
            "dropped": {"row-9": f"complaints.jsonl:9: the answer alone is longer than max_tokens {EVIL}"},
            "max_tokens": 1024,
            "longest": 812,
            "histogram": {"edges": [40.0, 120.5, 201.0, 812.0], "counts": [200, 100, 16]},
        },
    }


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
