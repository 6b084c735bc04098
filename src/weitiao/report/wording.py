"""How figures read: names of metrics, units, durations, sizes."""

from __future__ import annotations

import json
import math
from typing import Any

LABELS = {
    "field_f1": "Field F1",
    "exact_match": "Exact match",
    "json_valid": "Valid JSON",
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "entity_f1": "Entity F1",
    "entity_precision": "Entity precision",
    "entity_recall": "Entity recall",
    "micro_f1": "Micro F1",
    "precision": "Precision",
    "recall": "Recall",
    "cer": "Character error rate",
    "bleu": "BLEU",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "meteor": "METEOR",
    "perplexity": "Perplexity",
    "ece": "Calibration error",
    "f1": "F1",
    "tp": "right",
    "fp": "wrong or surplus",
    "fn": "missed",
    "support": "in the truth",
    "token_probability": "Token probability",
    "similarity": "Similarity",
    "n": "rows",
}
MAIN_METRIC = {
    "extraction": "field_f1",
    "classification": "macro_f1",
    "ner": "entity_f1",
    "ocr": "cer",
    "caption": "cider",
    "chat": "rouge_l",
    "text": "perplexity",
}
"""What chooses the checkpoint of each kind of work where the recipe names no other metric."""
LOWER_IS_BETTER = frozenset({"cer", "perplexity", "ece", "loss"})
OWN_UNIT = frozenset({"perplexity", "cider", "loss"})
"""Metrics that are not shares of 1."""


def label(name: str) -> str:
    """What a metric is called on the page."""
    return LABELS.get(name, name.replace("_", " "))


def figure(name: str, value: float | None) -> str:
    """A metric's value with its unit."""
    if value is None or math.isnan(value):
        return "–"
    return number(value) if name in OWN_UNIT else f"{100 * value:.1f} %"


def difference(name: str, value: float) -> str:
    """A metric's change with its sign and unit."""
    sign = "+" if value >= 0 else "−"
    return f"{sign}{number(abs(value))}" if name in OWN_UNIT else f"{sign}{100 * abs(value):.1f} points"


def span(name: str, low: float, high: float, signed: bool = False) -> str:
    """An interval, the unit left to the figure beside it."""
    texts = []
    for value in (low, high):
        text = number(abs(value)) if name in OWN_UNIT else f"{100 * abs(value):.1f}"
        sign = "−" if value < 0 and text.strip("0.") else "+" if signed else ""
        texts.append(f"{sign}{text}")
    return f"{texts[0]} to {texts[1]}"


def number(value: float) -> str:
    """A number in three or four digits that count."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.2e}"
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time in the units that people use for it."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(n_bytes: float) -> str:
    """A number of bytes in MB or GB (powers of ten)."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def as_text(value: Any) -> str:
    """A value of an answer as people read it."""
    if value is None or value == "":
        return "—"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
