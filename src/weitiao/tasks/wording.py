"""How well a text matches references in its words: ROUGE-L, BLEU and CIDEr-D, as per-row statistics that can be summed.

Words are lower-case runs of letters and digits; Chinese, Japanese and Korean characters are words of their own, punctuation is left out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from weitiao.tasks.scoring import ratio

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+(?:['’][^\W_{CJK}]+)?")
N_MAX = 4
"""Longest n-gram of BLEU and CIDEr."""
CIDER_SIGMA = 6.0
"""Width of CIDEr-D's penalty on a length that differs, in words."""

Frequencies = Mapping[tuple[str, ...], int]


def words(text: str) -> list[str]:
    """The words of a text."""
    return WORD.findall(text.lower())


# ---- ROUGE-L ----------------------------------------------------------------------------------------------------------


def rouge_l(prediction: Sequence[str], references: Sequence[Sequence[str]], beta: float = 1.0) -> float:
    """ROUGE-L: the F measure of the longest common subsequence.

    Args:
        prediction: words.
        references: words of each reference; the best precision and the best recall over them count.
        beta: weight of recall; 1 for answers, 1.2 for captions as in the COCO evaluation.

    Returns:
        A value in [0, 1]; 1 where prediction and a reference are both empty.
    """
    from rapidfuzz.distance import LCSseq

    if not prediction:
        return float(any(not reference for reference in references))
    common = [LCSseq.similarity(prediction, reference) for reference in references]
    precision = max(common) / len(prediction)
    recall = max(n / len(reference) if reference else 0.0 for n, reference in zip(common, references, strict=True))
    bottom = recall + beta**2 * precision
    return (1 + beta**2) * precision * recall / bottom if bottom else 0.0


# ---- BLEU -------------------------------------------------------------------------------------------------------------


def bleu_counts(prediction: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Sacrebleu's statistics of one row: matched and all n-grams for n of 1 to 4, the length and the closest reference's length."""
    import sacrebleu

    bleu = sacrebleu.BLEU(tokenize="none", smooth_method="none", force=True)
    score = bleu.corpus_score([" ".join(prediction)], [[" ".join(reference)] for reference in references])
    matched = {f"bleu_matched_{n + 1}": float(count) for n, count in enumerate(score.counts)}
    total = {f"bleu_total_{n + 1}": float(count) for n, count in enumerate(score.totals)}
    return {**matched, **total, "bleu_length": float(score.sys_len), "bleu_reference_length": float(score.ref_len)}


def bleu(sums: Mapping[str, np.ndarray]) -> np.ndarray:
    """Corpus BLEU-4 in [0, 1] without smoothing, from summed ``bleu_counts``."""
    precisions = [ratio(sums[f"bleu_matched_{n}"], sums[f"bleu_total_{n}"], 0.0) for n in range(1, N_MAX + 1)]
    length, wanted = np.asarray(sums["bleu_length"], dtype=np.float64), np.asarray(sums["bleu_reference_length"], dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.exp(sum((np.log(precision) for precision in precisions), np.zeros_like(length)) / N_MAX)
        brevity = np.where(length < wanted, np.exp(1 - ratio(wanted, length, np.inf)), 1.0)
    return np.asarray(mean * brevity)


# ---- CIDEr-D ----------------------------------------------------------------------------------------------------------


def document_frequencies(references_of_rows: Iterable[Sequence[Sequence[str]]]) -> dict[tuple[str, ...], int]:
    """In the references of how many rows each n-gram occurs."""
    frequencies: Counter[tuple[str, ...]] = Counter()
    for references in references_of_rows:
        frequencies.update({gram for reference in references for gram in _grams(reference)})
    return dict(frequencies)


def cider_d(prediction: Sequence[str], references: Sequence[Sequence[str]], frequencies: Frequencies, n_rows: int) -> float:
    """CIDEr-D (Vedantam et al., 2015) of one row: TF-IDF weighted n-gram agreement, n of 1 to 4, mean over the references.

    Args:
        prediction: words.
        references: words of each reference.
        frequencies: of n-grams over the references of all rows.
        n_rows: rows that the frequencies were counted on.

    Returns:
        A value in [0, 10].
    """
    if not references:
        return 0.0
    log_rows = math.log(n_rows) if n_rows else 0.0
    mine, my_norms = _vectors(prediction, frequencies, log_rows)
    total = 0.0
    for reference in references:
        theirs, their_norms = _vectors(reference, frequencies, log_rows)
        penalty = math.exp(-((len(prediction) - len(reference)) ** 2) / (2 * CIDER_SIGMA**2))
        for n in range(N_MAX):
            dot = sum(min(weight, theirs[n].get(gram, 0.0)) * theirs[n].get(gram, 0.0) for gram, weight in mine[n].items())
            if my_norms[n] and their_norms[n]:
                total += penalty * dot / (my_norms[n] * their_norms[n])
    return 10 * total / (N_MAX * len(references))


def _vectors(tokens: Sequence[str], frequencies: Frequencies, log_rows: float) -> tuple[list[dict[tuple[str, ...], float]], list[float]]:
    vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(N_MAX)]
    for gram, count in _grams(tokens).items():
        vectors[len(gram) - 1][gram] = count * (log_rows - math.log(max(1, frequencies.get(gram, 0))))
    return vectors, [math.sqrt(sum(weight**2 for weight in vector.values())) for vector in vectors]


def _grams(tokens: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for n in range(1, N_MAX + 1) for i in range(len(tokens) - n + 1))
