"""Keys and values of the rows at work: each row has a slot of its own, in which column ``i`` holds its ``i``-th token.

The buffers are made once and written in place, so a new token costs one column and not a copy of all of them; rows of any length stand
side by side without holes, and leave and join between passes. Slots in use are always the first ones: the last row moves into a gap.

Shape letters: S slots, G key-value heads, C columns, D width of a head, P tokens of a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig


@dataclass(frozen=True, slots=True)
class Prefix:
    """What several rows begin with, read once."""

    token_ids: tuple[int, ...]
    keys: tuple[Tensor, ...]
    """Per layer, (G, P, D)."""
    values: tuple[Tensor, ...]


class SlotCache(Cache):
    """Slots for rows; also the cache that transformers' models write to and read from during a pass."""

    def __init__(self, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> None:
        """Begin without room.

        Args:
            config: the network's configuration.
            dtype: of keys and values.
            device: where they lie.
        """
        super().__init__(layers=[])
        text = config.get_text_config()
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        empty = torch.empty(0, text.num_key_value_heads, 0, head_dim, dtype=dtype, device=device)
        self.keys = [empty] * text.num_hidden_layers
        self.values = [empty] * text.num_hidden_layers
        self.lengths: list[int] = []
        """Columns in use, per slot in use."""
        self.dtype, self.device = dtype, device
        self._n_clean = 0
        """Columns that hold numbers in every slot; what lies behind is memory as the system gave it, which may be read as anything."""
        self._pass: tuple[Tensor, Tensor, slice | Tensor, int] | None = None

    @property
    def n_columns(self) -> int:
        """Columns of every slot."""
        return int(self.keys[0].shape[2])

    def reserve(self, n_slots: int, n_columns: int) -> None:
        """Make room for ``n_slots`` rows of ``n_columns`` tokens; what the slots in use hold stays.

        Memory that nothing was written to yet is not taken from the system on a CPU.
        """
        if n_slots <= self.keys[0].shape[0] and n_columns <= self.n_columns:
            return
        n_used, n_kept = len(self.lengths), max(self.lengths, default=0)
        for buffers in (self.keys, self.values):
            for i, old in enumerate(buffers):
                buffers[i] = old.new_empty(max(n_slots, n_used), old.shape[1], max(n_columns, n_kept), old.shape[3])
                buffers[i][:, :, :n_kept] = 0
                buffers[i][:n_used, :, :n_kept] = old[:n_used, :, :n_kept]
        self._n_clean = n_kept

    def clean(self, n_columns: int) -> None:
        """Before so many columns are written to or seen: attention multiplies what it must not see by nought, which spares no NaN."""
        if n_columns > self._n_clean:
            for buffer in (*self.keys, *self.values):
                buffer[:, :, self._n_clean : n_columns] = 0
            self._n_clean = n_columns

    def erase(self, slot: int) -> None:
        """Overwrite what a slot holds, where that may not be numbers: the next row of the slot would multiply it by nought."""
        for buffer in (*self.keys, *self.values):
            buffer[slot, :, : self._n_clean] = 0

    def open(self, prefix: Prefix | None, n_tokens: int) -> int:
        """Take the next slot for a row that begins with the first ``n_tokens`` of ``prefix``; returns its number. Room must be there."""
        self.clean(n_tokens)
        slot = len(self.lengths)
        self.lengths.append(n_tokens)
        if prefix is not None and n_tokens:
            for i, (keys, values) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
                self.keys[i][slot, :, :n_tokens] = keys[:, :n_tokens]
                self.values[i][slot, :, :n_tokens] = values[:, :n_tokens]
        return slot

    def forget(self, slot: int, n_tokens: int) -> None:
        """Forget what a slot holds behind its first tokens; the next pass writes over it."""
        assert n_tokens <= self.lengths[slot], "what was not read cannot be kept"
        self.lengths[slot] = n_tokens

    def close(self, slot: int) -> int:
        """Give a slot back; the last slot's row moves into it. Returns the number that row had, which may be ``slot`` itself."""
        last = len(self.lengths) - 1
        if slot != last:
            n_tokens = self.lengths[last]
            for buffer in (*self.keys, *self.values):
                buffer[slot, :, :n_tokens] = buffer[last, :, :n_tokens]
            self.lengths[slot] = n_tokens
        self.lengths.pop()
        return last

    def beginning(self, slot: int, token_ids: Sequence[int]) -> Prefix:
        """A copy of what a slot holds of its first tokens, which are ``token_ids``."""
        n_tokens = len(token_ids)
        keys = tuple(buffer[slot, :, :n_tokens].clone() for buffer in self.keys)
        return Prefix(tuple(token_ids), keys, tuple(buffer[slot, :, :n_tokens].clone() for buffer in self.values))

    # ---- a pass of a transformers model ---------------------------------------------------------------------------------

    def enter(self, slots: Sequence[int], columns_BN: Tensor, n_columns: int) -> None:
        """Say where the next pass writes and how far it looks.

        Args:
            slots: of the rows of the pass, each once; neighbours in order are looked at in place, others are copied together.
            columns_BN: column of each token of the pass.
            n_columns: columns that attention sees.
        """
        self.clean(n_columns)
        rows_B1 = torch.tensor(slots, device=columns_BN.device)[:, None]
        in_order = list(slots) == list(range(slots[0], slots[0] + len(slots)))
        self._pass = (rows_B1, columns_BN, slice(slots[0], slots[0] + len(slots)) if in_order else rows_B1[:, 0], n_columns)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write a pass's keys and values.

        Args:
            key_states: (B, G, N, D).
            value_states: (B, G, N, D).
            layer_idx: of the layer.
            *_args: not used; part of transformers' signature.
            **_kwargs: not used; part of transformers' signature.

        Returns:
            All keys and all values of the pass's rows, (B, G, T, D).
        """
        assert self._pass is not None, "a pass begins with `enter`"
        rows_B1, columns_BN, chosen, n_columns = self._pass
        self.keys[layer_idx][rows_B1, :, columns_BN] = key_states.transpose(1, 2).to(self.dtype)
        self.values[layer_idx][rows_B1, :, columns_BN] = value_states.transpose(1, 2).to(self.dtype)
        return self.keys[layer_idx][chosen][:, :, :n_columns], self.values[layer_idx][chosen][:, :, :n_columns]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Tokens seen so far, as transformers asks for it; positions are always given, so it is not used."""
        return 0
