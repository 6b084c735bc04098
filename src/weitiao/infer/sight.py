"""Attention of a pass over rows that stand in slots: few tokens of many rows in one product, many tokens of a row by the library's kernel.

One by one, rows cost a call of the kernel each in every layer, which is more than what they compute.

Shape letters: B rows, N tokens of a pass or a span, M tokens of some spans, S slots, C columns of a slot, T columns that are seen,
G key-value heads, Q query heads per key-value head, E queries of a key-value head (Q times N), D width of a head, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from weitiao.infer.cache import SlotCache
from weitiao.infer.spans import Span, visible

MOST_JOINED = 16
"""Tokens of a row up to which its attention is computed together with other rows'. Measured: five to ten times as fast up to 8."""


class _Joined:
    """Spans of a few tokens, filled up to the longest of them: they attend in one product."""

    def __init__(self, cache: SlotCache, starts: Sequence[int], spans: Sequence[Span]) -> None:
        """Find out what they see.

        Args:
            cache: whose slots they look at.
            starts: place of each span's first token among the tokens of the pass.
            spans: at least one.
        """
        slots, lengths = [span.slot for span in spans], [len(span.token_ids) for span in spans]
        # Rows that write are mostly neighbours in their order, which are looked at in place.
        in_order = slots == list(range(slots[0], slots[0] + len(slots)))
        self._slots = slice(slots[0], slots[0] + len(slots)) if in_order else torch.tensor(slots)
        n_wide, self._n_columns = max(lengths), max(span.stop for span in spans)
        self._tokens_BN = torch.tensor([[start + min(i, n - 1) for i in range(n_wide)] for start, n in zip(starts, lengths, strict=True)])
        is_own_BN = torch.arange(n_wide) < torch.tensor(lengths)[:, None]
        self._own_M, self._places_M = self._tokens_BN[is_own_BN], is_own_BN.flatten().nonzero()[:, 0]
        mask_BNT = torch.full((len(spans), n_wide, self._n_columns), -torch.inf, dtype=cache.dtype)
        mask_BNT[:, :, 0] = 0  # filling sees its row's first token, so that nothing is divided by zero
        for mask_NT, span, n_own in zip(mask_BNT, spans, lengths, strict=True):
            mask_NT[:n_own, : span.stop].masked_fill_(visible(span), 0)
        self._mask_B11NT = mask_BNT[:, None, None]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, seen_NH: Tensor) -> None:
        """Attention of these spans among a pass's queries (N, G, Q, D) to a layer's keys and values; goes into their rows of (N, H)."""
        keys_BGTD, values_BGTD = keys[self._slots, :, : self._n_columns], values[self._slots, :, : self._n_columns]
        queries_BGQND = queries[self._tokens_BN].permute(0, 2, 3, 1, 4)
        scores_BGET = (queries_BGQND.flatten(2, 3) * queries.shape[-1] ** -0.5) @ keys_BGTD.transpose(-1, -2)
        weights_BGQNT = (scores_BGET.unflatten(2, queries_BGQND.shape[2:4]) + self._mask_B11NT).softmax(dim=-1)
        seen_BGQND = (weights_BGQNT.flatten(2, 3) @ values_BGTD).view(queries_BGQND.shape)
        seen_NH[self._own_M] = seen_BGQND.permute(0, 3, 1, 2, 4).flatten(2).flatten(0, 1)[self._places_M]


class Sight:
    """What the tokens of a pass see, found out once for all layers.

    Short spans of about one length attend in one product, all others by row.
    """

    def __init__(self, cache: SlotCache, spans: Sequence[Span]) -> None:
        """Sort the spans.

        Args:
            cache: whose slots they look at.
            spans: of the pass, in the order of its tokens.
        """
        lengths = [len(span.token_ids) for span in spans]
        starts = [end - n_own for end, n_own in zip(accumulate(lengths), lengths, strict=True)]
        alike: dict[int, list[int]] = {}
        for i, n_own in enumerate(lengths):
            alike.setdefault((n_own - 1).bit_length(), []).append(i)
        joined = [few for few in alike.values() if len(few) > 1 and lengths[few[0]] <= MOST_JOINED]
        self._joined = [_Joined(cache, [starts[i] for i in few], [spans[i] for i in few]) for few in joined]
        alone = set(range(len(spans))).difference(*joined)
        self._alone = [(starts[i], spans[i], visible(spans[i]) if spans[i].start or spans[i].parents else None) for i in sorted(alone)]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of a pass's tokens.

        Args:
            queries: (N, G, Q, D).
            keys: a layer's, (S, G, C, D).
            values: a layer's, (S, G, C, D).

        Returns:
            (N, H).
        """
        seen_NH = queries.new_empty(len(queries), queries[0].numel())
        for joined in self._joined:
            joined.attend(queries, keys, values, seen_NH)
        for start, span, mask_NT in self._alone:
            places = slice(start, start + len(span.token_ids))
            queries_1END = queries[places].flatten(1, 2).transpose(0, 1)[None]
            own_keys, own_values = keys[span.slot, None, :, : span.stop], values[span.slot, None, :, : span.stop]
            seen_1END = functional.scaled_dot_product_attention(
                queries_1END, own_keys, own_values, attn_mask=mask_NT, is_causal=mask_NT is None, enable_gqa=True
            )
            seen_NH[places] = seen_1END[0].transpose(0, 1).flatten(1)
        return seen_NH
