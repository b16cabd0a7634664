"""How well a network predicts each token: losses that never hold the logits of a whole text.

Shapes: B sequences, T tokens, C model width; N rows (tokens) of any number of sequences.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lightning.interpret.hooks import checked_tokens, observed

MOST_NUMBERS = 2**24  # alive at once, of logits or in the MLP: 64 MB in float32


@torch.no_grad()
def cross_entropies(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """The loss of each prediction, (B, T − 1) float32 on the CPU, nats: column t is the prediction of token t + 1.

    In evaluation mode and in the precision of the weights, whatever autocast says.

    Raises:
        UserError: tokens of another shape, too long for the context, or not in the vocabulary.
    """
    tokens_BT = checked_tokens(model, tokens_BT)
    sequences = max(1, MOST_NUMBERS // (tokens_BT.size(1) * 4 * model.config.d_model))  # the MLP is as wide as this
    losses = []
    with torch.autocast(tokens_BT.device.type, enabled=False), observed(model, lambda layer, q, k, v: None):
        for part_BT in tokens_BT.split(sequences):
            hidden_NC = model.hidden_states(part_BT)[:, :-1].flatten(0, 1)
            losses.append(token_losses(model, hidden_NC, part_BT[:, 1:].flatten()).view(len(part_BT), -1))
    return torch.cat(losses).cpu()


def token_losses(model: nn.Module, hidden_NC: Tensor, targets_N: Tensor) -> Tensor:
    """Cross-entropy (N,) float32 of the head's logits, of hidden states after the final norm, by blocks of rows."""
    rows = max(1, MOST_NUMBERS // (4 * model.config.vocab_size))  # cross_entropy makes a few tensors of that size
    return torch.cat(
        [
            F.cross_entropy(model.head(some_NC).float(), some_N, reduction="none")
            for some_NC, some_N in zip(hidden_NC.split(rows), targets_N.split(rows), strict=True)
        ]
    )
