"""How alike the layers' residual streams are, by linear CKA: where neighbours are nearly equal, a layer changes little.

Knows nothing of pictures or files.

Shapes: B sequences, T tokens, N rows (tokens) compared, C model width, L layers.
"""

import torch
from torch import Tensor, nn

from gpt_lightning.errors import UserError
from gpt_lightning.interpret.measure.hooks import looking, residual_streams


@torch.no_grad()
def linear_cka(x_NC: Tensor, y_NC: Tensor) -> float:
    """‖YᵀX‖² / (‖XᵀX‖·‖YᵀY‖) of centred features, Frobenius norms, in float64 (Kornblith et al. 2019, equation 5).

    From 0 to 1: 1 if one is the other rotated, rescaled or shifted. Biased upwards unless there are many more rows than
    columns. NaN if either is constant or not finite.

    Args:
        x_NC, y_NC: Two descriptions of the same N rows; their widths may differ.

    Raises:
        UserError: other than two matrices with the same number of rows, at least 2.
    """
    shapes = f"{tuple(x_NC.shape)} and {tuple(y_NC.shape)}"
    if x_NC.dim() != 2 or y_NC.dim() != 2 or len(x_NC) != len(y_NC) or len(x_NC) < 2:
        raise UserError(f"CKA compares two matrices of the same rows, at least 2, not {shapes}.")
    return _alignment(_normalised(x_NC), _normalised(y_NC))


def layer_similarity(model: nn.Module, tokens_BT: Tensor, max_rows: int = 2048) -> Tensor:
    """`linear_cka` of each pair of residual streams, (L+1, L+1) float32 on the CPU; index 0 is the embedding, l + 1 the
    stream after layer l.

    Position 0 of each sequence is left out. Many networks give the first token a massive activation (Sun et al. 2024),
    a thousand times the rest: these few rows would make up nearly all of the variance, and the similarity would only
    say whether both layers have them.

    Args:
        model: A `gpt_lightning.model.GPT`, as for `depth_scan`.
        tokens_BT: A few sequences, (B, T) int64 with 2 ≤ T ≤ context_length.
        max_rows: How many tokens to compare at most, spread evenly over all sequences. Time grows with them, and beyond
            a few times the model's width they hardly change the result.

    Raises:
        UserError: tokens of another shape, too long for the context, or not in the vocabulary; fewer than 2 rows.
    """
    config, streams_of_parts = model.config, []
    with looking(model, tokens_BT, config.d_model * (config.n_layer + 1)) as parts:
        B, T = tokens_BT.shape
        N = B * (T - 1)
        rows = min(N, max_rows)
        if rows < 2:
            raise UserError(f"Similarity needs at least 2 rows, but max_rows is {max_rows} and the text has {N}.")
        kept_N = torch.zeros(N, dtype=torch.bool)
        kept_N[torch.arange(rows) * N // rows] = True
        for part_BT, kept_BT in zip(parts, kept_N.view(B, T - 1).split(len(parts[0])), strict=True):
            kept_BT = kept_BT.to(part_BT.device)
            streams_of_parts.append([x_BTC[:, 1:][kept_BT].cpu() for x_BTC in residual_streams(model, part_BT)])
    streams = [_normalised(torch.cat(stream)) for stream in zip(*streams_of_parts, strict=True)]
    similarity = torch.empty(len(streams), len(streams))
    for i, x_NC in enumerate(streams):
        for j, y_NC in enumerate(streams[: i + 1]):
            similarity[i, j] = similarity[j, i] = _alignment(x_NC, y_NC)
    return similarity


def _normalised(x_NC: Tensor) -> Tensor:
    """Centred, and scaled so that the features' covariance has norm 1; on the CPU, as not every device has float64."""
    x_NC = x_NC.cpu().double()
    x_NC = x_NC - x_NC.mean(0)
    return x_NC / (x_NC.mT @ x_NC).norm().sqrt()


def _alignment(x_NC: Tensor, y_NC: Tensor) -> float:
    return float((y_NC.mT @ x_NC).square().sum())
