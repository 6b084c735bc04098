"""How likely a given answer is: summed negative log likelihood of the tokens that training would train."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weitiao.infer.batches import Prompt
from weitiao.infer.network import Network, token_log_probs
from weitiao.infer.vision import Seen, vision_inputs
from weitiao.seams import Answer


def likelihood_batch(
    network: Network, rows: Sequence[Prompt], trained: Sequence[Sequence[bool]], pad_token_id: int, seen: Seen | None
) -> list[tuple[int, Answer]]:
    """Score the answers of whole conversations.

    Args:
        network: the plain network, in eval mode, without gradients.
        rows: whole conversations as tokens.
        trained: per row, which tokens belong to an answer. The first token of a row follows nothing and is never counted.
        pad_token_id: fills short rows up; never looked at.
        seen: the batch's pictures, or None.

    Returns:
        ``(row.index, answer)``: ``nll`` in nats, summed over ``n_new_tokens`` tokens; no text.
    """
    device = network.device
    n_columns = max(len(row.token_ids) for row in rows)
    chunk_BN = torch.tensor([row.token_ids + [pad_token_id] * (n_columns - len(row.token_ids)) for row in rows], device=device)
    hidden_BNH = network.base_model(input_ids=chunk_BN, use_cache=False, **vision_inputs(seen, device)).last_hidden_state
    places = [[i for i, on in enumerate(flags) if on and i > 0] for flags in trained]
    before = torch.tensor([(i, place - 1) for i, row in enumerate(places) for place in row], dtype=torch.long, device=device).reshape(-1, 2)
    tokens = [row.token_ids[place] for row, row_places in zip(rows, places, strict=True) for place in row_places]
    found = token_log_probs(network, hidden_BNH[before[:, 0], before[:, 1]], range(len(tokens)), tokens)
    return [
        (row.index, Answer("", len(row.token_ids) - len(log_probs), len(log_probs), "stop", nll=-float(log_probs.double().sum())))
        for row, log_probs in zip(rows, torch.split(found, [len(row) for row in places]), strict=True)
    ]
