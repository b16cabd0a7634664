"""What a depth scan returns: metrics per layer and head with their units, verdicts, and the JSON contract.

Plain data; knows nothing of models, hooks, pictures or files.

Shapes: L layers, H heads.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from gpt_lightning.interpret.verdicts import Verdict, summarise

SHARE = "share (0 to 1)"
HEAD_UNITS = {
    "entropy": "nats",
    "normalized_entropy": SHARE,
    "normalized_entropy_p10": SHARE,
    "normalized_entropy_p90": SHARE,
    "entropy_floor": "nats",
    "first_position_mass": SHARE,
    "first_position_mass_64": SHARE,
    "sink_rate": "share of sequences (0 to 1)",
    "value_weighted_first_position_share": SHARE,
    "stripe": SHARE,
    "stripe_position": "token index",
    "stripe_token": "token id",
    "local_mass": SHARE,
    "local_mass_baseline": SHARE,
    "previous_token": SHARE,
    "induction": SHARE,
    "duplicate_token": SHARE,
    "frequent_token_excess": "share (−1 to 1)",
    "max_logit": "logit",
    "output_norm": "norm",
    "output_norm_relative_to_layer": "ratio to the layer's mean head",
    "output_norm_relative_to_residual": "ratio to the residual norm",
}
LAYER_UNITS = {
    "residual_norm": "norm",
    "max_activation": "activation",
    "massive_activation_ratio": "ratio to the median",
    "block_influence": "1 − cosine",
    "block_influence_centred": "1 − cosine",
    "effective_rank": "directions",
}


@dataclass
class DepthScanResult:
    """What a depth scan found; on the CPU, in float32, NaN where a metric is undefined.

    Attributes:
        heads: Metric → (L, H), by the names and units of HEAD_UNITS; means over the sequences, except `max_logit` (the
            largest) and `stripe_position`, `stripe_token` (of the sequence with the largest stripe).
        layers: Metric → (L,), by the names and units of LAYER_UNITS.
        verdicts: [layer][head].
        sequences, tokens: How many sequences of how many tokens were scanned.
        step: Optimiser steps the model has taken, None if not known.
    """

    heads: dict[str, Tensor]
    layers: dict[str, Tensor]
    verdicts: list[list[Verdict]]
    sequences: int
    tokens: int
    step: int | None

    @property
    def summary(self) -> str:
        """One sentence: how many heads of each kind, and what stands out."""
        return summarise(self.verdicts)

    def to_json(self) -> dict:
        """Plain types, undefined or infinite as None: units once, then layers[l].heads[h] with every metric by name."""
        return {
            "units": HEAD_UNITS | LAYER_UNITS,
            "step": self.step,
            "sequences": self.sequences,
            "tokens": self.tokens,
            "summary": self.summary,
            "layers": [
                {
                    "layer": layer,
                    **{name: _plain(name, values_L[layer]) for name, values_L in self.layers.items()},
                    "heads": [
                        {
                            "head": head,
                            **{name: _plain(name, values_LH[layer, head]) for name, values_LH in self.heads.items()},
                            "verdict": verdict.label,
                            "reason": verdict.reason,
                        }
                        for head, verdict in enumerate(verdicts)
                    ],
                }
                for layer, verdicts in enumerate(self.verdicts)
            ],
        }


def _plain(name: str, value: Tensor) -> float | int | None:
    if not math.isfinite(value):
        return None
    # Seven digits are what float32 holds; more would print as noise.
    return int(value) if name in ("stripe_position", "stripe_token") else float(f"{float(value):.7g}")
