"""The logit lens: what a network would predict if it stopped after each layer.

Reads the residual stream through the network's own final norm and head. Unlike a tuned lens, it learns nothing. Knows
nothing of pictures or files.

Shapes: B sequences, T tokens, N = B·T, C model width, L layers, V vocabulary, S tokens shown; R rows of one block.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_lightning.batch import IGNORED
from gpt_lightning.interpret.measure.hooks import how_many_fit, looking, residual_streams


@dataclass
class LogitLens:
    """What each stream predicts, on the CPU. Index 0 is the embedding, l + 1 the stream after layer l."""

    cross_entropy: Tensor  # (L+1,) float32, nats per token
    kl_to_final: Tensor  # (L+1,) float32, nats: mean over positions of KL(final ‖ lens); 0 for the last
    top1_agreement: Tensor  # (L+1,) float32, share of positions whose best guess is the network's
    top_tokens: Tensor  # (L+1, S) int64, best guesses after each of the first S tokens of the first sequence


def logit_lens(model: nn.Module, tokens_BT: Tensor, shown_tokens: int = 24, n_ids: int | None = None) -> LogitLens:
    """Decode the residual stream before the first layer and after each, as if it were the last (nostalgebraist 2020).

    Runs in the precision of the weights, and in float32 after the logits. A stream that predicts badly may still hold
    what later layers need: the lens shows when a guess appears, not when the network knows the answer.

    Args:
        model: A `gpt_lightning.model.GPT`, as for `depth_scan`.
        tokens_BT: A few sequences, (B, T) int64 with 2 ≤ T ≤ context_length.
        shown_tokens: S, at most T of them.
        n_ids: How many ids are tokens, if the vocabulary was rounded up; only these can be a best guess.

    Raises:
        UserError: tokens of another shape, too long for the context, or not in the vocabulary.
    """
    config = model.config
    rows = how_many_fit(4 * config.vocab_size)  # logits and log-probabilities, of the lens and of the last layer
    blocks: list[Tensor] = []
    with looking(model, tokens_BT, config.d_model * (config.n_layer + 1)) as parts:
        for part_BT in parts:
            targets_BT = F.pad(part_BT[:, 1:], (0, 1), value=IGNORED)  # the last token has no next
            streams = [x_BTC.flatten(0, 1).split(rows) for x_BTC in residual_streams(model, part_BT)]
            for *streams_RC, targets_R in zip(*streams, targets_BT.flatten().split(rows), strict=True):
                blocks.append(_lens(model, streams_RC, targets_R, n_ids))
    (B, T), (loss_LN, kl_LN, best_LN) = tokens_BT.shape, torch.cat(blocks, dim=-1)
    return LogitLens(
        cross_entropy=(loss_LN.sum(1) / (B * (T - 1))).float(),
        kl_to_final=kl_LN.mean(1).float(),
        top1_agreement=(best_LN == best_LN[-1]).float().mean(1),
        top_tokens=best_LN[:, : min(shown_tokens, T)].long(),
    )


def _lens(model: nn.Module, streams_RC: list[Tensor], targets_R: Tensor, n_ids: int | None) -> Tensor:
    """Cross-entropy, KL to the last stream, and best guess of each stream and row: (3, L+1, R) float64 on the CPU,
    which holds token ids exactly."""
    final_RV = model.head(model.norm(streams_RC[-1])).float().log_softmax(-1)
    lenses = []
    for x_RC in streams_RC:
        # The last stream gets the very same numbers, so that its divergence is 0 and not a rounding error.
        lens_RV = final_RV if x_RC is streams_RC[-1] else model.head(model.norm(x_RC)).float().log_softmax(-1)
        loss_R = F.nll_loss(lens_RV, targets_R, ignore_index=IGNORED, reduction="none")
        kl_R = F.kl_div(lens_RV, final_RV, reduction="none", log_target=True).sum(-1)
        lenses.append(torch.stack([x.cpu().double() for x in (loss_R, kl_R, lens_RV[:, :n_ids].argmax(-1))]))
    return torch.stack(lenses, dim=1)
