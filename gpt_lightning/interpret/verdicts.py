"""From a head's metrics to one word about it, the reason in numbers, and advice: the only place that has thresholds.

Takes plain numbers; knows nothing of tensors, models or pictures. A verdict describes and is no alarm: healthy models
have sinks and heads near 0 nats, and only an ablation proves a head useless, hence the question mark of "dead?".
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DEAD_RELATIVE_TO_RESIDUAL = 1e-3
DEAD_RELATIVE_TO_LAYER = 0.1
PREVIOUS_TOKEN = 0.4
SINK = 0.3  # Gu et al. 2025
NO_OP_SHARE = 0.5  # of α₀: a sink with a smaller value-weighted share moves next to nothing (Kobayashi et al. 2020)
STRIPE = 0.3
LOCAL = 0.5
LOCAL_TIMES_BASELINE = 2
DIFFUSE = 0.95


@dataclass(frozen=True)
class Kind:
    """What every head of one kind has in common: a letter and colour for pictures, and words for people."""

    letter: str
    colour: str
    meaning: str
    advice: str
    stands_out: bool = False


KINDS = {
    "broken": Kind(
        "B",
        "#b3202c",
        "its numbers are not finite",
        "The run has diverged: go back to the last finite checkpoint with a lower learning rate or gradient clipping.",
        stands_out=True,
    ),
    "untrained": Kind("U", "#8a8f98", "step 0, nothing is learned yet", "Train first; every head starts out diffuse."),
    "dead?": Kind(
        "D",
        "#d9822b",
        "adds next to nothing to the residual stream",
        "Ablate it to be sure. If many heads are dead, fewer heads or a lower weight decay cost nothing.",
        stands_out=True,
    ),
    "previous-token": Kind("P", "#2f6db5", "looks at the token before", "Healthy: induction heads build on it."),
    "sink (no-op)": Kind(
        "s",
        "#7d6bb0",
        "rests on the first token, whose value is drained: it switches itself off",
        "Normal in trained models. An output gate or a learned sink logit gives it another way to rest.",
    ),
    "sink (active)": Kind(
        "S",
        "#553c9a",
        "attends to the first token and passes its value on",
        "Normal in trained models. Look at what the first token is: its value works as a bias.",
    ),
    "stripe": Kind(
        "T",
        "#c2378f",
        "most queries attend to one and the same later token",
        "Look at that column in the attention picture. With growing logits try QK-norm, gradient clipping or a lower "
        "learning rate; alone it may be harmless.",
        stands_out=True,
    ),
    "local": Kind("L", "#1f8a70", "attends mostly to the last 8 tokens", "Healthy, above all in early layers."),
    "diffuse": Kind(
        "F",
        "#a08b2d",
        "averages almost evenly over the whole context",
        "Early in training normal. If it lasts, the head is an average of the context: more steps or fewer heads.",
    ),
    "mixed": Kind("M", "#5c6773", "no single pattern", "Nothing to do: most heads of a healthy model are mixed."),
}


@dataclass(frozen=True)
class Verdict:
    """A key of KINDS, what to call this head (with the token a stripe is at), and why, in numbers."""

    kind: str
    label: str
    reason: str


def head_verdict(metrics: Mapping[str, float], step: int | None = None, stripe_token: str | None = None) -> Verdict:
    """The verdict on one head; the first rule that matches wins, and an undefined metric (NaN) matches none.

    Args:
        metrics: The head's metrics by the names of a depth scan, NaN where undefined.
        step: Optimiser steps taken; at 0 every finite head is "untrained". None if not known.
        stripe_token: The token that holds the stripe, to name it; its position is named without.
    """
    m = metrics
    not_finite = [name for name in ("entropy", "max_logit", "output_norm") if not math.isfinite(m[name])]
    if not_finite:
        return _verdict("broken", f"{' and '.join(not_finite)} not finite")
    if step == 0:
        return _verdict("untrained", "step 0")
    if m["output_norm_relative_to_residual"] < DEAD_RELATIVE_TO_RESIDUAL:
        return _verdict("dead?", f"output is {m['output_norm_relative_to_residual']:.1e} of the residual stream")
    if m["output_norm_relative_to_layer"] < DEAD_RELATIVE_TO_LAYER:
        return _verdict("dead?", f"output is {m['output_norm_relative_to_layer']:.2f} of the layer's mean head")
    # local_mass is undefined under 9 tokens, where uniform attention too puts up to 0.5 on the previous token.
    if m["previous_token"] >= PREVIOUS_TOKEN and not math.isnan(m["local_mass"]):
        return _verdict("previous-token", f"{m['previous_token']:.2f} of its mass on the previous token")
    # sink_rate is undefined where the sequences are too short to speak of sinks.
    if m["first_position_mass"] > SINK and not math.isnan(m["sink_rate"]):
        share = m["value_weighted_first_position_share"]
        kind = "sink (no-op)" if share < NO_OP_SHARE * m["first_position_mass"] else "sink (active)"
        return _verdict(
            kind, f"{m['first_position_mass']:.2f} of its mass on the first token, {share:.2f} weighted by value"
        )
    if m["stripe"] > STRIPE:
        position = f"position {m['stripe_position']:.0f}"
        place = position if stripe_token is None else f"'{stripe_token}'"
        reason = f"{m['stripe']:.2f} of the mass that could go to {position} goes there"
        return _verdict("stripe", reason, label=f"stripe at {place}")
    if m["local_mass"] > LOCAL and m["local_mass"] > LOCAL_TIMES_BASELINE * m["local_mass_baseline"]:
        return _verdict(
            "local", f"{m['local_mass']:.2f} of its mass on the last 8 tokens (uniform: {m['local_mass_baseline']:.2f})"
        )
    if m["normalized_entropy"] > DIFFUSE:
        return _verdict("diffuse", f"median entropy is {m['normalized_entropy']:.2f} of the uniform head's")
    return _verdict("mixed", "no rule matches")


def summarise(verdicts: Sequence[Sequence[Verdict]], first_layer: int = 0) -> str:
    """One sentence on the heads of some layers: how many of each kind, then what stands out, if anything.

    For one layer pass `[verdicts[layer]], layer`.
    """
    heads = [(layer, head, v) for layer, row in enumerate(verdicts, first_layer) for head, v in enumerate(row)]
    counts = Counter(v.kind for _, _, v in heads)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    layers = f"layer {first_layer}" if len(verdicts) == 1 else f"{len(verdicts)} layers"
    noun = "head" if len(heads) == 1 else "heads"
    standing_out = sorted(
        ((layer, head, v) for layer, head, v in heads if KINDS[v.kind].stands_out),
        key=lambda entry: list(KINDS).index(entry[2].kind),  # KINDS lists the worst first
    )
    named = [f"layer {layer} head {head} is {v.label} ({v.reason})" for layer, head, v in standing_out[:3]]
    more = [f"and {len(standing_out) - 3} more"] if len(standing_out) > 3 else []
    what = f"worth a look: {'; '.join(named + more)}" if named else "nothing stands out"
    return f"{len(heads)} {noun} in {layers}: {kinds}; {what}."


def _verdict(kind: str, reason: str, label: str | None = None) -> Verdict:
    return Verdict(kind, label or kind, reason)
