"""From a head's metrics to one word about it and the reason in numbers. Takes plain numbers, knows no tensors.

KINDS is the one table: a row is a kind of head with its rule, reason, words, letter and colour. A verdict is a
description, not an alarm: healthy models have sinks, and heads near 0 nats. Only an ablation proves a head useless or
harmful; until then it is "dead?" with a question mark, which `with_evidence` settles.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
MUST_BE_FINITE = ("entropy", "max_logit", "output_norm")

# A head's metrics by the names in metrics.py, NaN where undefined; also "step", the optimiser steps taken (None if not
# known), and "stripe_place", what to call the place of its stripe (None if sequences differ).
Head = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """What every head of one kind has in common."""

    letter: str  # for pictures, as is the colour
    colour: str
    meaning: str  # what the head does, as the rest of a sentence that begins with "the head"
    advice: str  # what it means for the network, and what to try
    # Whether a head is of this kind; an undefined metric (NaN) must not match. None: only an ablation tells.
    rule: Callable[[Head], bool] | None = None
    reason: Callable[[Head], str] = lambda head: ""  # why, in numbers
    label: Callable[[Head], str] | None = None  # what to call a particular head; None for the name of the kind
    # The kind before an ablation (None for any), and the measured effect that turns it into this one.
    after_ablation: tuple[str | None, str] | None = None
    stands_out: bool = False  # whether people should look at it
    # The metric that shows it, and at which end it is clearest: 1 for the largest values, −1 for the smallest.
    clearest: tuple[str, int] | None = None


def _is_sink(head: Head) -> bool:
    # Where the sequences are too short to speak of sinks, sink_rate is undefined.
    return head["first_position_mass"] > SINK and not math.isnan(head["sink_rate"])


def _is_drained(head: Head) -> bool:
    share = head["value_weighted_first_position_share"]
    return share < NO_OP_SHARE * head["first_position_mass"] or head["first_value_norm"] < DRAINED_VALUE


def _sink_reason(head: Head) -> str:
    mass, share = head["first_position_mass"], head["value_weighted_first_position_share"]
    return f"{mass:.2f} of its mass on the first token, {share:.2f} weighted by value"


def _dead_reason(head: Head) -> str:
    if head["output_norm_relative_to_residual"] < DEAD_RELATIVE_TO_RESIDUAL:
        return f"output is {head['output_norm_relative_to_residual']:.1e} of the residual stream"
    return f"output is {head['output_norm_relative_to_layer']:.2f} of the layer's mean head"


def _not_finite(head: Head) -> list[str]:
    return [name for name in MUST_BE_FINITE if not math.isfinite(head[name])]


QUIETEST = ("output_norm_relative_to_residual", -1)
# The worst first. The first rule that matches wins.
KINDS: Mapping[str, Kind] = {
    "broken": Kind(
        letter="B",
        colour="#b3202c",
        meaning="has numbers that are not finite",
        advice="The run has diverged: go back to the last finite checkpoint, with a lower learning rate or gradient "
        "clipping.",
        rule=lambda head: bool(_not_finite(head)),
        reason=lambda head: f"{' and '.join(_not_finite(head))} not finite",
        stands_out=True,
    ),
    "untrained": Kind(
        letter="U",
        colour="#8a8f98",
        meaning="has learned nothing yet: step 0",
        advice="Train first; every head starts out diffuse.",
        rule=lambda head: head["step"] == 0,
        reason=lambda head: "step 0",
    ),
    "harmful": Kind(
        letter="H",
        colour="#e0303f",
        meaning="does harm: the loss is lower without it",
        advice="Rare, and often a sign of overfitting or of a step just too large: validate more often, try a lower "
        "learning rate or dropout, or remove the head.",
        after_ablation=(None, "harmful"),
        stands_out=True,
    ),
    "dead": Kind(
        letter="D",
        colour="#b5651d",
        meaning="adds next to nothing, and the loss is the same without it",
        advice="It is wasted. If many heads are dead, fewer heads or a lower weight decay cost nothing; in a new run a "
        "lower learning rate or more warm-up keeps heads alive.",
        after_ablation=("dead?", "no effect"),
        stands_out=True,
        clearest=QUIETEST,
    ),
    "dead?": Kind(
        letter="d",
        colour="#d9822b",
        meaning="adds next to nothing to the residual stream",
        advice="Ablate it to be sure (analyze.py does). If many heads are dead, fewer heads or a lower weight decay "
        "cost nothing.",
        rule=lambda head: (
            head["output_norm_relative_to_residual"] < DEAD_RELATIVE_TO_RESIDUAL
            or head["output_norm_relative_to_layer"] < DEAD_RELATIVE_TO_LAYER
        ),
        reason=_dead_reason,
        stands_out=True,
        clearest=QUIETEST,
    ),
    "quiet": Kind(
        letter="Q",
        colour="#c9a227",
        meaning="adds little, but the loss needs it",
        advice="Nothing to do: a little is enough for its task.",
        after_ablation=("dead?", "needed"),
        clearest=QUIETEST,
    ),
    "induction": Kind(
        letter="I",
        colour="#1864ab",
        meaning="finds an earlier copy of the token and looks at what came next",
        advice="Healthy: the head behind in-context learning (Olsson et al. 2022).",
        rule=lambda head: head["induction"] >= COPYING,
        reason=lambda head: (
            f"{head['induction']:.2f} of its mass on the token after the earlier copy, when random tokens repeat"
        ),
        clearest=("induction", 1),
    ),
    "duplicate-token": Kind(
        letter="C",
        colour="#4a8fd4",
        meaning="looks at an earlier copy of the token",
        advice="Healthy: it knows what has occurred.",
        rule=lambda head: head["duplicate_token"] >= COPYING,
        reason=lambda head: f"{head['duplicate_token']:.2f} of its mass on the earlier copy, when random tokens repeat",
        clearest=("duplicate_token", 1),
    ),
    "previous-token": Kind(
        letter="P",
        colour="#2f6db5",
        meaning="looks at the token before",
        advice="Healthy: induction heads build on it.",
        # Under 9 tokens local_mass is undefined, and uniform attention too puts up to 0.5 on the previous token.
        rule=lambda head: head["previous_token"] >= COPYING and not math.isnan(head["local_mass"]),
        reason=lambda head: f"{head['previous_token']:.2f} of its mass on the previous token",
        clearest=("previous_token", 1),
    ),
    "sink (no-op)": Kind(
        letter="s",
        colour="#7d6bb0",
        meaning="rests on the first token, whose value is drained: it has switched itself off",
        advice="Normal in trained models. An output gate or a learned sink logit gives it another way to rest.",
        rule=lambda head: _is_sink(head) and _is_drained(head),
        reason=_sink_reason,
        clearest=("first_position_mass", 1),
    ),
    "sink (active)": Kind(
        letter="S",
        colour="#553c9a",
        meaning="attends to the first token and passes its value on",
        advice="Normal in trained models. Look at what the first token is: its value acts as a bias.",
        rule=_is_sink,
        reason=_sink_reason,
        clearest=("first_position_mass", 1),
    ),
    "stripe": Kind(
        letter="T",
        colour="#c2378f",
        meaning="has most queries attend to one and the same later token",
        advice="Look at that column in the attention picture. If logits grow too, try QK-norm, gradient clipping or a "
        "lower learning rate; alone it may be harmless.",
        rule=lambda head: head["stripe"] > STRIPE,
        reason=lambda head: stripe_words(head["stripe"], head["stripe_place"]),
        label=lambda head: f"stripe at {head['stripe_place']}" if head["stripe_place"] else "stripe",
        stands_out=True,
        clearest=("stripe", 1),
    ),
    "local": Kind(
        letter="L",
        colour="#1f8a70",
        meaning="attends mostly to the last 8 tokens",
        advice="Healthy, especially in early layers.",
        rule=lambda head: head["local_mass"] > max(LOCAL, LOCAL_TIMES_BASELINE * head["local_mass_baseline"]),
        reason=lambda head: (
            f"{head['local_mass']:.2f} of its mass on the last 8 tokens (uniform: {head['local_mass_baseline']:.2f})"
        ),
        clearest=("local_mass", 1),
    ),
    "diffuse": Kind(
        letter="F",
        colour="#a08b2d",
        meaning="averages almost evenly over the entire context",
        advice="Normal early in training. If it lasts, the head only averages: take more steps or fewer heads.",
        rule=lambda head: head["normalized_entropy"] > DIFFUSE,
        reason=lambda head: f"median entropy is {head['normalized_entropy']:.2f} of the uniform head's",
        clearest=("normalized_entropy", 1),
    ),
    "mixed": Kind(
        letter="M",
        colour="#5c6773",
        meaning="has no single pattern",
        advice="Nothing to do: most heads of a healthy model are mixed.",
        rule=lambda head: True,
        reason=lambda head: "no rule matches",
    ),
}


@dataclass(frozen=True)
class Verdict:
    """One word on one head, and why."""

    kind: str  # a key of KINDS
    label: str  # what to call this head: the kind, and for a stripe the token that it is at
    reason: str  # in numbers, from its attention and its output
    evidence: str = ""  # what an ablation measured; empty if there was none


def head_verdict(metrics: Mapping[str, float], step: int | None = None, stripe_place: str | None = None) -> Verdict:
    """The verdict on one head: the first of KINDS whose rule matches.

    Args:
        metrics: The head's metrics by the names of a depth scan, NaN where undefined.
        step: Optimiser steps taken; at 0 every finite head is "untrained". None if not known.
        stripe_place: What to call the place of the stripe; None if sequences differ.
    """
    head = {**metrics, "step": step, "stripe_place": stripe_place}
    name, kind = next((name, kind) for name, kind in KINDS.items() if kind.rule and kind.rule(head))
    return Verdict(name, kind.label(head) if kind.label else name, kind.reason(head))


def with_evidence(verdict: Verdict, effect: str, mean: float, low: float, high: float) -> Verdict:
    """The verdict after an ablation, which alone can prove a head useless or harmful.

    Args:
        verdict: What the attention suggested.
        effect: "needed", "no effect", "harmful" or "unclear", from `ablation.effect`.
        mean, low, high: Change of the loss without the head, nats per token, and its 95 % confidence interval.
    """
    evidence = f"without it the loss changes by {change(mean, low, high)}"
    for name, kind in KINDS.items():
        if kind.after_ablation in ((None, effect), (verdict.kind, effect)):
            before = f"otherwise {verdict.label}: " if kind.after_ablation[0] is None else ""
            return Verdict(name, name, before + verdict.reason, evidence)
    return replace(verdict, evidence=evidence)


def change(mean: float, low: float, high: float) -> str:
    """A change of the loss with its interval, in words."""
    interval = "one sequence: no interval" if math.isinf(low) else f"{low:+.4f} to {high:+.4f}"
    return f"{mean:+.4f} nats per token ({interval})"


def stripe_words(stripe: float, place: str | None) -> str:
    """How much attention goes to the stripe, and where that is, in words."""
    if math.isnan(stripe):
        return "the text is too short for stripes"
    return f"{stripe:.2f} of the mass that could go to one token goes to {place or 'one, another in each sequence'}"


def summarise(verdicts: Sequence[Sequence[Verdict]]) -> str:
    """One sentence on all heads: how many there are of each kind, then what stands out, if anything."""
    counts = Counter(verdict.kind for row in verdicts for verdict in row)
    severity = {kind: i for i, kind in enumerate(KINDS)}
    groups: dict[tuple[int, int], list[tuple[int, Verdict]]] = defaultdict(list)  # (severity, layer) → heads
    for layer, row in enumerate(verdicts):
        for head, verdict in enumerate(row):
            if KINDS[verdict.kind].stands_out:
                groups[severity[verdict.kind], layer].append((head, verdict))
    worst_first = sorted(groups)
    named = [_named(layer, groups[severity, layer]) for severity, layer in worst_first[:3]]
    if more := sum(len(groups[place]) for place in worst_first[3:]):
        named.append(f"and {more} more")
    heads = counts.total()
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    layers = "layer 0" if len(verdicts) == 1 else f"{len(verdicts)} layers"
    worth = f"worth a look: {'; '.join(named)}" if named else "nothing stands out"
    return f"{heads} head{'s' * (heads != 1)} in {layers}: {kinds}; {worth}."


def _named(layer: int, members: Sequence[tuple[int, Verdict]]) -> str:
    """Heads of one layer and kind, with the reason of the first."""
    head, first = members[0]
    if len(members) == 1:
        return f"layer {layer} head {head} is {first.label} ({first.reason})"
    return f"layer {layer} heads {listed([h for h, _ in members])} are {first.kind} (head {head}: {first.reason})"


def listed(things: Sequence[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, last = map(str, things)
    return f"{', '.join(others)} and {last}" if others else last
