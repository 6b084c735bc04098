"""Samples to labelled rows. Every sample becomes a row, or is listed with the reason why not.

The prompt may take ``max_tokens`` less what the longest answer needs. That limit belongs to the run: evaluation and prediction shorten a
text by it too, so a text is cut at the same place whether its answer is known or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from weitiao.errors import Problems, RowError, WeitiaoError
from weitiao.log import progress
from weitiao.recipe.sections import Encode
from weitiao.seams import IGNORED, EncodedRow, EncodedSet, Rendered, Renderer, Sample, SampleSet

N_EXAMPLES = 3


def encode_samples(samples: SampleSet, renderer: Renderer, section: Encode, *, allow_dropped: float = 0.01) -> EncodedSet:
    """Turn the training and validation parts into labelled rows.

    Args:
        samples: each with an answer; a sample that is one assistant message is a document, cut into rows of ``max_tokens``.
        renderer: makes the tokens.
        section: the recipe's ``encode``.
        allow_dropped: share of training samples that may fail to fit, in [0, 1].

    Returns:
        The rows, what was shortened and what was dropped, and the prompt limit of the run.

    Raises:
        Problems: more than ``allow_dropped`` of the training samples cannot be encoded, or none is left.
    """
    rendered = _render_all(samples.train, renderer)
    limit = _prompt_limit([row for row, _ in rendered.values()], section.max_tokens)
    dropped: dict[str, str] = {}
    problems: list[WeitiaoError] = []
    train: list[EncodedRow] = []
    n_shortened = 0
    for index, sample in enumerate(samples.train):
        try:
            row = _fitted(sample, rendered[index], renderer, limit, section.max_tokens)
        except RowError as error:
            dropped[sample.id] = f"{sample.origin}: {error.what}"
            problems.append(RowError(error.what, where=sample.origin, hint=error.hint))
            continue
        n_shortened += row.n_shortened > 0
        train += _rows(row, section.max_tokens)
    _refuse_too_many(problems, len(samples.train), allow_dropped)
    lengths = [len(row.input_ids) for row in train]
    n_supervised = sum(sum(label != IGNORED for label in row.labels) for row in train)
    return EncodedSet(train, sum(lengths), n_supervised, n_shortened, dropped, lengths, limit)


def token_report(encoded: EncodedSet, max_tokens: int) -> dict[str, Any]:
    """What encoding did, for ``data.json`` and the report.

    Args:
        encoded: the encoded training part.
        max_tokens: the recipe's limit.

    Returns:
        Counts and a histogram of row lengths in tokens, JSON-able.
    """
    counts, edges = np.histogram(list(encoded.lengths) or [0], bins=min(20, max(1, len(set(encoded.lengths)))))
    return {
        "rows": len(encoded.lengths),
        "tokens": encoded.n_tokens,
        "supervised_tokens": encoded.n_supervised_tokens,
        "shortened": encoded.n_shortened,
        "dropped": dict(encoded.dropped),
        "max_tokens": max_tokens,
        "max_prompt_tokens": encoded.max_prompt_tokens,
        "longest": max(encoded.lengths, default=0),
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
    }


def _render_all(samples: Sequence[Sample], renderer: Renderer) -> Mapping[int, tuple[Rendered, int]]:
    """Every conversation at full length, with the number of its last answer's tokens."""
    rendered: dict[int, tuple[Rendered, int]] = {}
    with progress("tokenising", len(samples)) as advance:
        for index, sample in enumerate(samples):
            row = renderer.conversation(sample.messages)
            rendered[index] = (row, _n_answer_tokens(row))
            advance(1)
    return rendered


def _n_answer_tokens(row: Rendered) -> int:
    """Tokens of the last answer: the last run of trained ones."""
    n = 0
    for trained in reversed(row.trained):
        if trained:
            n += 1
        elif n:
            break
    return n


def _prompt_limit(rendered: Sequence[Rendered], max_tokens: int) -> int:
    """``max_tokens`` less the longest answer, but never less than half of it; documents have no prompt and do not count."""
    longest = max((_n_answer_tokens(row) for row in rendered if not all(row.trained)), default=0)
    return max_tokens - min(longest, max_tokens // 2)


def _fitted(sample: Sample, full: tuple[Rendered, int], renderer: Renderer, limit: int, max_tokens: int) -> Rendered:
    row, n_answer = full
    if all(row.trained):
        return row
    if _n_prompt(row, n_answer) > limit:
        row = renderer.conversation(sample.messages, limit)
    if _last_trained(row) > max_tokens:
        raise RowError(
            f"the answer has {n_answer} tokens and the shortened prompt {_n_prompt(row, n_answer)}, more than the {max_tokens} allowed",
            hint="raise encode.max_tokens",
        )
    return row


def _n_prompt(row: Rendered, n_answer: int) -> int:
    return _last_trained(row) - n_answer


def _last_trained(row: Rendered) -> int:
    """Tokens up to and including the last trained one; what follows cannot change the loss."""
    return max(i for i, trained in enumerate(row.trained) if trained) + 1


def _rows(row: Rendered, max_tokens: int) -> Iterator[EncodedRow]:
    end = _last_trained(row)
    step = max_tokens if all(row.trained) else end
    for start in range(0, end, step):
        ids = row.input_ids[start : min(start + step, end)]
        labels = [token if trained else IGNORED for token, trained in zip(ids, row.trained[start:end], strict=False)]
        if len(ids) > 1:
            yield EncodedRow(ids, labels, (len(ids),), 0, row.image_inputs)


def _refuse_too_many(problems: Sequence[WeitiaoError], n_samples: int, allow_dropped: float) -> None:
    if len(problems) < n_samples and len(problems) <= allow_dropped * n_samples:
        return
    shown = [*problems[:N_EXAMPLES]]
    raise Problems(
        shown,
        what=f"{len(problems)} of {n_samples} training rows do not fit into encode.max_tokens"
        + (f"; the first {len(shown)}:" if len(problems) > len(shown) else ":"),
    )
