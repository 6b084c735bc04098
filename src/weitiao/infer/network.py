"""Passes through a ``transformers`` model as it stands, on any device: the plain twin of ``packed.py``.

Rows of a pass are filled up on the right (their filling is never looked at, and the next pass writes over it) and see what ``spans.py``
says; positions count real tokens only. So each row gets what it would get alone.

Shape letters: B rows, N tokens of a span (padded), T columns of the KV cache, H hidden size, V vocabulary, M chosen positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from weitiao.errors import EngineError
from weitiao.infer.batches import read_tokens
from weitiao.infer.cache import Prefix, SlotCache
from weitiao.infer.spans import Span, positions, visible
from weitiao.seams import Vision

Network = Any
"""A ``transformers.PreTrainedModel``; its methods are not typed."""

HEAD_POSITIONS = 256
"""Positions whose logits exist at the same time while scores are read: bounds memory at ``HEAD_POSITIONS * V`` numbers."""


class Reader(Protocol):
    """Reads tokens with a network: as it stands (``PlainReader``), or through weights packed for this CPU (``packed.PackedReader``)."""

    fills_up: bool
    """Whether a pass costs as if every span were as long as the longest."""

    @property
    def config(self) -> PreTrainedConfig:
        """The network's configuration."""
        ...

    def new_cache(self) -> SlotCache:
        """Slots for rows, empty."""
        ...

    def read(self, cache: SlotCache, spans: Sequence[Span]) -> Tensor:
        """Hidden states of all tokens of the spans, one after the other, (N, H).

        Each slot then holds its span's tokens as well, and ``cache.lengths`` says so.
        """
        ...

    def logits(self, hidden_MH: Tensor) -> Tensor:
        """Logits after positions, (M, V), in float32."""
        ...


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


class PlainReader:
    """Reads with the network as it is then and there: weights that change later change what is read."""

    fills_up = True

    def __init__(self, network: Network, dtype: torch.dtype, vision: Vision | None = None) -> None:
        """Keep the network.

        Args:
            network: the plain network.
            dtype: of the arithmetic, where weights that are being trained are kept in float32.
            vision: of a vision model.
        """
        self.network = network
        self.dtype = dtype
        self._vision = vision

    @property
    def config(self) -> PreTrainedConfig:
        """The network's configuration."""
        config: PreTrainedConfig = self.network.config
        return config

    def new_cache(self) -> SlotCache:
        """Slots for rows, empty."""
        return SlotCache(self.network.config, self.dtype, self.network.device)

    def read(self, cache: SlotCache, spans: Sequence[Span]) -> Tensor:
        """Hidden states of all tokens of the spans, one after the other, (N, H)."""
        device, n_wide = self.network.device, max(len(span.token_ids) for span in spans)
        n_columns = max(span.start for span in spans) + n_wide
        cache.reserve(len(cache.lengths), n_columns)
        starts_B1 = torch.tensor([[span.start] for span in spans], device=device)
        columns_BN = starts_B1 + torch.arange(n_wide, device=device)
        chunk_BN = torch.tensor([_filled(span.token_ids, n_wide) for span in spans], device=device)
        inputs = self._places(spans, n_wide)
        cache.enter([span.slot for span in spans], columns_BN, n_columns)
        with self._answering():
            output = self.network.base_model(
                input_ids=chunk_BN,
                attention_mask=self._mask(spans, n_wide, n_columns),
                past_key_values=cache,
                use_cache=True,
                **inputs,
            )
        for span in spans:
            cache.lengths[span.slot] = span.stop
        return torch.cat([row[: len(span.token_ids)] for row, span in zip(output.last_hidden_state, spans, strict=True)])

    def logits(self, hidden_MH: Tensor) -> Tensor:
        """Logits after positions, (M, V), in float32."""
        with self._answering():
            logits_MV: Tensor = self.network.get_output_embeddings()(hidden_MH)
        return logits_MV.float()

    def _places(self, spans: Sequence[Span], n_wide: int) -> dict[str, Any]:
        """The network's arguments for where tokens stand, and for the images among them."""
        places_3BN = torch.zeros(3, len(spans), n_wide, dtype=torch.long)
        for i, span in enumerate(spans):
            places_3BN[:, i, : len(span.token_ids)] = positions(span)
        places_3BN = places_3BN.to(self.network.device)
        pictures = [picture for span in spans for picture in span.pictures]
        if self._vision is None or not pictures:
            return {"position_ids": places_3BN[0]}
        return {"position_ids": places_3BN, "mm_encoder_outputs": self._vision.encoder_outputs(pictures)}

    def _mask(self, spans: Sequence[Span], n_wide: int, n_columns: int) -> Tensor | None:
        """What attention adds to its scores, (B, 1, N, T); None where rows begin and the kernels' own causal rule is the same."""
        device = self.network.device
        if not any(span.start or span.parents for span in spans):
            return None
        if n_wide == 1:
            sees_BNT = torch.arange(n_columns, device=device)[None, None] < torch.tensor([[[span.stop]] for span in spans], device=device)
        else:
            sees_BNT = torch.zeros(len(spans), n_wide, n_columns, dtype=torch.bool)
            # Filling sees its row's first token, so that nothing is divided by zero.
            sees_BNT[:, :, 0] = True
            for row, span in enumerate(spans):
                sees_BNT[row, : len(span.token_ids), : span.stop] = visible(span)
            sees_BNT = sees_BNT.to(device)
        mask_BNT = torch.zeros(sees_BNT.shape, dtype=self.dtype, device=device)
        return mask_BNT.masked_fill_(~sees_BNT, torch.finfo(self.dtype).min)[:, None]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Eval mode without gradients; every module that was in train mode is put back into it at the end."""
        in_training = [module for module in self.network.modules() if module.training]
        self.network.eval()
        try:
            autocast = torch.autocast(self.network.device.type, self.dtype, enabled=self.dtype != self.network.dtype)
            with torch.no_grad(), autocast:
                yield
        finally:
            for module in in_training:
                module.training = True


def _filled(values: Sequence[int], n: int) -> list[int]:
    """``values`` and zeros behind them."""
    return [*values, *[0] * (n - len(values))]


def read_prefix(reader: Reader, token_ids: Sequence[int]) -> Prefix | None:
    """Read what rows begin with, once.

    Args:
        reader: reads tokens.
        token_ids: the common beginning.

    Returns:
        Its keys and values; None where it is empty.
    """
    if not token_ids:
        return None
    cache = reader.new_cache()
    cache.reserve(1, len(token_ids))
    slot = cache.open(None, 0)
    n_pass = read_tokens(cache.device)
    for start in range(0, len(token_ids), n_pass):
        reader.read(cache, [Span(slot, start, token_ids[start : start + n_pass])])
    return cache.beginning(slot, token_ids)


def token_log_probs(reader: Reader, hidden_NH: Tensor, positions: Sequence[int], token_ids: Sequence[int]) -> Tensor:
    """Log probability of tokens after positions, with logits of at most ``HEAD_POSITIONS`` positions in memory.

    Args:
        reader: gives the logits.
        hidden_NH: last hidden states.
        positions: for each wanted token, the row of ``hidden_NH`` it follows; any order, repeats allowed.
        token_ids: the wanted tokens, as many as ``positions``.

    Returns:
        Natural logarithms, float32, on the CPU, one per wanted token.
    """
    found = torch.empty(len(token_ids))
    used, places = torch.unique(torch.tensor(list(positions), dtype=torch.long), return_inverse=True)
    token_M = torch.tensor(list(token_ids), dtype=torch.long)
    for start in range(0, len(used), HEAD_POSITIONS):
        inside_M = ((places >= start) & (places < start + HEAD_POSITIONS)).nonzero()[:, 0]
        logits_NV = reader.logits(hidden_NH[used[start : start + HEAD_POSITIONS].to(hidden_NH.device)])
        rows_M, tokens_M = places[inside_M].to(logits_NV.device) - start, token_M[inside_M].to(logits_NV.device)
        found[inside_M] = (logits_NV[rows_M, tokens_M] - logits_NV.logsumexp(dim=-1)[rows_M]).cpu()
    return found
