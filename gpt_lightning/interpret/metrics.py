"""Every metric of the depth scan, one row each.

Whatever lists metrics reads these rows: the scan, the JSON and its units, tables, the report, pictures, TensorBoard's
curves, histograms and charts, and docs/reading-the-scan.md. A new metric is therefore the function that computes it per
sequence (in measure/attention.py or measure/residual.py) and a row here. People see the metrics in this order.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A number that is measured for each head, or for each layer."""

    unit: str  # as people read it
    title: str  # what it is, in a few words, for pictures and columns
    meaning: str  # what it says, in a sentence, for docs/
    # How to reduce it over the sequences; "stripe" takes the value of the sequence with the strongest stripe.
    over_sequences: Literal["mean", "largest", "stripe"] = "mean"
    worst: Literal["lowest", "highest"] = "highest"  # which end to worry about; "highest" if neither
    # A fixed scale, so that pictures of different steps compare. The upper end may depend on how many tokens a sequence
    # has; None means as far as the values reach.
    range: tuple[float, float | Callable[[int], float] | None] = (0, None)
    pictured: bool = False  # whether a metric of heads has a layer × head picture, a curve per layer and a histogram
    in_report: bool = False  # whether it is a column of the report; depth_scan.json has every metric
    compared_as: str = ""  # its short name where two scans are compared; empty if it is left out there
    charts: tuple[Literal["layer", "worst"], ...] = ()  # of TensorBoard's: curves of every layer, of the worst head
    whole_number: bool = False  # whether it is a position or an id, and so has no fraction

    @property
    def heading(self) -> str:
        """The title of its column in a table, with the unit unless that is a share."""
        return self.title if self.unit.startswith("share") else f"{self.title} ({self.unit})"

    def limits(self, tokens: int) -> tuple[float, float | None]:
        """The scale for sequences of so many tokens; None as the upper end if it is free."""
        low, high = self.range
        return low, high(tokens) if callable(high) else high


def _share(title: str, meaning: str, unit: str = "share (0 to 1)", **more) -> Metric:
    return Metric(unit, title, meaning, **({"range": (0, 1)} | more))


HEAD_METRICS: Mapping[str, Metric] = {
    "normalized_entropy": _share(
        "Entropy, relative to uniform",
        "How many tokens a row spreads over, relative to uniform attention, which is 1; the median over rows.",
        worst="lowest",
        pictured=True,
        in_report=True,
        compared_as="entropy",
        charts=("layer", "worst"),
    ),
    "normalized_entropy_p10": _share(
        "Entropy, 10th percentile",
        "The same for the sharpest tenth of rows: an induction head has two modes, which a median hides.",
        worst="lowest",
    ),
    "normalized_entropy_p90": _share(
        "Entropy, 90th percentile", "The same for the most diffuse tenth of rows.", worst="lowest"
    ),
    "first_position_mass": _share(
        "Mass on the first token",
        "Attention on the first token; above 0.3 the head is a sink.",
        pictured=True,
        in_report=True,
        compared_as="first",
        charts=("layer",),
    ),
    "first_position_mass_64": _share(
        "Mass on the first token, 64 rows", "The same over the first 64 rows, to compare different context lengths."
    ),
    "sink_rate": _share(
        "Sequences with a sink",
        "In how many of the sequences the first token has more than 0.3 of the mass; needs 64 tokens.",
        "share of sequences (0 to 1)",
    ),
    "value_weighted_first_position_share": _share(
        "First token, weighted by value",
        "What the first token contributes to the output; far below its mass, the sink is a way to do nothing.",
        pictured=True,
    ),
    "first_value_norm": Metric(
        "ratio to the mean value norm",
        "Norm of the first token's value",
        "Far below 1, the first token's value is drained: attending to it adds nothing.",
    ),
    "stripe": _share(
        "Strongest later column (stripe)",
        "The strongest single column after the first: one token that every query looks at.",
        pictured=True,
        in_report=True,
        compared_as="stripe",
        charts=("layer", "worst"),
    ),
    "stripe_position": Metric(
        "token index",
        "Position of the stripe",
        "Where that column is, in the sequence with the strongest one.",
        over_sequences="stripe",
        whole_number=True,
    ),
    "stripe_token": Metric(
        "token id", "Token of the stripe", "Which token is there.", over_sequences="stripe", whole_number=True
    ),
    "stripe_same_position": _share(
        "Sequences with the stripe at that position",
        "In how many of the sequences the strongest column is at that position.",
        "share of sequences (0 to 1)",
    ),
    "stripe_same_token": _share(
        "Sequences with the stripe at that token",
        "In how many of the sequences it is at that token.",
        "share of sequences (0 to 1)",
    ),
    "local_mass": _share(
        "Mass on the last 8 tokens",
        "Attention on the last 8 tokens, the query's own included.",
        pictured=True,
        in_report=True,
    ),
    "local_mass_baseline": _share("The same of uniform attention", "What uniform attention would have there."),
    "previous_token": _share(
        "Mass on the previous token", "Attention on the token before.", pictured=True, in_report=True, charts=("layer",)
    ),
    "induction": _share(
        "Induction",
        "On random tokens repeated: attention on the token that followed the earlier copy.",
        pictured=True,
        in_report=True,
        charts=("layer",),
    ),
    "duplicate_token": _share(
        "Mass on an earlier copy", "On random tokens repeated: attention on the earlier copy itself.", pictured=True
    ),
    "frequent_token_excess": _share(
        "Preference for frequent tokens",
        "Attention on the 8 most frequent tokens beyond their share.",
        "share (−1 to 1)",
        range=(-1, 1),
        pictured=True,
    ),
    "max_logit": Metric(
        "logit",
        "Largest attention logit",
        "The largest attention score; if it keeps growing, entropy collapses.",
        over_sequences="largest",
        pictured=True,
        in_report=True,
        compared_as="logit",
        charts=("layer", "worst"),
    ),
    "entropy": Metric(
        "nats",
        "Entropy",
        "How many tokens a row spreads over: e^entropy is their effective number.",
        worst="lowest",
        range=(0, math.log),  # of uniform attention over all tokens
        pictured=True,
        in_report=True,
    ),
    "entropy_floor": Metric(
        "nats",
        "The least entropy that such logits allow",
        "The least entropy that logits of this size allow; near 0, nothing keeps the head from being sharp.",
        in_report=True,
    ),
    "output_norm": Metric(
        "norm", "Output", "The mean norm of what the head adds to the residual stream.", worst="lowest"
    ),
    "output_norm_relative_to_layer": Metric(
        "ratio to the layer's mean head",
        "Output, relative to the layer",
        "The same, relative to the mean over the layer's heads.",
        worst="lowest",
    ),
    "output_norm_relative_to_residual": Metric(
        "ratio to the residual norm",
        "Output, relative to the residual",
        "How much the head adds to the residual stream, relative to its size.",
        worst="lowest",
        pictured=True,
        charts=("worst",),
    ),
}
LAYER_METRICS: Mapping[str, Metric] = {
    "residual_norm": Metric(
        "norm", "Residual norm", "The size of the residual stream after the layer.", in_report=True, charts=("layer",)
    ),
    "max_activation": Metric("activation", "Largest activation", "Its largest entry.", over_sequences="largest"),
    "massive_activation_ratio": Metric(
        "ratio to the median",
        "Largest ÷ median activation",
        "Around 1,000, with an entry above 100, a token carries a massive activation.",
        in_report=True,
    ),
    "block_influence": Metric(
        "1 − cosine",
        "Block influence",
        "How much a layer turns the residual stream; near 0 the layer does nothing.",
        worst="lowest",
        in_report=True,
        charts=("layer",),
    ),
    "block_influence_centred": Metric(
        "1 − cosine",
        "Block influence, token mean removed",
        "The same without what all tokens share, which can dominate the cosine.",
        worst="lowest",
        in_report=True,
    ),
    "effective_rank": Metric(
        "directions",
        "Effective rank",
        "In how many directions a layer's tokens differ (layer-normed, centred, without the first token).",
        worst="lowest",
        in_report=True,
        compared_as="rank",
        charts=("layer",),
    ),
}
METRICS: Mapping[str, Metric] = {**HEAD_METRICS, **LAYER_METRICS}
PICTURED = [name for name, row in HEAD_METRICS.items() if row.pictured]
