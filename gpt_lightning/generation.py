"""Sampling: from logits to tokens, on top of the KV cache. It knows tokens only, not text."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gpt_lightning.kv_cache import KVCache
from gpt_lightning.model import GPT


@torch.no_grad()
def generate(
    gpt: GPT,
    prompt_BT: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    n_ids: int | None = None,
) -> Iterator[Tensor]:
    """Continue `prompt_BT` (B, T) int64, yielding the next token of every sequence, (B,) int64, one step at a time.

    The caller puts the network into eval mode. A temperature of 0 takes the likeliest token. Of a vocabulary that was
    rounded up, only the first `n_ids` are ids of tokens: the others are never sampled.

    Raises:
        ValueError: the prompt is empty, or prompt and new tokens together don't fit into the context.
    """
    length, context_length = prompt_BT.size(1), gpt.config.context_length
    if length == 0:
        raise ValueError("the prompt is empty; generation needs at least one token to start from")
    # The last new token is never fed back, but a prompt that leaves it no place is as long as the context already.
    if length + max_new_tokens > context_length:
        raise ValueError(
            f"a prompt of {length} tokens and {max_new_tokens} new ones don't fit into the context of {context_length}"
        )
    cache = KVCache(gpt, batch_size=prompt_BT.size(0))
    tokens_BT = prompt_BT
    for _ in range(max_new_tokens):
        logits_BV = gpt(tokens_BT, cache)[:, -1, :n_ids].float()
        next_B = sample(logits_BV, temperature, top_k, generator)
        yield next_B
        tokens_BT = next_B[:, None]


def sample(
    logits_BV: Tensor, temperature: float = 1.0, top_k: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Draw one token per row of `logits_BV` (B, V) → (B,) int64, among the `top_k` likeliest if given."""
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    # From the likeliest down, and by nothing that float32 rounds to 0: a tiny temperature gives the likeliest, not inf.
    logits_BV = logits_BV - logits_BV.amax(dim=-1, keepdim=True)
    logits_BV = logits_BV / max(temperature, torch.finfo(logits_BV.dtype).tiny)
    if top_k is not None and top_k < logits_BV.size(-1):
        smallest_kept = logits_BV.topk(top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest_kept, -torch.inf)
    # On the CPU, where the generator lives, so that a seed gives the same text on every device.
    probabilities_BV = logits_BV.softmax(dim=-1).cpu()
    return torch.multinomial(probabilities_BV, num_samples=1, generator=generator)[:, 0].to(logits_BV.device)
