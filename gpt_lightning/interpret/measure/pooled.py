"""Attention over sequences too long to draw: the T × T weights pooled into a fixed number of cells.

Computed by blocks of rows in float32, so that the T × T weights never exist. Knows nothing of pictures or verdicts.

Shapes: H heads, T tokens, D head width, B bins along either axis; R rows (queries) of one block, K the keys they see.
"""

import math

import torch
from torch import Tensor, nn

from gpt_lightning.errors import UserError
from gpt_lightning.interpret.measure.hooks import of_each_layer


@torch.no_grad()
def pooled_attention(q_HTD: Tensor, k_HTD: Tensor, bins: int = 64, block: int = 128) -> tuple[Tensor, Tensor]:
    """The causal attention of one sequence in cells of (almost) equal size: token t is in bin ⌊tB/T⌋.

    Args:
        q_HTD, k_HTD: As the attention kernel gets them: after positions and normalisation.
        bins: B; if T is smaller, every token has a bin of its own, and both results are the weights themselves.
        block: Rows at a time. Peak memory is a few tensors of H·block·T; the numbers do not depend on it.

    Returns:
        `mean`: the mass that a query puts on a bin of keys, averaged over its bin's queries, so that a row sums to 1;
        `max`: the largest single weight in the cell. Both (H, B, B) float32, shares from 0 to 1, NaN where every key
        is ahead of every query.

    Raises:
        UserError: shapes that differ, or bins or block below 1.
    """
    if q_HTD.dim() != 3 or q_HTD.shape != k_HTD.shape:
        shapes = f"{tuple(q_HTD.shape)}, {tuple(k_HTD.shape)}"
        raise UserError(f"The shapes of q and k must be the same (heads, tokens, head width), not {shapes}.")
    if bins < 1 or block < 1:
        raise UserError(f"The numbers bins and block must be at least 1, not {bins} and {block}.")
    H, T, D = q_HTD.shape
    B = min(bins, T)
    bin_T = torch.arange(T, device=q_HTD.device) * B // T
    # Under autocast these products would silently become bf16.
    with torch.autocast(q_HTD.device.type, enabled=False):
        q, k = q_HTD.float(), k_HTD.float()
        one_hot_TB = torch.nn.functional.one_hot(bin_T, B).float()
        mean_HBB, max_HBB = q.new_zeros(2, H, B, B)
        for start in range(0, T, block):
            end = min(start + block, T)
            future_RK = torch.ones(end - start, end, dtype=torch.bool, device=q.device).triu(start + 1)
            logits_HRK = q[:, start:end] @ k[:, :end].mT / math.sqrt(D)
            weights_HRK = logits_HRK.masked_fill_(future_RK, -math.inf).softmax(-1)
            bin_HRK, bin_HRB = bin_T[:end].expand_as(weights_HRK), bin_T[start:end, None].expand(H, -1, B)
            mean_HBB += one_hot_TB[start:end].T @ (weights_HRK @ one_hot_TB[:end])
            largest_HRB = q.new_zeros(H, end - start, B).scatter_reduce_(2, bin_HRK, weights_HRK, "amax")
            max_HBB.scatter_reduce_(1, bin_HRB, largest_HRB, "amax")
    mean_HBB /= one_hot_TB.sum(0)[:, None]
    future_BB = torch.ones(B, B, dtype=torch.bool, device=q.device).triu(1)
    return mean_HBB.masked_fill_(future_BB, math.nan), max_HBB.masked_fill_(future_BB, math.nan)


def attention_pooled_maps(model: nn.Module, tokens_T: Tensor, bins: int = 64) -> list[tuple[Tensor, Tensor]]:
    """`pooled_attention` of every layer on one sequence, (T,) int64: (mean, max) on the CPU.

    Raises UserError for tokens of another shape, too long for the context, or not in the vocabulary.
    """
    layers = of_each_layer(model, tokens_T[None], lambda q, k, v: pooled_attention(q[0], k[0], bins))
    return [(mean_HBB.cpu(), max_HBB.cpu()) for mean_HBB, max_HBB in layers]
