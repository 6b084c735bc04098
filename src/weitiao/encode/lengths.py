"""What is to be said of lengths in tokens: how they are spread, how many rows were cut or left out, and which row is the longest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from weitiao.seams import DataReport, EncodedSet, Finding

N_BINS = 20


def spread(values: np.ndarray) -> dict[str, Any]:
    """How whole numbers are spread.

    Args:
        values: at least one, >= 0.

    Returns:
        ``{"edges": n+1 bounds, "counts": n, "min", "median", "p99", "max"}``; bins hold ``low <= value < high``, the last one its end too.
    """
    low, high = int(values.min()), int(values.max())
    counts, edges = np.histogram(values, bins=np.linspace(low, max(high, low + 1), min(N_BINS, max(1, high - low)) + 1).round())
    median, p99 = (float(np.percentile(values, share)) for share in (50, 99))
    return {"edges": edges.astype(int).tolist(), "counts": counts.tolist(), "min": low, "median": median, "p99": p99, "max": high}


def length_findings(facts: Mapping[str, Any], n_samples: int, max_tokens: int) -> tuple[Finding, ...]:
    """Findings about lengths.

    Args:
        facts: what encoding noted.
        n_samples: training rows.
        max_tokens: the recipe's limit.

    Returns:
        ``shortened-rows``, ``too-long-rows``, ``longest-row`` and ``image-tokens``, those that there is something to say of.
    """
    findings = []
    lengths, images, n_dropped = facts["lengths"], facts["image_tokens"], facts["n_dropped"]
    if n_dropped:
        what, _, hint = facts["examples"][0]
        origins = tuple(where for _, where, _ in facts["examples"])
        message = f"{n_dropped} of {n_samples} training rows cannot be encoded with encode.max_tokens {max_tokens}: {what}"
        findings.append(Finding("too-long-rows", "warning", n_dropped, message, origins, hint))
    if facts["n_shortened"]:
        message = (
            f"{facts['n_shortened']} of {n_samples} training rows are shortened in the user's text to fit encode.max_tokens {max_tokens}"
        )
        hint = f"the longest has {lengths['max']:,} tokens: raise encode.max_tokens, or choose the end that stays with encode.keep"
        findings.append(Finding("shortened-rows", "warning", facts["n_shortened"], message, tuple(facts["shortened"]), hint))
    if lengths:
        usual = f"half have at most {lengths['median']:,.0f}, 99 % at most {lengths['p99']:,.0f}"
        message = f"the longest training row has {lengths['max']:,} tokens; {usual}"
        hint = "memory goes by the longest row: encode.max_tokens caps it"
        findings.append(Finding("longest-row", "note", 1, message, (lengths["at"],), hint))
    if images:
        message = f"images take up to {images['max']:,} tokens of a row; of half of the rows with images at most {images['median']:,.0f}"
        hint = "chat.images.max_pixels makes images smaller: fewer tokens, less time and memory"
        findings.append(Finding("image-tokens", "note", 1, message, (images["at"],), hint))
    return tuple(findings)


def with_tokens(report: DataReport, encoded: EncodedSet, max_tokens: int, allow_dropped: float) -> DataReport:
    """A data report with what encoding found.

    Args:
        report: of the data.
        encoded: its training part.
        max_tokens: the recipe's limit.
        allow_dropped: share of the rows that may be left out: a larger one is an error.

    Returns:
        The report with findings about lengths behind those of the same severity, and with ``tokens``.
    """
    too_many = len(encoded.dropped) > allow_dropped * report.split.get("train", 0)
    found = [
        replace(finding, severity="error") if finding.code == "too-long-rows" and too_many else finding for finding in encoded.findings
    ]
    order = ("error", "warning", "note")
    findings = sorted([*report.findings, *found], key=lambda finding: order.index(finding.severity))
    return replace(report, findings=tuple(findings), tokens=token_report(encoded, max_tokens))


def token_report(encoded: EncodedSet, max_tokens: int) -> dict[str, Any]:
    """What encoding did, for ``data.json`` and the report.

    Args:
        encoded: the encoded training part.
        max_tokens: the recipe's limit.

    Returns:
        Counts; ``histogram`` of the lengths in tokens before anything was cut and ``image_histogram`` of the tokens of images; JSON-able.
    """
    return {
        "rows": len(encoded.lengths),
        "tokens": encoded.n_tokens,
        "supervised_tokens": encoded.n_supervised_tokens,
        "shortened": encoded.n_shortened,
        "dropped": dict(encoded.dropped),
        "max_tokens": max_tokens,
        "max_prompt_tokens": encoded.max_prompt_tokens,
        "longest": max(encoded.lengths, default=0),
        "histogram": dict(encoded.full_lengths),
        "image_histogram": dict(encoded.image_tokens),
    }
