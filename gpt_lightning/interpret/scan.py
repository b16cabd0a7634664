"""The depth scan: a GPT and a few fixed sequences in, statistics of every layer and head out.

It looks through forward hooks that exist only while it runs, and leaves the model as it was. Knows nothing of files,
pictures, or where the sequences come from.

Shapes: B sequences, H heads, T tokens, D head width, C model width, L layers.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from gpt_lightning.interpret.judge.alarms import layer_alarms
from gpt_lightning.interpret.judge.verdicts import head_verdict
from gpt_lightning.interpret.measure.attention import (
    attention_pattern,
    attention_statistics,
    frequent_tokens,
    repeat_statistics,
)
from gpt_lightning.interpret.measure.hooks import looking, of_each_layer
from gpt_lightning.interpret.measure.probes import repeated_tokens
from gpt_lightning.interpret.measure.residual import residual_statistics
from gpt_lightning.interpret.metrics import HEAD_METRICS, LAYER_METRICS, Metric
from gpt_lightning.interpret.result import DepthScanResult

REPEATED_SEQUENCES = 4
Values = dict[str, Tensor]  # by the name of their metric


def depth_scan(
    model: nn.Module,
    tokens_BT: Tensor,
    step: int | None = None,
    token_text: Callable[[int], str] | None = None,
    block: int = 128,
    history: Sequence[Mapping] = (),
) -> DepthScanResult:
    """Scan every layer and head of a GPT on fixed sequences, in evaluation mode and without gradients.

    The statistics are computed inside the hooks, so that only one layer's q, k and v are alive at a time, and never a
    T × T matrix. Long sequences take several forward passes. Induction is measured on random tokens repeated, drawn
    from those of the text.

    Args:
        model: A `gpt_lightning.model.GPT` in any precision, on any device. If it is compiled, the plain forward runs.
        tokens_BT: A few sequences, (B, T) int64 with 2 ≤ T ≤ context_length; sinks need T ≥ 64, stripes T ≥ 17.
        step: Optimiser steps the model has taken: at 0 the verdict is "untrained".
        token_text: How to write a token id, to name the token of a stripe.
        block: Rows of attention at a time; bounds the memory, changes no number.
        history: `DepthScanResult.record` of the run's earlier scans, oldest first. An alarm takes two scans in a row;
            without history it is a suspicion.

    Raises:
        UserError: tokens of another shape, too long for the context, or not in the vocabulary.
    """
    head_metrics, layer_metrics, finite = _natural_metrics(model, tokens_BT, block)
    head_metrics |= _repeat_metrics(model, tokens_BT)
    norm_LH = head_metrics["output_norm"]
    head_metrics["output_norm_relative_to_layer"] = norm_LH / norm_LH.mean(1, keepdim=True)
    head_metrics["output_norm_relative_to_residual"] = norm_LH / layer_metrics["residual_norm"][:, None]
    heads, layers = _in_order(head_metrics, HEAD_METRICS), _in_order(layer_metrics, LAYER_METRICS)
    L, H = norm_LH.shape
    numbers = [[{name: float(x_LH[i, j]) for name, x_LH in heads.items()} for j in range(H)] for i in range(L)]
    places = [[_stripe_place(head, token_text) for head in row] for row in numbers]
    verdicts = [
        [head_verdict(head, step, place) for head, place in zip(*rows, strict=True)]
        for rows in zip(numbers, places, strict=True)
    ]
    result = DepthScanResult(heads, layers, verdicts, *tokens_BT.shape, step, places, finite)
    result.alarms = layer_alarms([*history, result.record()])
    return result


def attention_maps(model: nn.Module, tokens_T: Tensor, max_tokens: int = 128) -> list[Tensor]:
    """The attention weights of one sequence for pictures: a (H, T, T) float32 tensor on the CPU per layer.

    Of the sequence, (T,) int64, only the first `max_tokens` are looked at; they do not see the rest anyway. Raises
    UserError as `depth_scan`.
    """
    return of_each_layer(model, tokens_T[None, :max_tokens], lambda q, k, v: attention_pattern(q, k)[0].cpu())


def _natural_metrics(model: nn.Module, tokens_BT: Tensor, block: int) -> tuple[Values, Values, bool]:
    """Metrics of heads (L, H) and of layers (L,) on the text itself, on the CPU; and whether the network's output,
    after the final norm, is finite."""
    L, H, T = model.config.n_layer, model.config.n_head, tokens_BT.size(-1)
    heads: list[list[Values]] = [[] for _ in range(L)]  # [layer][micro-batch]
    layers: list[list[Values]] = [[] for _ in range(L)]
    finite = True

    def on_attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        output_weight = model.blocks[layer].attention.output.weight
        heads[layer].append(attention_statistics(q, k, v, output_weight, frequent_part_BT, block))

    def on_block(layer: int, before: Tensor, after: Tensor) -> None:
        layers[layer].append(residual_statistics(before, after))

    # The blocks of attention weights need the most memory: two are alive at once, and a copy of each.
    with looking(model, tokens_BT, 4 * H * min(block, T), on_attention, on_block) as parts:
        tokens_BT = torch.cat(parts)  # on the network's device
        masks = frequent_tokens(tokens_BT).split(len(parts[0]))
        for part_BT, frequent_part_BT in zip(parts, masks, strict=True):  # noqa: B007  on_attention reads it
            # Not model(...): compiled code ignores hooks, and nobody needs the logits, the largest tensor of all.
            finite = finite and bool(model.hidden_states(part_BT).isfinite().all())

    per_head = [_over_sequences(_with_stripe_tokens(_joined(layer), tokens_BT), HEAD_METRICS) for layer in heads]
    per_layer = [_over_sequences(_joined(layer), LAYER_METRICS) for layer in layers]
    return _stacked(per_head), _stacked(per_layer), finite


def _repeat_metrics(model: nn.Module, tokens_BT: Tensor) -> Values:
    """Induction and duplicate-token scores (L, H) on random tokens repeated, on the CPU; NaN if they don't fit."""
    probe = repeated_tokens(tokens_BT, REPEATED_SEQUENCES, model.config.context_length)
    if probe is None:
        undefined_LH = torch.full((model.config.n_layer, model.config.n_head), math.nan)
        return {"induction": undefined_LH, "duplicate_token": undefined_LH}
    repeated_BT, period = probe
    statistics = of_each_layer(model, repeated_BT, lambda q, k, v: repeat_statistics(q, k, period))
    return _stacked([{name: values_BH.mean(0) for name, values_BH in layer.items()} for layer in statistics])


def _joined(parts: list[Values]) -> Values:
    """From a dict per micro-batch to one of (B, …) tensors."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _stacked(layers: list[Values]) -> Values:
    """From a dict per layer to one of (L, …) tensors."""
    return {name: torch.stack([layer[name] for layer in layers]).cpu() for name in layers[0]}


def _with_stripe_tokens(statistics: Values, tokens_BT: Tensor) -> Values:
    """Statistics (B, H), with the token of each stripe, and whether position and token are the strongest stripe's."""
    position_BH = statistics["stripe_position"]
    undefined_BH = position_BH.isnan()
    token_BH = tokens_BT.gather(1, position_BH.nan_to_num().long()).float().where(~undefined_BH, math.nan)
    strongest_1H = statistics["stripe"].argmax(0, keepdim=True)

    def same(x_BH: Tensor) -> Tensor:
        return (x_BH == x_BH.gather(0, strongest_1H)).float().where(~undefined_BH, math.nan)

    more = {"stripe_token": token_BH, "stripe_same_position": same(position_BH), "stripe_same_token": same(token_BH)}
    return statistics | more


def _over_sequences(statistics: Values, rows: Mapping[str, Metric]) -> Values:
    """From (B, …) to (…), each metric reduced as its row says."""
    return {name: _REDUCE[rows[name].over_sequences](values, statistics) for name, values in statistics.items()}


_REDUCE: dict[str, Callable[[Tensor, Values], Tensor]] = {
    "mean": lambda values, statistics: values.mean(0),
    "largest": lambda values, statistics: values.amax(0),
    "stripe": lambda values, statistics: values.gather(0, statistics["stripe"].argmax(0, keepdim=True))[0],
}


def _in_order(metrics: Values, rows: Mapping[str, Metric]) -> Values:
    """In the order of the rows. Raises KeyError for a row that nothing computes and for a metric without a row."""
    if extra := metrics.keys() - rows.keys():
        raise KeyError(f"{', '.join(sorted(extra))}: no row in interpret/metrics.py")
    return {name: metrics[name] for name in rows}


def _stripe_place(head: Mapping[str, float], token_text: Callable[[int], str] | None) -> str | None:
    """Where a head's stripe is, in words; None if it is somewhere else in most sequences."""
    if token_text is not None and head["stripe_same_token"] > 0.5:
        return f"'{token_text(int(head['stripe_token']))}'"
    return f"position {head['stripe_position']:.0f}" if head["stripe_same_position"] > 0.5 else None
