"""Sampling: from logits to tokens, on top of the KV cache. It knows tokens only, not text.

Shapes: B sequences, T tokens, V vocabulary.
"""

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
    *,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    samples: int = 1,
    slide: bool = False,
    n_ids: int | None = None,
    compiled: bool = False,
) -> Iterator[Tensor]:
    """Continue `prompt_BT` (B, T) int64, yielding the next token of every sequence, (B · samples,) int64, one step at a
    time.

    The caller puts the network into eval mode.

    Args:
        gpt, prompt_BT, max_new_tokens: What to continue, and by how much.
        temperature, top_k, top_p, min_p, generator: As for `sample`.
        repetition_penalty: Above 1, makes less likely what prompt and continuation have already (Keskar et al. 2019).
        samples: How many continuations of each sequence; the prompt goes through the network once.
        slide: Past the end of the context, go on from its second half; else that is an error.
        n_ids: Of a vocabulary that was rounded up, only the first are ids of tokens; the others are never sampled.
        compiled: Each token after the first is much faster on a GPU, once a minute has gone into compiling; on a CPU it
            is not.

    Raises:
        ValueError: the prompt is empty, or prompt and new tokens together don't fit into the context.
    """
    length, context_length = prompt_BT.size(1), gpt.config.context_length
    if length == 0:
        raise ValueError("the prompt is empty; generation needs at least one token to start from")
    # The last new token is never fed back, but a prompt that leaves it no place is as long as the context already.
    if length + max_new_tokens > context_length and not slide:
        raise ValueError(
            f"a prompt of {length} tokens and {max_new_tokens} new ones don't fit into the context of {context_length}"
        )
    step = last_logits
    if compiled:
        # A shape or a branch that changed from token to token would be compiled again: an error rather than slow.
        step = torch.compile(last_logits, fullgraph=True, dynamic=False, mode="reduce-overhead")
    cache = KVCache(gpt, batch_size=prompt_BT.size(0))
    logits_BV = last_logits(gpt, prompt_BT[:, -context_length:], cache).repeat_interleave(samples, dim=0)
    cache.repeat(samples)
    text_BT = prompt_BT.repeat_interleave(samples, dim=0)
    static = StaticCache(cache) if compiled else None
    room = context_length - cache.length
    for left in reversed(range(max_new_tokens)):
        allowed_BV = penalised(logits_BV.float(), text_BT, repetition_penalty)[:, :n_ids]
        next_B = sample(allowed_BV, temperature, top_k, generator, top_p, min_p)
        yield next_B
        text_BT = torch.cat([text_BT, next_B[:, None]], dim=1)
        if left > 0 and room > 0:
            logits_BV = step(gpt, next_B[:, None], static or cache)
            room -= 1
        elif left > 0:
            cache.length = 0
            logits_BV = last_logits(gpt, text_BT[:, -max(1, context_length // 2) :], cache)
            room = context_length - cache.length
        if static is not None:
            static.position_1.fill_(context_length - room)


def last_logits(gpt: GPT, tokens_BT: Tensor, cache: KVCache | StaticCache) -> Tensor:
    """Logits (B, V) of the token after the last; those of a prompt's other tokens would take as long again."""
    return gpt.head(gpt.hidden_states(tokens_BT, cache)[:, -1])


def penalised(logits_BV: Tensor, text_BT: Tensor, penalty: float) -> Tensor:
    """Logits of tokens that the text has already, divided by `penalty` if positive and multiplied if negative (Keskar
    et al. 2019, CTRL, section 4.1)."""
    if penalty == 1:
        return logits_BV
    had_BT = logits_BV.gather(1, text_BT)
    return logits_BV.scatter(1, text_BT, torch.where(had_BT < 0, had_BT * penalty, had_BT / penalty))


def sample(
    logits_BV: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """Draw one token per row of `logits_BV` (B, V) → (B,) int64.

    Args:
        logits_BV: Of the next token.
        temperature: 0 takes the likeliest token.
        top_k: Only among the k likeliest.
        generator: On the CPU, so that a seed gives the same text on every device.
        top_p: Only among the fewest likeliest whose probabilities sum to this (Holtzman et al. 2020).
        min_p: Only among those at least this share as likely as the likeliest (Nguyen et al. 2024).
    """
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    # From the likeliest down, and by nothing that float32 rounds to 0: a tiny temperature gives the likeliest, not inf.
    logits_BV = logits_BV - logits_BV.amax(dim=-1, keepdim=True)
    logits_BV = logits_BV / max(temperature, torch.finfo(logits_BV.dtype).tiny)
    if top_k is not None and top_k < logits_BV.size(-1):
        smallest_kept = logits_BV.topk(top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest_kept, -torch.inf)
    if top_p is not None and top_p < 1:
        sorted_BV, order_BV = logits_BV.softmax(-1).sort(descending=True, stable=True)
        enough_BV = sorted_BV.cumsum(-1) - sorted_BV >= top_p  # before this one there was enough already
        logits_BV = logits_BV.masked_fill(torch.zeros_like(enough_BV).scatter(1, order_BV, enough_BV), -torch.inf)
    if min_p is not None:
        probabilities_BV = logits_BV.softmax(-1)
        unlikely_BV = probabilities_BV < min_p * probabilities_BV.amax(-1, keepdim=True)
        logits_BV = logits_BV.masked_fill(unlikely_BV, -torch.inf)
    # On the CPU, where the generator lives, so that a seed gives the same text on every device.
    probabilities_BV = logits_BV.softmax(dim=-1).cpu()
    return torch.multinomial(probabilities_BV, num_samples=1, generator=generator)[:, 0].to(logits_BV.device)
