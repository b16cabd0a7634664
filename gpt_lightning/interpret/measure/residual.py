"""Statistics of the residual stream before and after a layer: tensors in, numbers out, in float32.

Shapes: B batch, T tokens, C model width.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

RANK_TOKENS = 256  # per sequence: the eigendecomposition's time grows with the cube, and more hardly change the rank
MEDIAN_TOKENS = 64  # per sequence, evenly spaced: enough for a median, since only ratios near 1000 matter


@torch.no_grad()
def residual_statistics(before_BTC: Tensor, after_BTC: Tensor) -> dict[str, Tensor]:
    """What one layer does to the residual stream of each sequence: metric name → (B,) float32.

    - `residual_norm`: mean over tokens of ‖x‖ after the layer.
    - `max_activation`: max |x|; `massive_activation_ratio`: max |x| / median |x|, the median over at most 64 evenly
      spaced tokens. Sun et al. 2024 call an activation massive if it is above 100 and around 1000 times the median.
    - `block_influence`: 1 − cos(before, after), mean over tokens (Men et al. 2024, ShortGPT): 0 if the layer does
      nothing, or only rescales.
    - `block_influence_centred`: the same after subtracting each sequence's mean over tokens: what all tokens share says
      nothing about any of them, yet can dominate the plain cosine.
    - `effective_rank`: in how many directions the tokens differ, see `effective_rank`; after layer norm, centred, and
      without position 0, since a single massive token would turn 61.8 into 2.4. NaN for fewer than 3 tokens, or if
      anything is not finite.
    """
    before, after = before_BTC.float(), after_BTC.float()
    max_B = torch.maximum(after.amax((1, 2)), -after.amin((1, 2)))
    some_BN = after[:, :: math.ceil(after.size(1) / MEDIAN_TOKENS)].abs().flatten(1)
    normed_BTC = layer_norm(after[:, 1 : 1 + RANK_TOKENS], after.shape[-1:])
    return {
        "residual_norm": after.norm(dim=-1).mean(1),
        "max_activation": max_B,
        "massive_activation_ratio": max_B / some_BN.median(1).values,
        "block_influence": _influence(before, after),
        "block_influence_centred": _influence(_centred(before), _centred(after)),
        "effective_rank": effective_rank(_centred(normed_BTC)),
    }


@torch.no_grad()
def effective_rank(x_BNC: Tensor) -> Tensor:
    """exp(entropy of the singular values, normalised to sum to 1) of each matrix, (B,) float32 (Roy & Vetterli 2007).

    1 for a matrix of rank 1, n for n equal singular values; NaN for a matrix that is zero, has no rows or isn't finite.
    """
    undefined_B = torch.full(x_BNC.shape[:1], math.nan)
    if 0 in x_BNC.shape or not x_BNC.isfinite().all():
        return undefined_B
    # On the CPU, since a GPU's solver is slower for small matrices. The eigenvalues of the smaller Gram matrix, in
    # float64, are the squares of the singular values and several times faster to compute.
    x_BNC = x_BNC.cpu().double()
    gram = x_BNC @ x_BNC.mT if x_BNC.size(1) < x_BNC.size(2) else x_BNC.mT @ x_BNC
    eigenvalues = torch.linalg.eigvalsh(gram)
    noise = torch.finfo(torch.float64).eps * gram.size(-1) * eigenvalues[..., -1:]  # what rounding makes of a zero
    singular = eigenvalues.where(eigenvalues > noise, 0).clamp_min(0).sqrt()
    total = singular.sum(-1, keepdim=True)
    rank_B = torch.special.entr(singular / total).sum(-1).exp()
    return rank_B.where(total[:, 0] > 0, math.nan).float()


def _centred(x_BTC: Tensor) -> Tensor:
    return x_BTC - x_BTC.mean(1, keepdim=True)


def _influence(before_BTC: Tensor, after_BTC: Tensor) -> Tensor:
    norms_BT = (before_BTC.norm(dim=-1) * after_BTC.norm(dim=-1)).clamp_min(torch.finfo(before_BTC.dtype).tiny)
    cosine_BT = torch.linalg.vecdot(before_BTC, after_BTC) / norms_BT  # ten times faster than cosine_similarity
    return (1 - cosine_BT.mean(1)).clamp_min(0)  # rounding alone can make the cosine exceed 1
