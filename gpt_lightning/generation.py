"""Sampling: from logits to tokens, on top of the KV cache. It knows tokens only, not text."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gpt_lightning.kv_cache import KVCache, StaticCache
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
    compiled: bool = False,
) -> Iterator[Tensor]:
    """Continue `prompt_BT` (B, T) int64, yielding the next token of every sequence, (B,) int64, one step at a time.

    The caller puts the network into eval mode. A temperature of 0 takes the likeliest token. Of a vocabulary that was
    rounded up, only the first `n_ids` are ids of tokens: the others are never sampled. Compiled, each token after the
    first is much faster on a GPU, once a minute has gone into compiling; on a CPU it is not faster.

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
    logits_BV = last_logits(gpt, prompt_BT, cache)
    step = last_logits
    if compiled:
        cache = StaticCache(cache)
        # A shape or a branch that changed from token to token would be compiled again: an error rather than slow.
        step = torch.compile(last_logits, fullgraph=True, dynamic=False, mode="reduce-overhead")
    for left in reversed(range(max_new_tokens)):
        next_B = sample(logits_BV[:, :n_ids].float(), temperature, top_k, generator)
        yield next_B
        if left > 0:
            logits_BV = step(gpt, next_B[:, None], cache)
            if compiled:
                cache.position_1 += 1


def last_logits(gpt: GPT, tokens_BT: Tensor, cache: KVCache | StaticCache) -> Tensor:
    """Logits (B, V) of the token after the last; those of a prompt's other tokens would take as long again."""
    return gpt.head(gpt.hidden_states(tokens_BT, cache)[:, -1])


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
