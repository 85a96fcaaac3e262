"""Keys and values of the running rows, laid out so that a decode step copies nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, Cache, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from at2po_agents.policy.sizes import optional

ATTENTION = "at2po_rows"


class RowCache(Cache):
    """Key/value memory whose row r holds one running request, left-aligned.

    Each forward pass works on a block of neighbouring rows. It writes at every row's own
    positions and attends to a view of the block, so ragged rows need no gather and no padding
    copy; the attention mask hides what lies beyond a row's length.

    Args:
        config: of the model; gives layers, key/value heads and head size.
        dtype: of keys and values.
        device: where they live.
    """

    def __init__(self, config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(layers=[])
        heads = optional(config, "num_key_value_heads") or config.num_attention_heads
        dim = optional(config, "head_dim") or config.hidden_size // config.num_attention_heads
        # [layer, key or value, row, head, position, dim]; zeros, because 0 * NaN is NaN even
        # where the mask gives weight 0.
        self.data = torch.zeros(
            (config.num_hidden_layers, 2, 0, heads, 0, dim), dtype=dtype, device=device
        )
        self._rows = slice(0, 0)
        self._length = 0
        self._index = torch.empty(0, dtype=torch.int64)

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` tokens, growing in strides to copy rarely."""
        old_rows, old_length = self.data.shape[2], self.data.shape[4]
        if rows <= old_rows and length <= old_length:
            return
        shape = list(self.data.shape)
        shape[2] = old_rows if rows <= old_rows else max(rows, old_rows + old_rows // 2)
        shape[4] = (
            old_length if length <= old_length else max(length + 64, old_length + old_length // 2)
        )
        old, self.data = self.data, self.data.new_zeros(shape)
        self.data[:, :, :old_rows, :, :old_length] = old

    def select(self, rows: slice, positions: Tensor, length: int) -> None:
        """Choose what the next forward pass reads and writes.

        Args:
            rows: the block of rows.
            positions: [rows of the block, new tokens] where each new token is stored.
            length: positions of the block that can be read, from 0.
        """
        heads, capacity = self.data.shape[3], self.data.shape[4]
        row = torch.arange(rows.start, rows.stop, device=positions.device)[:, None] * heads
        head = row + torch.arange(heads, device=positions.device)
        self._index = (head[:, :, None] * capacity + positions[:, None, :]).flatten()
        self._rows, self._length = rows, length

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Store the new keys and values [rows, heads, new tokens, dim]; return all of the block."""
        keys, values = self.data[layer_idx]
        dim = keys.shape[-1]
        keys.view(-1, dim).index_copy_(0, self._index, key_states.reshape(-1, dim))
        values.view(-1, dim).index_copy_(0, self._index, value_states.reshape(-1, dim))
        return keys[self._rows, :, : self._length], values[self._rows, :, : self._length]

    def row(self, row: int, length: int) -> Tensor:
        """Return a view [layer, key or value, head, length, dim] of one row's first tokens."""
        return self.data[:, :, row, :, :length]


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as SDPA does, without repeating keys and values for grouped query heads.

    For one new token per row, the query heads of a group are the same computation as that many
    query positions of one head: [rows, heads, 1, dim] becomes [rows, kv heads, group, dim].
    """
    rows, heads, new, dim = query.shape
    if new > 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], dim)
    out = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=scaling
    )
    return out.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(ATTENTION, _attention)
