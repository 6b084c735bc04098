"""Rows whose few tokens attend together get what each gets alone."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config

from weitiao.infer.cache import SlotCache
from weitiao.infer.sight import Sight
from weitiao.infer.spans import ROOT, Span

GROUPS, HEADS, WIDTH, COLUMNS = 2, 6, 8, 80
TREE = (ROOT, 0, 0, ROOT, 3)


def pass_of(lengths: list[int], trees: bool) -> tuple[SlotCache, list[Span]]:
    """Spans of these lengths, on rows of different lengths whose slots are not in order; columns behind them hold other numbers."""
    config = Qwen2Config(hidden_size=HEADS * WIDTH, num_attention_heads=HEADS, num_key_value_heads=GROUPS, num_hidden_layers=1)
    cache = SlotCache(config, torch.float64, torch.device("cpu"))
    cache.reserve(len(lengths), COLUMNS)
    draws = torch.Generator().manual_seed(len(lengths))
    for buffer in (cache.keys[0], cache.values[0]):
        buffer.copy_(torch.randn(buffer.shape, generator=draws, dtype=torch.float64))
    slots = torch.randperm(len(lengths), generator=draws).tolist()
    spans = []
    for i, (slot, n_own) in enumerate(zip(slots, lengths, strict=True)):
        parents = TREE if trees and n_own > len(TREE) else ()
        spans.append(Span(slot, (7 * i) % 30, list(range(n_own)), parents))
    return cache, spans


@pytest.mark.parametrize("trees", [False, True], ids=["rows", "trees"])
@pytest.mark.parametrize(
    "lengths",
    [[1] * 5, [3, 4, 3], [1, 2, 1, 2, 1], [16, 9, 12, 40, 33, 1, 1, 2, 5, 8, 7], [6], [20, 21]],
    ids=lambda lengths: "-".join(map(str, lengths)),
)
def test_joined_rows_attend_as_alone(lengths: list[int], trees: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, spans = pass_of(lengths, trees)
    queries = torch.randn(sum(lengths), GROUPS, HEADS // GROUPS, WIDTH, dtype=torch.float64)
    joined = Sight(cache, spans)
    monkeypatch.setattr("weitiao.infer.sight.MOST_JOINED", 0)
    alone = Sight(cache, spans)
    assert not alone._joined
    assert bool(joined._joined) == (len(lengths) > 1 and min(lengths) <= 16)
    seen = [sight.attend(queries, cache.keys[0], cache.values[0]) for sight in (joined, alone)]
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-10, atol=1e-12)


def test_rows_in_their_order_are_looked_at_in_place() -> None:
    cache, _ = pass_of([1] * 4, trees=False)
    in_order, not_in_order = (Sight(cache, [Span(slot, 9, [1]) for slot in slots]) for slots in ((1, 2, 3), (3, 1, 2)))
    assert in_order._joined[0]._slots == slice(1, 4)
    assert isinstance(not_in_order._joined[0]._slots, torch.Tensor)
