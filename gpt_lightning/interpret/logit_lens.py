"""The logit lens: what a network would predict if it stopped after each layer.

Reads the residual stream through the network's own final norm and head; learns nothing, unlike a tuned lens. Knows
nothing of pictures or files.

Shapes: B sequences, T tokens, N = B·T, C model width, L layers, V vocabulary, S tokens shown; R rows of one block.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lightning.interpret.hooks import checked_tokens, residual_streams

MOST_NUMBERS = 2**24  # alive at once, in the logits or in the residual streams: 64 MB in float32
IGNORED = -100  # PyTorch's customary target of a position that does not count


@dataclass
class LogitLens:
    """What each stream predicts, on the CPU. Index 0 is the embedding, l + 1 the stream after layer l.

    Attributes:
        cross_entropy: (L+1,) float32, nats per token: of the next token.
        kl_to_final: (L+1,) float32, nats: mean over positions of KL(final ‖ lens); 0 for the last.
        top1_agreement: (L+1,) float32, share of positions whose best guess is the network's.
        top_tokens: (L+1, S) int64, best guesses after each of the first S tokens of the first sequence.
    """

    cross_entropy: Tensor
    kl_to_final: Tensor
    top1_agreement: Tensor
    top_tokens: Tensor


@torch.no_grad()
def logit_lens(model: nn.Module, tokens_BT: Tensor, shown_tokens: int = 24, n_ids: int | None = None) -> LogitLens:
    """Decode the residual stream before the first layer and after each, as if it were the last (nostalgebraist 2020).

    In the precision of the weights, without autocast, everything after the logits in float32. A stream that predicts
    badly may still hold what later layers need: the lens shows when a guess appears, not when it is known.

    Args:
        model: A `gpt_lightning.model.GPT`, as for `depth_scan`.
        tokens_BT: A few sequences, (B, T) int64 with 2 ≤ T ≤ context_length.
        shown_tokens: S, at most T of them.
        n_ids: Of a vocabulary that was rounded up, only the first are ids of tokens; no other is a best guess.

    Raises:
        UserError: tokens of another shape, too long for the context, or not in the vocabulary.
    """
    tokens_BT = checked_tokens(model, tokens_BT)
    config, T = model.config, tokens_BT.size(1)
    sequences = max(1, MOST_NUMBERS // (T * config.d_model * (config.n_layer + 1)))
    rows = max(1, MOST_NUMBERS // (4 * config.vocab_size))  # logits and log-probabilities, of the lens and final
    targets_BT = F.pad(tokens_BT[:, 1:], (0, 1), value=IGNORED)
    blocks: list[Tensor] = []
    with torch.autocast(tokens_BT.device.type, enabled=False):
        for part_BT, targets_part_BT in zip(tokens_BT.split(sequences), targets_BT.split(sequences), strict=True):
            streams = [x_BTC.flatten(0, 1).split(rows) for x_BTC in residual_streams(model, part_BT)]
            for *streams_RC, targets_R in zip(*streams, targets_part_BT.flatten().split(rows), strict=True):
                blocks.append(_lens(model, streams_RC, targets_R, n_ids))
    loss_LN, kl_LN, best_LN = torch.cat(blocks, dim=-1)
    return LogitLens(
        # The last position of a sequence has no next token.
        cross_entropy=(loss_LN.sum(1) / (targets_BT != IGNORED).sum().cpu()).float(),
        kl_to_final=kl_LN.mean(1).float(),
        top1_agreement=(best_LN == best_LN[-1]).float().mean(1),
        top_tokens=best_LN[:, : min(shown_tokens, T)].long(),
    )


def _lens(model: nn.Module, streams_RC: list[Tensor], targets_R: Tensor, n_ids: int | None) -> Tensor:
    """Of each stream and row: cross-entropy, KL to the last stream, and best guess; (3, L+1, R) float64 on the CPU,
    in which token ids are exact."""
    final_RV = model.head(model.norm(streams_RC[-1])).float().log_softmax(-1)
    found = []
    for x_RC in streams_RC:
        # The very same numbers for the last, so that its divergence is 0 and not a rounding error.
        lens_RV = final_RV if x_RC is streams_RC[-1] else model.head(model.norm(x_RC)).float().log_softmax(-1)
        loss_R = F.nll_loss(lens_RV, targets_R, ignore_index=IGNORED, reduction="none")
        kl_R = F.kl_div(lens_RV, final_RV, reduction="none", log_target=True).sum(-1)
        found.append(torch.stack([x.cpu().double() for x in (loss_R, kl_R, lens_RV[:, :n_ids].argmax(-1))]))
    return torch.stack(found, dim=1)
