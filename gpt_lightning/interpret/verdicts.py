"""From a head's metrics to one word about it and the reason in numbers. Takes plain numbers, knows no tensors.

A verdict describes and is no alarm: healthy models have sinks and heads near 0 nats. Only an ablation proves a head
useless or harmful, hence the question mark of "dead?", which `with_evidence` settles. Advice is in advice.py.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gpt_lightning.interpret.advice import KINDS

DEAD_RELATIVE_TO_RESIDUAL = 1e-3
DEAD_RELATIVE_TO_LAYER = 0.1
COPYING = 0.4  # induction, duplicate-token and previous-token scores
SINK = 0.3  # Gu et al. 2025
NO_OP_SHARE = 0.5  # of α₀: a sink with a smaller value-weighted share moves next to nothing (Kobayashi et al. 2020)
DRAINED_VALUE = 0.2  # of the mean value norm: a sink whose value is that small moves nothing even with all the mass
STRIPE = 0.3
LOCAL = 0.5
LOCAL_TIMES_BASELINE = 2
DIFFUSE = 0.95


@dataclass(frozen=True)
class Verdict:
    """One word on one head, and why.

    Attributes:
        kind: A key of advice.KINDS.
        label: What to call this head; with the token a stripe is at.
        reason: In numbers, from its attention and its output.
        evidence: What an ablation measured; empty if there was none.
    """

    kind: str
    label: str
    reason: str
    evidence: str = ""


def head_verdict(metrics: Mapping[str, float], step: int | None = None, stripe_place: str | None = None) -> Verdict:
    """The verdict on one head; the first rule that matches wins, and an undefined metric (NaN) matches none.

    Args:
        metrics: The head's metrics by the names of a depth scan, NaN where undefined.
        step: Optimiser steps taken; at 0 every finite head is "untrained". None if not known.
        stripe_place: What to call the place of the stripe; None if it is another one in each sequence.
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
    for kind, target in (("induction", "the token after the earlier copy"), ("duplicate-token", "the earlier copy")):
        score = m[kind.replace("-", "_")]
        if score >= COPYING:
            return _verdict(kind, f"{score:.2f} of its mass on {target}, when random tokens repeat")
    # local_mass is undefined under 9 tokens, where uniform attention too puts up to 0.5 on the previous token.
    if m["previous_token"] >= COPYING and not math.isnan(m["local_mass"]):
        return _verdict("previous-token", f"{m['previous_token']:.2f} of its mass on the previous token")
    # sink_rate is undefined where the sequences are too short to speak of sinks.
    if m["first_position_mass"] > SINK and not math.isnan(m["sink_rate"]):
        share = m["value_weighted_first_position_share"]
        drained = share < NO_OP_SHARE * m["first_position_mass"] or m["first_value_norm"] < DRAINED_VALUE
        kind = "sink (no-op)" if drained else "sink (active)"
        return _verdict(
            kind, f"{m['first_position_mass']:.2f} of its mass on the first token, {share:.2f} weighted by value"
        )
    if m["stripe"] > STRIPE:
        label = f"stripe at {stripe_place}" if stripe_place else "stripe"
        return _verdict("stripe", stripe_words(m["stripe"], stripe_place), label=label)
    if m["local_mass"] > LOCAL and m["local_mass"] > LOCAL_TIMES_BASELINE * m["local_mass_baseline"]:
        return _verdict(
            "local", f"{m['local_mass']:.2f} of its mass on the last 8 tokens (uniform: {m['local_mass_baseline']:.2f})"
        )
    if m["normalized_entropy"] > DIFFUSE:
        return _verdict("diffuse", f"median entropy is {m['normalized_entropy']:.2f} of the uniform head's")
    return _verdict("mixed", "no rule matches")


def with_evidence(verdict: Verdict, effect: str, mean: float, low: float, high: float) -> Verdict:
    """The verdict after an ablation, which alone can prove a head useless or harmful.

    Args:
        verdict: What the attention suggested.
        effect: "needed", "no effect", "harmful" or "unclear", from `ablation.effect`.
        mean, low, high: Change of the loss without the head, nats per token, and its 95 % confidence interval.
    """
    evidence = f"without it the loss changes by {change(mean, low, high)}"
    if effect == "harmful":
        return Verdict("harmful", "harmful", f"otherwise {verdict.label}: {verdict.reason}", evidence)
    if verdict.kind == "dead?" and effect in ("no effect", "needed"):
        kind = "dead" if effect == "no effect" else "quiet"
        return Verdict(kind, kind, verdict.reason, evidence)
    return replace(verdict, evidence=evidence)


def change(mean: float, low: float, high: float) -> str:
    """A change of the loss with its interval, in words."""
    interval = "one sequence: no interval" if math.isinf(low) else f"{low:+.4f} to {high:+.4f}"
    return f"{mean:+.4f} nats per token ({interval})"


def stripe_words(stripe: float, place: str | None) -> str:
    """How much attention goes where."""
    if math.isnan(stripe):
        return "the text is too short for stripes"
    return f"{stripe:.2f} of the mass that could go to one token goes to {place or 'one, another in each sequence'}"


def summarise(verdicts: Sequence[Sequence[Verdict]], first_layer: int = 0) -> str:
    """One sentence on the heads of some layers: how many of each kind, then what stands out, if anything.

    For one layer pass `[verdicts[layer]], layer`.
    """
    heads = [(layer, head, v) for layer, row in enumerate(verdicts, first_layer) for head, v in enumerate(row)]
    counts = Counter(v.kind for _, _, v in heads)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    layers = f"layer {first_layer}" if len(verdicts) == 1 else f"{len(verdicts)} layers"
    noun = "head" if len(heads) == 1 else "heads"
    groups: dict[tuple[int, str], list[tuple[int, Verdict]]] = {}
    for layer, head, v in heads:
        if KINDS[v.kind].stands_out:
            groups.setdefault((layer, v.kind), []).append((head, v))
    # KINDS lists the worst first.
    standing_out = sorted(groups.items(), key=lambda group: list(KINDS).index(group[1][0][1].kind))
    named = [_named(layer, members) for (layer, _), members in standing_out[:3]]
    more = sum(len(members) for _, members in standing_out[3:])
    what = f"worth a look: {'; '.join(named + [f'and {more} more'] * bool(more))}" if named else "nothing stands out"
    return f"{len(heads)} {noun} in {layers}: {kinds}; {what}."


def _named(layer: int, members: list[tuple[int, Verdict]]) -> str:
    """Heads of one layer and kind, with the reason of the first."""
    head, first = members[0]
    if len(members) == 1:
        return f"layer {layer} head {head} is {first.label} ({first.reason})"
    numbers = listed([str(head) for head, _ in members])
    return f"layer {layer} heads {numbers} are {first.kind} (head {head}: {first.reason})"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _verdict(kind: str, reason: str, label: str | None = None) -> Verdict:
    return Verdict(kind, label or kind, reason)
