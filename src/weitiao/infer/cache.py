"""Keys and values of a batch, with room to grow: a new token is written behind the others instead of copying all of them.

transformers' ``DynamicCache`` copies the whole cache at every token, in every layer; here that happens once in ``ROOM`` tokens. What
attention sees is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Columns of room made at a time."""


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values, (B, G, T, D) each: views of buffers that hold more columns than are in use."""

    keys: Any
    values: Any

    def __init__(self) -> None:
        """Begin empty."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add columns.

        Args:
            key_states: (B, G, N, D).
            value_states: (B, G, N, D).
            *_args: not used; part of transformers' signature.
            **_kwargs: not used; part of transformers' signature.

        Returns:
            All keys and all values so far, (B, G, T, D).
        """
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        n_before, n_after = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < n_after:
            self._buffers = (_with_room(self.keys, n_after + ROOM), _with_room(self.values, n_after + ROOM))
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, n_before:n_after] = states
        self.keys, self.values = self._buffers[0][:, :, :n_after], self._buffers[1][:, :, :n_after]
        return self.keys, self.values

    def keep(self, rows_B: Tensor, columns_T: Tensor) -> None:
        """Drop all rows and columns that are not named."""
        self.keys = self.keys[rows_B[:, None], :, columns_T[None]].transpose(1, 2)
        self.values = self.values[rows_B[:, None], :, columns_T[None]].transpose(1, 2)
        self._buffers = None


class RoomyCache(Cache):
    """A ``RoomyLayer`` per layer of the network."""

    def __init__(self) -> None:
        """Begin empty; layers are made as the network asks for them."""
        super().__init__(layer_class_to_replicate=RoomyLayer)

    def expanded(self, n_rows: int) -> RoomyCache:
        """A cache for ``n_rows`` rows that all begin with this one's only row; its memory is shared until a row adds to it."""
        cache = RoomyCache()
        for i, layer in enumerate(self._roomy()):
            cache.update(layer.keys.expand(n_rows, -1, -1, -1), layer.values.expand(n_rows, -1, -1, -1), i)
        return cache

    def joined(self, other: RoomyCache) -> RoomyCache:
        """A cache of this one's rows and then the other's, the narrower filled up with zeros on the left."""
        cache = RoomyCache()
        for i, (layer, added) in enumerate(zip(self._roomy(), other._roomy(), strict=True)):
            cache.update(_stacked(layer.keys, added.keys), _stacked(layer.values, added.values), i)
        return cache

    def keep(self, rows: Sequence[int], columns_T: Tensor) -> None:
        """Drop all rows and columns that are not named, in every layer."""
        rows_B = torch.tensor(list(rows), device=columns_T.device)
        for layer in self._roomy():
            layer.keep(rows_B, columns_T)

    def _roomy(self) -> list[RoomyLayer]:
        return [layer for layer in self.layers if isinstance(layer, RoomyLayer)]


def _stacked(states: Tensor, more: Tensor) -> Tensor:
    n_columns = max(states.shape[-2], more.shape[-2])
    return torch.cat([torch.nn.functional.pad(part, (0, 0, n_columns - part.shape[-2], 0)) for part in (states, more)])


def _with_room(states: Tensor, n_columns: int) -> Tensor:
    rows, groups, n_used, width = states.shape
    buffer = states.new_empty(rows, groups, n_columns, width)
    buffer[:, :, :n_used] = states
    return buffer
