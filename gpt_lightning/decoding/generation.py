"""Sampling: from logits to tokens, with the KV cache. Text is unknown here.

Shapes: B sequences, T tokens, V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gpt_lightning.decoding.options import Sampling
from gpt_lightning.kv_cache import KVCache, StaticCache
from gpt_lightning.model import GPT


@torch.no_grad()
def generate(
    gpt: GPT,
    prompt_BT: Tensor,
    sampling: Sampling,
    samples: int = 1,
    n_ids: int | None = None,
    compiled: bool = False,
) -> Iterator[Tensor]:
    """Continue `prompt_BT` (B, T) int64 without end; yield the next token of every sequence, (B · samples,) int64.

    Past the end of the context, go on from its second half.

    Args:
        gpt: The network, in eval mode.
        prompt_BT: What to continue; only its last tokens are read if it is longer than the context.
        sampling: How each token is drawn.
        samples: How many continuations of each sequence; the prompt goes through the network once.
        n_ids: Sample only the first `n_ids` ids: in a vocabulary that was rounded up, the others stand for no token.
        compiled: Compile the step. On a GPU this takes a minute and then makes each token much faster; on a CPU it
            does not pay.

    Raises:
        ValueError: the prompt is empty.
    """
    if prompt_BT.size(1) == 0:
        raise ValueError("the prompt is empty; generation needs at least one token to start from")
    step = last_logits
    if compiled:
        # fullgraph and static shapes turn a step that would be compiled anew for each token, slowly, into an error.
        step = torch.compile(last_logits, fullgraph=True, dynamic=False, mode="reduce-overhead")
    generator = torch.Generator().manual_seed(sampling.seed)
    context_length = gpt.config.context_length
    cache = KVCache(gpt, batch_size=prompt_BT.size(0))
    logits_BV = last_logits(gpt, prompt_BT[:, -context_length:], cache).repeat_interleave(samples, dim=0)
    cache.repeat(samples)
    text_BT = prompt_BT.repeat_interleave(samples, dim=0)
    static = StaticCache(cache) if compiled else None
    room = context_length - cache.length
    while True:
        allowed_BV = penalised(logits_BV.float(), text_BT, sampling.repetition_penalty)[:, :n_ids]
        next_B = sample(allowed_BV, sampling, generator)
        yield next_B
        text_BT = torch.cat([text_BT, next_B[:, None]], dim=1)
        if room > 0:
            logits_BV = step(gpt, next_B[:, None], static or cache)
            room -= 1
        else:
            cache.length = 0
            logits_BV = last_logits(gpt, text_BT[:, -max(1, context_length // 2) :], cache)
            room = context_length - cache.length
        if static is not None:
            static.position_1.fill_(context_length - room)


def last_logits(gpt: GPT, tokens_BT: Tensor, cache: KVCache | StaticCache) -> Tensor:
    """Logits (B, V) after the last token; computing them for a prompt's other tokens too would double the time."""
    return gpt.head(gpt.hidden_states(tokens_BT, cache)[:, -1])


def penalised(logits_BV: Tensor, text_BT: Tensor, penalty: float) -> Tensor:
    """Logits in which tokens of `text_BT` are penalised: positive logits are divided by `penalty`, negative ones
    multiplied by it (Keskar et al. 2019, CTRL, section 4.1)."""
    if penalty == 1:
        return logits_BV
    seen_BT = logits_BV.gather(1, text_BT)
    return logits_BV.scatter(1, text_BT, torch.where(seen_BT < 0, seen_BT * penalty, seen_BT / penalty))


def sample(logits_BV: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Draw one token per row of `logits_BV` (B, V) → (B,) int64, by temperature, top_k, top_p and min_p.

    The generator is on the CPU, so that a seed gives the same text on every device.
    """
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    # With a maximum of 0, and a divisor that the dtype can hold, a tiny temperature gives no inf or nan.
    logits_BV = logits_BV - logits_BV.amax(dim=-1, keepdim=True)
    logits_BV = logits_BV / max(sampling.temperature, torch.finfo(logits_BV.dtype).tiny)
    if sampling.top_k is not None and sampling.top_k < logits_BV.size(-1):
        smallest_kept = logits_BV.topk(sampling.top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest_kept, -torch.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        sorted_BV, order_BV = logits_BV.softmax(-1).sort(descending=True, stable=True)
        enough_BV = sorted_BV.cumsum(-1) - sorted_BV >= sampling.top_p  # without this one
        logits_BV = logits_BV.masked_fill(torch.zeros_like(enough_BV).scatter(1, order_BV, enough_BV), -torch.inf)
    if sampling.min_p is not None:
        probabilities_BV = logits_BV.softmax(-1)
        unlikely_BV = probabilities_BV < sampling.min_p * probabilities_BV.amax(-1, keepdim=True)
        logits_BV = logits_BV.masked_fill(unlikely_BV, -torch.inf)
    probabilities_BV = logits_BV.softmax(dim=-1).cpu()
    return torch.multinomial(probabilities_BV, num_samples=1, generator=generator)[:, 0].to(logits_BV.device)
