"""How likely a given answer is: summed negative log likelihood of the tokens that training would train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from weitiao.infer.batches import Prompt
from weitiao.infer.cache import SlotCache
from weitiao.infer.network import Reader, token_log_probs
from weitiao.infer.vision import prompt_span
from weitiao.seams import Answer, Vision


def likelihood_batch(
    reader: Reader, cache: SlotCache, rows: Sequence[Prompt], trained: Sequence[Sequence[bool]], vision: Vision | None
) -> list[tuple[int, Answer]]:
    """Score the answers of whole conversations.

    Args:
        reader: reads tokens.
        cache: without rows, and left so.
        rows: whole conversations as tokens.
        trained: per row, which tokens belong to an answer. The first token of a row follows nothing and is never counted.
        vision: of a vision model.

    Returns:
        ``(row.index, answer)``: ``nll`` in nats, summed over ``n_new_tokens`` tokens; no text.
    """
    cache.reserve(len(rows), max(len(row.token_ids) for row in rows))
    hidden_NH = reader.read(cache, [prompt_span(vision, row, cache.open(None, 0), 0) for row in rows])
    cache.lengths.clear()
    positions: list[int] = []
    tokens: list[int] = []
    counts = []
    n_before = 0
    for row, flags in zip(rows, trained, strict=True):
        places = [i for i, on in enumerate(flags) if on and i > 0]
        positions += [n_before + place - 1 for place in places]
        tokens += [row.token_ids[place] for place in places]
        counts.append(len(places))
        n_before += len(row.token_ids)
    found = token_log_probs(reader, hidden_NH, positions, tokens)
    return [
        (row.index, Answer("", len(row.token_ids) - len(log_probs), len(log_probs), "stop", nll=-float(log_probs.double().sum())))
        for row, log_probs in zip(rows, torch.split(found, counts), strict=True)
    ]


def joined(pieces: Sequence[Answer]) -> Answer:
    """The likelihood of a document from that of its pieces.

    Args:
        pieces: at least one.

    Returns:
        Their sums of ``nll`` and tokens.
    """
    if len(pieces) == 1:
        return pieces[0]
    return replace(
        pieces[0],
        nll=sum(piece.nll or 0.0 for piece in pieces),
        n_prompt_tokens=sum(piece.n_prompt_tokens for piece in pieces),
        n_new_tokens=sum(piece.n_new_tokens for piece in pieces),
    )
