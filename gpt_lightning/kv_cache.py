"""Preallocated keys and values for decoding one token at a time.

It only stores: positions and masks belong to the network, sampling to generation.py.
"""

import torch
from torch import Tensor


class LayerCache:
    """One layer's view of the cache during one forward pass."""

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        self.keys, self.values, self.length = keys, values, length

    def append(self, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new keys and values after the first `length`; return all so far, (B, H, length + T, D) each."""
        end = self.length + k_BHTD.size(-2)
        self.keys[:, :, self.length : end] = k_BHTD
        self.values[:, :, self.length : end] = v_BHTD
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """Keys and values of every layer for a whole context, (L, B, H, context_length, D) each, allocated once.

    Used as `cache = KVCache(gpt, batch_size=1)`, then `gpt(prompt, cache)`, then `gpt(next_token, cache)`.
    """

    def __init__(self, gpt: torch.nn.Module, batch_size: int) -> None:
        config, weight = gpt.config, gpt.head.weight
        shape = (config.n_layer, batch_size, config.n_head, config.context_length, config.d_model // config.n_head)
        self.keys = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
        self.values = torch.zeros_like(self.keys)
        self.length = 0

    def layer(self, index: int) -> LayerCache:
        """The cache of one layer, to append to."""
        return LayerCache(self.keys[index], self.values[index], self.length)

    def advance(self, tokens: int) -> None:
        """Count `tokens` as seen, once every layer has appended them."""
        self.length += tokens
