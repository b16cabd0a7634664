"""Texts that each test one thing about a network: random tokens, and random tokens repeated. Always the same ones.

Their tokens are drawn from those of a real text: a small network knows nothing of token ids that it has never seen.

Shapes: B sequences, T tokens.
"""

import torch
from torch import Tensor

SEED = 0
MOST_PERIOD = 64  # tokens before the repeat: long enough to tell induction from attention to a fixed distance
LEAST_PERIOD = 8  # below this, a head that looks a few tokens back would pass for one that recognises the repeat


def random_tokens(tokens_BT: Tensor, n: int, length: int) -> Tensor:
    """`n` sequences of `length` tokens, drawn uniformly from the ids that occur in `tokens_BT`; int64, (n, length).

    No model can predict them with a loss under ln(number of ids) nats.
    """
    types = tokens_BT.unique().cpu()
    generator = torch.Generator().manual_seed(SEED)
    return types[torch.randint(len(types), (n, length), generator=generator)]


def repeated_tokens(tokens_BT: Tensor, n: int, context_length: int) -> tuple[Tensor, int] | None:
    """`n` sequences of random distinct tokens that occur in `tokens_BT`, then the same again (Olsson et al. 2022).

    Returns:
        The sequences, (n, 2·period) int64, and the period, at most 64; None if the context or the text is too small for
        a period of 8.
    """
    types = tokens_BT.unique().cpu()
    period = min(MOST_PERIOD, context_length // 2, len(types))
    if period < LEAST_PERIOD:
        return None
    generator = torch.Generator().manual_seed(SEED)
    half = torch.stack([types[torch.randperm(len(types), generator=generator)[:period]] for _ in range(n)])
    return half.repeat(1, 2), period
