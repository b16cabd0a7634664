"""What a depth scan returns: metrics per layer and head with their units, verdicts, and the JSON contract.

Plain data; knows nothing of models, hooks, pictures or files.

Shapes: L layers, H heads.
"""

import math
from dataclasses import asdict, dataclass, field

from torch import Tensor

from gpt_lightning.interpret.advice import ALARMS
from gpt_lightning.interpret.alarms import (
    ONE_COLUMN,
    SHARP_ENTROPY,
    SHARP_LOGIT,
    SHARP_STRIPE,
    Alarm,
    health,
    what_is_wrong,
)
from gpt_lightning.interpret.attention import SINK_TOKENS
from gpt_lightning.interpret.verdicts import (
    COPYING,
    DEAD_RELATIVE_TO_LAYER,
    DEAD_RELATIVE_TO_RESIDUAL,
    SINK,
    Verdict,
    summarise,
)

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
    "first_value_norm": "ratio to the mean value norm",
    "stripe": SHARE,
    "stripe_position": "token index",
    "stripe_token": "token id",
    "stripe_same_position": "share of sequences (0 to 1)",
    "stripe_same_token": "share of sequences (0 to 1)",
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
            largest) and `stripe_position`, `stripe_token` (of the sequence with the largest stripe;
            `stripe_same_position`, `stripe_same_token` are the share of sequences with the same).
        layers: Metric → (L,), by the names and units of LAYER_UNITS.
        verdicts: [layer][head].
        sequences, tokens: How many sequences of how many tokens were scanned.
        step: Optimiser steps the model has taken, None if not known.
        stripe_places: [layer][head], the token or position of the stripe in words, None if sequences differ.
        finite_output: Whether the network's output, after the final norm, is finite.
        alarms: What is wrong with layers, most serious first.
    """

    heads: dict[str, Tensor]
    layers: dict[str, Tensor]
    verdicts: list[list[Verdict]]
    sequences: int
    tokens: int
    step: int | None
    stripe_places: list[list[str | None]]
    finite_output: bool = True
    alarms: list[Alarm] = field(default_factory=list)

    @property
    def health(self) -> str:
        """One word on the run: untrained, healthy, suspect, or sick."""
        return health(self.step, self.alarms)

    @property
    def summary(self) -> str:
        """What is wrong, in one sentence; then how many heads of each kind there are, and what stands out."""
        return " ".join(filter(None, (what_is_wrong(self.step, self.alarms), self.caution, summarise(self.verdicts))))

    @property
    def caution(self) -> str:
        """What short sequences leave open, if they are."""
        if self.tokens >= SINK_TOKENS:
            return ""
        return f"Sequences of {self.tokens} tokens leave much open: stripes show from 17 tokens on, sinks from 64."

    def layer_verdict(self, layer: int) -> str:
        """In words: its alarms, if any."""
        alarms = [alarm.label for alarm in self.alarms if alarm.layer == layer]
        return ", ".join(alarms) or ("untrained" if self.step == 0 else "no alarm")

    def record(self) -> dict:
        """What the alarms of later scans need of this one: plain types, a dict per layer."""
        return {"step": self.step, "layers": [self._layer_record(layer) for layer in range(len(self.verdicts))]}

    def _layer_record(self, layer: int) -> dict:
        h = {name: values_LH[layer] for name, values_LH in self.heads.items()}
        column_H = h["first_position_mass"].fmax(h["stripe"])
        output_H = h["output_norm_relative_to_residual"]
        strongest = int(h["stripe"].nan_to_num(-1).argmax())
        copying_H = h["induction"].fmax(h["duplicate_token"]).fmax(h["previous_token"]) >= COPYING
        explained_H = copying_H | (h["first_position_mass"] > SINK)
        striped_H = (h["stripe"] > SHARP_STRIPE) & (h["max_logit"] > SHARP_LOGIT)
        silent_H = output_H < DEAD_RELATIVE_TO_RESIDUAL
        # Beside louder heads, and not at rest on a sink: those have little to add by design.
        dead_H = silent_H & (h["output_norm_relative_to_layer"] < DEAD_RELATIVE_TO_LAYER) & ~explained_H
        sharp_H = (h["normalized_entropy"] < SHARP_ENTROPY) & striped_H & ~explained_H
        return {
            "heads": len(column_H),
            "broken_heads": sum(verdict.kind == "broken" for verdict in self.verdicts[layer]),
            "finite": self._is_finite(layer),
            "silent_heads": int((silent_H & ~(h["first_position_mass"] > SINK)).sum()),  # a sink rests by design
            "dead_heads": dead_H.nonzero().flatten().tolist(),
            "sharp_heads": int(sharp_H.sum()),
            "largest_output": float(output_H.max()),
            "normalized_entropy": float(h["normalized_entropy"].nanquantile(0.5)),
            "max_logit": float(h["max_logit"].max()),
            "stripe": float(h["stripe"][strongest]),
            "stripe_at": self.stripe_places[layer][strongest],
            "one_column_share": float((column_H > ONE_COLUMN).float().mean()),
            "effective_rank": float(self.layers["effective_rank"][layer]),
            "block_influence": float(self.layers["block_influence"][layer]),
        }

    def _is_finite(self, layer: int) -> bool:
        """Whether what a layer passes on is finite; of the last one, what the network makes of it too."""
        last = layer == len(self.verdicts) - 1
        return math.isfinite(self.layers["max_activation"][layer]) and (self.finite_output or not last)

    def to_json(self) -> dict:
        """Plain types, undefined or infinite as None: units once, then layers[l].heads[h] with every metric by name."""
        return {
            "units": HEAD_UNITS | LAYER_UNITS,
            "step": self.step,
            "sequences": self.sequences,
            "tokens": self.tokens,
            "verdict": self.health,
            "summary": self.summary,
            "alarms": [
                asdict(alarm) | {"label": alarm.label, "advice": ALARMS[alarm.kind].advice} for alarm in self.alarms
            ],
            "layers": [
                {
                    "layer": layer,
                    "verdict": self.layer_verdict(layer),
                    **{name: _metric(name, values_L[layer]) for name, values_L in self.layers.items()},
                    "heads": [
                        {
                            "head": head,
                            **{name: _metric(name, values_LH[layer, head]) for name, values_LH in self.heads.items()},
                            "verdict": verdict.label,
                            "reason": verdict.reason,
                            "evidence": verdict.evidence,
                        }
                        for head, verdict in enumerate(verdicts)
                    ],
                }
                for layer, verdicts in enumerate(self.verdicts)
            ],
        }


def plain(value: float | Tensor) -> float | None:
    """A number as JSON knows it: None for NaN and infinities, and seven digits, what float32 holds."""
    return float(f"{float(value):.7g}") if math.isfinite(value) else None


def _metric(name: str, value: Tensor) -> float | int | None:
    number = plain(value)
    return int(value) if number is not None and name in ("stripe_position", "stripe_token") else number
