"""Statistics of the residual stream before and after a layer: tensors in, numbers out, in float32.

Shapes: B batch, T tokens, C model width.
"""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


@torch.no_grad()
def residual_statistics(before_BTC: Tensor, after_BTC: Tensor) -> dict[str, Tensor]:
    """What one layer does to the residual stream: metric name → scalar float32.

    - `residual_norm`: mean over tokens of ‖x‖ after the layer.
    - `max_activation`: max |x|; `massive_activation_ratio`: max |x| / median |x|. Sun et al. 2024 call an activation
      massive if it is above 100 and around 1000 times the median.
    - `block_influence`: 1 − cos(before, after), mean over tokens (Men et al. 2024, ShortGPT): 0 if the layer does
      nothing, or only rescales.
    - `block_influence_centred`: the same after subtracting each sequence's mean over tokens: what all tokens share says
      nothing about any of them, yet can dominate the plain cosine.
    """
    before, after = before_BTC.float(), after_BTC.float()
    size = after.abs()
    return {
        "residual_norm": after.norm(dim=-1).mean(),
        "max_activation": size.max(),
        "massive_activation_ratio": size.max() / size.median(),
        "block_influence": _influence(before, after),
        "block_influence_centred": _influence(_centred(before), _centred(after)),
    }


def _centred(x_BTC: Tensor) -> Tensor:
    return x_BTC - x_BTC.mean(1, keepdim=True)


def _influence(before_BTC: Tensor, after_BTC: Tensor) -> Tensor:
    # Rounding alone can make the cosine exceed 1.
    return (1 - cosine_similarity(before_BTC, after_BTC, dim=-1).mean()).clamp_min(0)
