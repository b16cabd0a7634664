"""How alike the layers' residual streams are, by linear CKA: near-equal neighbours are layers that change little.

Tensors in, numbers out. Knows nothing of pictures or files.

Shapes: n sequences, T tokens, N rows (tokens) compared, C model width, L layers.
"""

import torch
from torch import Tensor, nn

from gpt_lightning.errors import UserError
from gpt_lightning.interpret.hooks import checked_tokens, residual_streams

MOST_NUMBERS = 2**24  # alive at once in the residual streams: 64 MB in float32


@torch.no_grad()
def linear_cka(x_NC: Tensor, y_NC: Tensor) -> float:
    """‖YᵀX‖² / (‖XᵀX‖·‖YᵀY‖) of centred features, Frobenius norms, in float64 (Kornblith et al. 2019, equation 5).

    From 0 to 1: 1 if one is the other rotated, rescaled or shifted. It has a bias upwards that only many more rows than
    columns remove. NaN where one does not vary or is not finite.

    Args:
        x_NC, y_NC: Two descriptions of the same N rows; their widths may differ.

    Raises:
        UserError: other than two matrices of equally many rows, at least 2.
    """
    shapes = f"{tuple(x_NC.shape)} and {tuple(y_NC.shape)}"
    if x_NC.dim() != 2 or y_NC.dim() != 2 or len(x_NC) != len(y_NC) or len(x_NC) < 2:
        raise UserError(f"CKA compares two matrices of the same rows, at least 2, not {shapes}")
    return _alignment(_normalised(x_NC), _normalised(y_NC))


def layer_similarity(model: nn.Module, tokens_BT: Tensor, max_rows: int = 2048) -> Tensor:
    """`linear_cka` of every two residual streams, (L+1, L+1) float32 on the CPU; index 0 is the embedding, l + 1 the
    stream after layer l.

    Position 0 of each sequence is left out. Many networks give the first token a massive activation (Sun et al. 2024),
    a thousand times the rest: these few rows would be nearly all of the variance, and the number say only whether both
    layers have it.

    Args:
        model: A `gpt_lightning.model.GPT`, as for `depth_scan`.
        tokens_BT: A few sequences, (n, T) int64 with 2 ≤ T ≤ context_length.
        max_rows: Tokens to compare at most, evenly spread over all sequences: time grows with them, and more than a few
            times the model's width hardly change the number.

    Raises:
        UserError: tokens of another shape, too long for the context, or not in the vocabulary; fewer than 2 rows.
    """
    tokens_BT = checked_tokens(model, tokens_BT)
    n, T = tokens_BT.shape
    N = n * (T - 1)
    rows = min(N, max_rows)
    if rows < 2:
        raise UserError(f"similarity needs at least 2 rows, but max_rows is {max_rows} and the text has {N}")
    kept_N = torch.zeros(N, dtype=torch.bool, device=tokens_BT.device)
    kept_N[torch.arange(rows, device=tokens_BT.device) * N // rows] = True
    sequences = max(1, MOST_NUMBERS // (T * model.config.d_model * (model.config.n_layer + 1)))
    parts: list[list[Tensor]] = []
    with torch.autocast(tokens_BT.device.type, enabled=False):
        for part_BT, kept_BT in zip(tokens_BT.split(sequences), kept_N.view(n, T - 1).split(sequences), strict=True):
            parts.append([x_BTC[:, 1:][kept_BT].cpu() for x_BTC in residual_streams(model, part_BT)])
    streams = [_normalised(torch.cat(stream)) for stream in zip(*parts, strict=True)]
    similarity = torch.empty(len(streams), len(streams))
    for i, x_NC in enumerate(streams):
        for j, y_NC in enumerate(streams[: i + 1]):
            similarity[i, j] = similarity[j, i] = _alignment(x_NC, y_NC)
    return similarity


def _normalised(x_NC: Tensor) -> Tensor:
    """Centred, and scaled so that its features' covariance has norm 1; on the CPU: not every device has float64."""
    x_NC = x_NC.cpu().double()
    x_NC = x_NC - x_NC.mean(0)
    return x_NC / (x_NC.mT @ x_NC).norm().sqrt()


def _alignment(x_NC: Tensor, y_NC: Tensor) -> float:
    return float((y_NC.mT @ x_NC).square().sum())
