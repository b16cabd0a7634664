"""Exact mean-ablation: how much more a text costs when a head, or a layer's attention, gives only its average.

Only this intervention can prove that a head is harmful or useless. Its hooks exist only while it runs. Knows nothing of
attention maps, verdicts or files.

Shapes: n sequences, B of one micro-batch, L layers, H heads, T tokens, D head width, C model width; N predictions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from gpt_lightning.errors import UserError
from gpt_lightning.interpret.measure.hooks import looking
from gpt_lightning.interpret.measure.predictions import token_losses

NEGLIGIBLE = 0.002  # nats per token: 0.2% of the perplexity, which nobody would miss
# 97.5% quantiles of Student's distribution for 1 to 30 degrees of freedom. Beyond 30 the normal distribution's does,
# which makes an interval at most 4% too short.
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
NORMAL_QUANTILE = 1.96

Effect = Literal["needed", "no effect", "harmful", "unclear"]


@dataclass
class Ablation:
    """Cross-entropies per sequence, float32 on the CPU, nats per token; a change is positive if the part was needed."""

    baseline_n: Tensor  # (n,) of the network with nothing replaced
    head_delta_LHn: Tensor  # (L, H, n) change when that head alone is replaced by its mean
    attention_delta_Ln: Tensor  # (L, n) change when all heads of that layer are


def ablate(
    model: nn.Module,
    tokens_BT: Tensor,
    on_progress: Callable[[], None] = lambda: None,
    max_tokens: int = 512,
    first_target: int = 1,
) -> Ablation:
    """Replace each head's output by its mean over all these tokens, one head at a time, and measure what that costs.

    Leaving a head out altogether (Michel et al. 2019) also takes away the constant that later layers rely on; putting
    its mean in its place takes away only what it says about this token (Wang et al. 2022). The head's mixed values are
    replaced, before the output projection. Changes are taken per sequence, since sequences differ from each other by
    far more than a head changes any of them.

    Runs in the precision of the weights, with the cross-entropy in float32, layer by layer, so that only what follows
    the ablated layer is computed again: about n_head · n_layer / 2 forward passes.

    Args:
        model: A `gpt_lightning.model.GPT`, as for `depth_scan`.
        tokens_BT: A few sequences, (n, T) int64; `interval` needs at least two to say anything.
        on_progress: Called after each layer.
        max_tokens: Longer sequences are cut to this length.
        first_target: Index of the first token whose prediction counts, at least 1; means are always over all tokens.

    Raises:
        UserError: tokens of another shape, too long for the context, or not in the vocabulary; no prediction to count.
    """
    tokens_BT, config = tokens_BT[..., :max_tokens], model.config
    H, D = config.n_head, config.d_model // config.n_head
    inputs: list[Tensor] = []  # of the layer at hand, one (B, T, C) per micro-batch
    head_deltas, attention_deltas = [], []
    with looking(model, tokens_BT) as parts:
        n, T = tokens_BT.shape
        if not 1 <= first_target < T:
            raise UserError(f"first_target must be from 1 to {T - 1} for sequences of {T} tokens, not {first_target}.")
        with model.blocks[0].register_forward_pre_hook(lambda block, arguments: inputs.append(arguments[0])):
            losses = [_cross_entropy(model, model.hidden_states(part), part, first_target) for part in parts]
        baseline_n = torch.cat(losses)
        for layer, block in enumerate(model.blocks):
            attend, sum_HD = block.attention.attend, torch.zeros(H, D, device=baseline_n.device)
            with attend.register_forward_hook(partial(_add_output, sum_HD)):
                outputs = [block(x_BTC) for x_BTC in inputs]
            deltas = []
            for heads in (*range(H), slice(None)):
                with attend.register_forward_hook(partial(_replaced, sum_HD / (n * T), heads)):
                    ablated_n = _continued(model, layer, inputs, parts, first_target)
                deltas.append((ablated_n - baseline_n).cpu())
            head_deltas.append(torch.stack(deltas[:H]))
            attention_deltas.append(deltas[H])
            inputs = outputs
            on_progress()
    return Ablation(baseline_n.cpu(), torch.stack(head_deltas), torch.stack(attention_deltas))


def interval(delta_n: Tensor) -> tuple[float, float, float]:
    """Mean of the sequences' changes and its 95% confidence interval (Student's t): mean, low, high, in their unit.

    The sequences are the sample, since tokens of one sequence are not independent. A single sequence says nothing about
    others: its interval is infinite.

    Raises:
        UserError: not one dimension, or no sequences.
    """
    if delta_n.dim() != 1 or len(delta_n) == 0:
        raise UserError(f"An interval needs one change per sequence, not a tensor of shape {tuple(delta_n.shape)}.")
    delta_n = delta_n.cpu().double()
    n, mean = len(delta_n), float(delta_n.mean())
    if n == 1:
        return mean, -math.inf, math.inf
    quantile = T_QUANTILES[n - 2] if n - 2 < len(T_QUANTILES) else NORMAL_QUANTILE
    half = quantile * float(delta_n.std()) / math.sqrt(n)
    return mean, mean - half, mean + half


def effect(delta_n: Tensor) -> Effect:
    """What the changes of the sequences prove, by their 95% `interval`; raises UserError as that does.

    - "no effect": the interval is within ±0.002 nats per token. This comes first: with enough sequences any interval
      excludes 0, and a change can be certain and still too small to matter.
    - "needed": the interval is above 0: taking the part away costs something.
    - "harmful": the interval is below −0.002. Of a hundred heads without effect, two or three have an interval below 0
      by chance, but hardly one has it that far below.
    - "unclear": anything else, such as a single sequence, or changes that are not finite. This is not "no effect": a
      wide interval around 0 excludes nothing.
    """
    _, low, high = interval(delta_n)
    if low >= -NEGLIGIBLE and high <= NEGLIGIBLE:
        return "no effect"
    if low > 0:
        return "needed"
    return "harmful" if high < -NEGLIGIBLE else "unclear"


def _add_output(sum_HD: Tensor, attend: nn.Module, inputs: tuple, mixed_BHTD: Tensor) -> None:
    sum_HD += mixed_BHTD.float().sum((0, 2))


def _replaced(mean_HD: Tensor, heads: int | slice, attend: nn.Module, inputs: tuple, mixed_BHTD: Tensor) -> Tensor:
    replaced_BHTD = mixed_BHTD.clone()
    replaced_BHTD[:, heads] = mean_HD[heads].unsqueeze(-2)
    return replaced_BHTD


def _continued(
    model: nn.Module, layer: int, inputs: list[Tensor], parts: tuple[Tensor, ...], first_target: int
) -> Tensor:
    """Cross-entropy (n,) of the network, run from this layer on with the layer's inputs."""
    losses = []
    for x_BTC, part_BT in zip(inputs, parts, strict=True):
        for block in model.blocks[layer:]:
            x_BTC = block(x_BTC)
        losses.append(_cross_entropy(model, model.norm(x_BTC), part_BT, first_target))
    return torch.cat(losses)


def _cross_entropy(model: nn.Module, hidden_BTC: Tensor, tokens_BT: Tensor, first_target: int) -> Tensor:
    """Mean over each sequence's predictions that count, (B,), by blocks of rows."""
    hidden_NC, targets_N = hidden_BTC[:, first_target - 1 : -1].flatten(0, 1), tokens_BT[:, first_target:].flatten()
    return token_losses(model, hidden_NC, targets_N).view(len(tokens_BT), -1).mean(1)
