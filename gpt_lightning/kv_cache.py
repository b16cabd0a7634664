"""Preallocated keys and values for decoding one token at a time.

A cache stores them and knows the positions of the next tokens. Masks belong to the network, sampling to
decoding/generation.py.
"""

import torch
from torch import Tensor


class LayerCache:
    """One layer's view of the cache during one forward pass."""

    visible: Tensor | None = None  # no mask: everything that `append` returns may be attended to

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        self.keys, self.values, self.length = keys, values, length

    def append(self, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new keys and values after the first `length`; return all so far, (B, H, length + T, D) each."""
        end = self.length + k_BHTD.size(-2)
        self.keys[:, :, self.length : end] = k_BHTD
        self.values[:, :, self.length : end] = v_BHTD
        return self.keys[:, :, :end], self.values[:, :, :end]

    def positions(self, tokens: int) -> slice:
        """Positions of the next `tokens` tokens."""
        return slice(self.length, self.length + tokens)


class KVCache:
    """Keys and values of every layer for a full context, (L, B, H, context_length, D) each, allocated once.

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

    def positions(self, tokens: int) -> slice:
        """Positions of the next `tokens` tokens; ValueError if the context does not hold them."""
        end, context_length = self.length + tokens, self.keys.size(-2)
        if end > context_length:
            raise ValueError(f"{end} tokens do not fit into a context of {context_length} tokens")
        return slice(self.length, end)

    def advance(self, tokens: int) -> None:
        """Count `tokens` more as seen, once every layer has appended them."""
        self.length += tokens

    def repeat(self, n: int) -> None:
        """Repeat each sequence `n` times in a row, so that n continuations go on from the same tokens."""
        if n > 1:
            self.keys, self.values = (x.repeat_interleave(n, dim=1) for x in (self.keys, self.values))


class StaticLayerCache:
    """One layer's view of a `StaticCache`."""

    def __init__(self, keys: Tensor, values: Tensor, position_1: Tensor, visible_1S: Tensor) -> None:
        self.keys, self.values, self.position_1, self.visible = keys, values, position_1, visible_1S

    def append(self, k_BH1D: Tensor, v_BH1D: Tensor) -> tuple[Tensor, Tensor]:
        """Store one new key and value; return those of every position, filled (`visible`) or not."""
        return self.keys.index_copy_(2, self.position_1, k_BH1D), self.values.index_copy_(2, self.position_1, v_BH1D)

    def positions(self, tokens: int) -> Tensor:
        """Position of the next token, (1,)."""
        return self.position_1


class StaticCache:
    """A filled `KVCache`, continued one token at a time in shapes that never change, as compiled decoding needs them.

    A step attends to every position through a mask, and its own position is a tensor: nothing is compiled twice, and a
    GPU can replay the step as one graph. The caller sets `position_1` after each step and stops at the context's end.
    """

    def __init__(self, cache: KVCache) -> None:
        self.keys, self.values = cache.keys, cache.values
        self.position_1 = torch.tensor([cache.length], device=cache.keys.device)
        self._slots_1S = torch.arange(cache.keys.size(-2), device=cache.keys.device)[None]
        for tensor in (self.keys, self.values, self.position_1, self._slots_1S):
            torch._dynamo.mark_static_address(tensor)  # else the graph would read copies

    def layer(self, index: int) -> StaticLayerCache:
        """The cache of one layer, to append to."""
        visible_1S = self._slots_1S <= self.position_1
        return StaticLayerCache(self.keys[index], self.values[index], self.position_1, visible_1S)

    def positions(self, tokens: int) -> Tensor:
        """Position of the next token, (1,)."""
        return self.position_1

    def advance(self, tokens: int) -> None:
        """Do nothing: a replayed graph runs no Python, so the caller sets `position_1`."""
