"""How well a network predicts each token, without ever holding the logits of all tokens.

Shapes: B sequences, T tokens, C model width; N rows (tokens) of any number of sequences, R of one block.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lightning.interpret.measure.hooks import how_many_fit, looking


def cross_entropies(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """The loss of each prediction, (B, T − 1) float32 on the CPU, nats: column t is the prediction of token t + 1.

    Runs in evaluation mode and in the precision of the weights.

    Raises:
        UserError: tokens of another shape, too long for the context, or not in the vocabulary.
    """
    losses = []
    with looking(model, tokens_BT) as parts:
        for part_BT in parts:
            hidden_NC = model.hidden_states(part_BT)[:, :-1].flatten(0, 1)
            losses.append(token_losses(model, hidden_NC, part_BT[:, 1:].flatten()).view(len(part_BT), -1))
    return torch.cat(losses).cpu()


def token_losses(model: nn.Module, hidden_NC: Tensor, targets_N: Tensor) -> Tensor:
    """Cross-entropy (N,) float32 of hidden states after the final norm, by blocks of rows."""
    rows = how_many_fit(4 * model.config.vocab_size)  # cross_entropy makes a few tensors as large as the logits
    blocks = zip(hidden_NC.split(rows), targets_N.split(rows), strict=True)
    return torch.cat([F.cross_entropy(model.head(x_RC).float(), y_R, reduction="none") for x_RC, y_R in blocks])
