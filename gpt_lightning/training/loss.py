"""Next-token cross-entropy that never holds all logits at once.

It knows the network's head, but nothing of training. Shapes: N tokens of the batch, C = d_model, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gpt_lightning.batch import IGNORED
from gpt_lightning.model import GPT

CHUNK_ROWS = 512  # rows of logits held at once; 512 × 50,257 float32 values are 100 MB
CHUNK_ABOVE = 2**24  # logits, 64 MB in float32; for fewer, one matrix product is faster than chunks


def next_token_loss(gpt: GPT, inputs_BT: Tensor, targets_BT: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats of the targets given the inputs, (B, T) int64 each; targets of -100 do not count.

    `reduction` is "mean" over the targets that count, or "sum".
    """
    hidden_NC = gpt.hidden_states(inputs_BT).flatten(0, 1)
    return head_cross_entropy(hidden_NC, gpt.head.weight, targets_BT.flatten(), reduction)


def head_cross_entropy(hidden_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of logits = hidden · weightᵀ, in chunks of rows when the logits are large."""
    if hidden_NC.size(0) * weight_VC.size(0) <= CHUNK_ABOVE:
        return _logits_cross_entropy(hidden_NC, weight_VC, targets_N, reduction)
    device = hidden_NC.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NC.dtype
    # The fused function computes gradients during forward, before a gradient scaler could lift them into fp16's range.
    if hasattr(F, "linear_cross_entropy") and dtype != torch.float16:
        # Autocast leaves it alone, so cast here; it accumulates in float32.
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK_ROWS)
        return F.linear_cross_entropy(
            hidden_NC.to(dtype), weight_VC.to(dtype), targets_N, reduction=reduction, options=options
        ).float()
    chunks = zip(hidden_NC.split(CHUNK_ROWS), targets_N.split(CHUNK_ROWS), strict=True)
    total = sum(
        checkpoint(_logits_cross_entropy, hidden, weight_VC, targets, "sum", use_reentrant=False)
        for hidden, targets in chunks
    )
    return total if reduction == "sum" else total / (targets_N != IGNORED).sum()


def _logits_cross_entropy(hidden_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, reduction: str) -> Tensor:
    logits_NV = F.linear(hidden_NC, weight_VC).float()
    return F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction=reduction)
