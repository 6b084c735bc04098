"""The few ways in which an engine calls the network. Everything here is exact: no approximation, no lasting change of the network.

Rows of a batch are filled up on the right while they are read (a causal network never looks there, so no mask is needed), and the
filled columns of the KV cache are masked while answers grow behind them; positions count real tokens only. That gives each row what
it would get alone, left padding included, at less cost: the reading pass keeps the maskless attention kernels.

Shape letters: B rows, N tokens of a chunk, T columns of the KV cache, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weitiao.errors import EngineError
from weitiao.infer.cache import RoomyCache
from weitiao.infer.vision import Seen, vision_inputs

Network = Any
"""A ``transformers.PreTrainedModel``; its methods are not typed."""

HEAD_POSITIONS = 256
"""Positions whose logits exist at the same time while scores are read: bounds memory at ``HEAD_POSITIONS * V`` numbers."""


@dataclass(slots=True)
class Reading:
    """A batch that was read up to its last prompt token, and where an answer goes on."""

    hidden: Tensor
    """(B, H): last hidden state of each row's last token."""
    cache: RoomyCache
    mask: Tensor
    """(B, T), bool: columns of the cache that belong to the row."""
    positions: Tensor
    """(B,): position of each row's next token."""


def plain_network(network: Any) -> Network:
    """The ``transformers`` model itself, adapter layers included where PEFT has put some in.

    Args:
        network: a ``PreTrainedModel`` or a PEFT model around one.

    Returns:
        The model whose ``base_model`` gives hidden states and whose output embeddings give logits.

    Raises:
        EngineError: the model keeps something else than plain keys and values, which batches here cannot be built from.
    """
    from peft import PeftModel

    plain: Network = network.get_base_model() if isinstance(network, PeftModel) else network
    kinds = set(getattr(plain.config.get_text_config(), "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise EngineError(
            f"the embedded engine answers with full-attention models only, and this one has layers of kind {', '.join(sorted(kinds))}",
            where=type(plain).__name__,
            hint="choose a Qwen2, Qwen2.5 or Qwen3 model, or one of their vision models",
        )
    return plain


@contextmanager
def answering(network: Network, dtype: torch.dtype) -> Iterator[None]:
    """Eval mode without gradients; every module that was in train mode is put back into it at the end.

    Args:
        network: the plain network.
        dtype: of the arithmetic, where weights that are being trained are kept in float32.

    Yields:
        Nothing.
    """
    in_training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.no_grad(), torch.autocast(network.device.type, dtype, enabled=dtype != network.dtype):
            yield
    finally:
        for module in in_training:
            module.training = True


def arithmetic_dtype(network: Network) -> torch.dtype:
    """The dtype that attention computes in here and now."""
    kind = network.device.type
    dtype: torch.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else network.dtype
    return dtype


def read_prefix(network: Network, token_ids: Sequence[int]) -> RoomyCache:
    """Keys and values of the tokens that all prompts begin with, computed once.

    Args:
        network: the plain network.
        token_ids: at least one token.

    Returns:
        A cache of one row.
    """
    cache = RoomyCache()
    input_ids = torch.tensor([list(token_ids)], device=network.device)
    network.base_model(input_ids=input_ids, past_key_values=cache, use_cache=True)
    return cache


def read_batch(
    network: Network, rows: Sequence[Sequence[int]], prefix: RoomyCache | None, pad_token_id: int, seen: Seen | None = None
) -> Reading:
    """Read prompts up to their last token.

    Args:
        network: the plain network.
        rows: tokens of each prompt after the prefix, at least one each.
        prefix: what ``read_prefix`` gave, or None; it is not changed.
        pad_token_id: fills short rows up; never looked at.
        seen: the rows' pictures, or None.

    Returns:
        The state from which answers are generated or scored.
    """
    device = network.device
    cache, n_prefix = (prefix.expanded(len(rows)), prefix.get_seq_length()) if prefix else (RoomyCache(), 0)
    lengths_B = torch.tensor([len(row) for row in rows], device=device)
    n_columns = int(lengths_B.max())
    chunk_BN = torch.tensor([[*row, *[pad_token_id] * (n_columns - len(row))] for row in rows], device=device)
    inputs = {"position_ids": torch.arange(n_prefix, n_prefix + n_columns, device=device)[None]} | vision_inputs(seen, device)
    output = network.base_model(input_ids=chunk_BN, past_key_values=cache, use_cache=True, **inputs)
    hidden_BH = output.last_hidden_state[torch.arange(len(rows), device=device), lengths_B - 1]
    columns_T = torch.arange(n_prefix + n_columns, device=device)
    mask_BT = columns_T[None] < (n_prefix + lengths_B)[:, None]
    return Reading(hidden_BH, cache, mask_BT, seen.next_positions.to(device) if seen else n_prefix + lengths_B)


def read_next(network: Network, reading: Reading, tokens_B: Tensor) -> None:
    """Read one more token per row; ``reading`` moves on by it."""
    reading.mask = torch.nn.functional.pad(reading.mask, (0, 1), value=True)
    output = network.base_model(
        input_ids=tokens_B[:, None],
        attention_mask=reading.mask,
        position_ids=reading.positions[:, None],
        past_key_values=reading.cache,
        use_cache=True,
    )
    reading.hidden = output.last_hidden_state[:, -1]
    reading.positions = reading.positions + 1


def keep_rows(reading: Reading, rows: Sequence[int]) -> None:
    """Drop the rows that are not named, and every column that none of the others needs."""
    index_B = torch.tensor(list(rows), device=reading.mask.device)
    mask_BT = reading.mask[index_B]
    columns_T = mask_BT.any(dim=0).nonzero()[:, 0]
    reading.cache.keep(rows, columns_T)
    reading.mask = mask_BT[:, columns_T]
    reading.hidden = reading.hidden[index_B]
    reading.positions = reading.positions[index_B]


def add_rows(reading: Reading, more: Reading) -> Reading:
    """Both in one, the rows of ``more`` last; each row keeps its columns, flush right."""
    n_columns = max(reading.mask.shape[1], more.mask.shape[1])
    masks = [torch.nn.functional.pad(part.mask, (n_columns - part.mask.shape[1], 0), value=False) for part in (reading, more)]
    return Reading(
        torch.cat([reading.hidden, more.hidden]),
        reading.cache.joined(more.cache),
        torch.cat(masks),
        torch.cat([reading.positions, more.positions]),
    )


def next_logits(network: Network, hidden_BH: Tensor) -> Tensor:
    """Logits in float32, of the given positions only."""
    logits_BV: Tensor = network.get_output_embeddings()(hidden_BH)
    return logits_BV.float()


def token_log_probs(network: Network, hidden_NH: Tensor, positions: Sequence[int], token_ids: Sequence[int]) -> Tensor:
    """Log probability of tokens after positions, with logits of at most ``HEAD_POSITIONS`` positions in memory.

    Args:
        network: the plain network.
        hidden_NH: last hidden states.
        positions: for each wanted token, the row of ``hidden_NH`` it follows; any order, repeats allowed.
        token_ids: the wanted tokens, as many as ``positions``.

    Returns:
        Natural logarithms, float32, on the CPU, one per wanted token.
    """
    found = torch.empty(len(token_ids))
    position_M = torch.tensor(list(positions), device=hidden_NH.device)
    token_M = torch.tensor(list(token_ids), device=hidden_NH.device)
    for start in range(0, hidden_NH.shape[0], HEAD_POSITIONS):
        inside_M = ((position_M >= start) & (position_M < start + HEAD_POSITIONS)).nonzero()[:, 0]
        if len(inside_M) == 0:
            continue
        logits_NV = next_logits(network, hidden_NH[start : start + HEAD_POSITIONS])
        rows_M = position_M[inside_M] - start
        log_probs_M = logits_NV[rows_M, token_M[inside_M]] - logits_NV.logsumexp(dim=-1)[rows_M]
        found[inside_M.cpu()] = log_probs_M.cpu()
    return found
