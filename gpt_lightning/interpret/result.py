"""What a depth scan returns: metrics per layer and head, verdicts and alarms, and the JSON contract.

Plain data; knows nothing of models, hooks, pictures or files.

Shapes: L layers, H heads.
"""

import math
from dataclasses import asdict, dataclass, field

from torch import Tensor

from gpt_lightning.interpret.judge.alarms import ALARMS, Alarm, health, what_is_wrong
from gpt_lightning.interpret.judge.layer_record import layer_record
from gpt_lightning.interpret.judge.verdicts import Verdict, summarise
from gpt_lightning.interpret.measure.attention import SINK_TOKENS
from gpt_lightning.interpret.metrics import METRICS


@dataclass
class DepthScanResult:
    """The result of a depth scan: on the CPU, in float32, NaN where a metric is undefined."""

    heads: dict[str, Tensor]  # metric → (L, H), by the names of HEAD_METRICS, reduced over the sequences
    layers: dict[str, Tensor]  # metric → (L,), by the names of LAYER_METRICS
    verdicts: list[list[Verdict]]  # [layer][head]
    sequences: int
    tokens: int  # in each sequence
    step: int | None  # optimiser steps the model has taken; None if not known
    stripe_places: list[list[str | None]]  # [layer][head], the stripe's token or position; None if sequences differ
    finite_output: bool = True  # whether the network's output, after the final norm, is finite
    alarms: list[Alarm] = field(default_factory=list)  # what is wrong with layers, most serious first

    @property
    def health(self) -> str:
        """One word on the run: untrained, healthy, suspect, or sick."""
        return health(self.step, self.alarms)

    @property
    def summary(self) -> str:
        """A sentence on what is wrong, the caution if there is one, and a sentence on the heads."""
        return " ".join(filter(None, (what_is_wrong(self.step, self.alarms), self.caution, summarise(self.verdicts))))

    @property
    def caution(self) -> str:
        """What sequences this short leave open; empty if they are long enough."""
        if self.tokens >= SINK_TOKENS:
            return ""
        return f"Sequences of {self.tokens} tokens leave much open: stripes show from 17 tokens on, sinks from 64."

    def layer_verdict(self, layer: int) -> str:
        """The labels of a layer's alarms, or that it has none."""
        alarms = [alarm.label for alarm in self.alarms if alarm.layer == layer]
        return ", ".join(alarms) or ("untrained" if self.step == 0 else "no alarm")

    def record(self) -> dict:
        """What the alarms of later scans need to know about this one: plain types, a dict per layer."""
        finite = self.layers["max_activation"].isfinite()
        finite[-1] &= self.finite_output  # the last layer answers for the final norm too
        layers = []
        for layer, verdicts in enumerate(self.verdicts):
            heads = {name: values_LH[layer] for name, values_LH in self.heads.items()}
            metrics = {name: float(values_L[layer]) for name, values_L in self.layers.items()}
            layers.append(layer_record(heads, metrics, verdicts, self.stripe_places[layer], bool(finite[layer])))
        return {"step": self.step, "layers": layers}

    def to_json(self) -> dict:
        """Plain types, None for NaN and infinities: units once, then layers[l].heads[h] with every metric by name."""
        return {
            "units": {name: row.unit for name, row in METRICS.items()},
            "step": self.step,
            "sequences": self.sequences,
            "tokens": self.tokens,
            "verdict": self.health,
            "summary": self.summary,
            "alarms": [asdict(a) | {"label": a.label, "advice": ALARMS[a.kind].advice} for a in self.alarms],
            "layers": [
                {
                    "layer": layer,
                    "verdict": self.layer_verdict(layer),
                    **{name: _json_number(name, values_L[layer]) for name, values_L in self.layers.items()},
                    "heads": [
                        {
                            "head": head,
                            **{name: _json_number(name, x_LH[layer, head]) for name, x_LH in self.heads.items()},
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
    """A number for JSON: None for NaN and infinities, and seven digits, as many as float32 holds."""
    return float(f"{float(value):.7g}") if math.isfinite(value) else None


def _json_number(metric: str, value: Tensor) -> float | int | None:
    number = plain(value)
    return int(value) if number is not None and METRICS[metric].whole_number else number
