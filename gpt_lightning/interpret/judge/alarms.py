"""What is wrong with a layer: alarms, whose rules read the scans so far and must hold in two scans in a row.

ALARMS is the one table: a row is a kind of alarm with its rule, reason, words and advice. A single scan only raises a
suspicion, written with a question mark. A sink is never an alarm. docs/calibration.md says how often alarms were right.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from gpt_lightning.interpret.judge.verdicts import DEAD_RELATIVE_TO_RESIDUAL, listed, stripe_words

COLLAPSED_ENTROPY = 0.15  # of uniform attention: median over heads of each head's median row
LARGE_LOGIT = 50
COLLAPSED_STRIPE = 0.3
# Heads on their way to a collapse: sharp for none of the known good reasons. A healthy layer has few of them.
SHARP_ENTROPY, SHARP_STRIPE, SHARP_LOGIT = 0.35, 0.25, 15
SHARP_SHARE = 0.75  # of the heads: a healthy layer was seen with half of its heads on stripes
RANK_LEFT = 0.5  # of the running maximum
FALLEN, RISEN = 0.7, 1.05  # of the highest, and of the lowest rank so far: the first fall, and its end
FLAT, FLAT_FROM = 0.9, 500  # of the highest recent rank; steps, before which a slow network may not have begun to learn
LEAST_RANK = 3  # directions: fewer can't tell tokens apart
ONE_COLUMN = 0.9  # mass on a single token
LAZY_SHARE = 0.75  # of the heads
NO_INFLUENCE = 1e-4  # 1 − cosine between the residual stream before and after

Record = Mapping[str, float]  # what one scan says of a layer, see layer_record.py
Series = Mapping[str, Sequence[float]]  # the same over the scans so far: under each name a list, and their "step"


@dataclass(frozen=True)
class AlarmKind:
    """What all alarms of one kind have in common."""

    meaning: str  # what is wrong, as the rest of a sentence that begins with "Layer 3"
    when: str  # the rule in words, for docs/
    advice: str  # what to try
    holds: Callable[[Series], list[bool]]  # the rule: for each scan, whether it holds
    reason: Callable[[Record], str]  # why, in numbers of the last scan
    # In how many scans in a row it must hold to be confirmed. None: it is normal in healthy models, so only an ablation
    # confirms it, and until then it is not mentioned.
    scans: int | None = 2
    proof: tuple[str, ...] = ()  # effects of ablating the layer's attention that confirm it at once
    implies: tuple[str, ...] | None = ()  # alarms that add nothing when the same layer has this one; None for all


@dataclass(frozen=True)
class Alarm:
    """One thing that is wrong with one layer."""

    kind: str  # a key of ALARMS
    layer: int  # counted from 0
    reason: str  # why, in numbers of the last scan
    scans: int  # in how many scans in a row it has held, including the last
    since_step: int | None  # optimiser steps at the first of these; None if not known
    confirmed: bool  # whether it has lasted or an ablation proved it; otherwise it is a suspicion

    @property
    def label(self) -> str:
        """The kind, with a question mark while it is a suspicion."""
        return self.kind if self.confirmed else f"{self.kind}?"


def layer_alarms(history: Sequence[Mapping]) -> list[Alarm]:
    """The alarms that hold at the last scan of a run, most serious first.

    Args:
        history: Records of its scans (`DepthScanResult.record`), oldest first; a single one gives suspicions only.
    """
    if not history or history[-1]["step"] == 0:
        return []
    # A checkpoint of an older version may hold records without some of the names.
    names = history[-1]["layers"][0].keys()
    history = [scan for scan in history if all(names <= record.keys() for record in scan["layers"])]
    alarms = []
    for kind, row in ALARMS.items():
        for layer in range(len(history[-1]["layers"])):
            records = [scan["layers"][layer] for scan in history]
            series = {name: [record[name] for record in records] for name in records[-1]}
            series["step"] = [scan["step"] for scan in history]
            if scans := sum(takewhile(bool, reversed(row.holds(series)))):
                confirmed = row.scans is not None and scans >= row.scans
                alarms.append(Alarm(kind, layer, row.reason(records[-1]), scans, history[-scans]["step"], confirmed))
    return [alarm for alarm in alarms if not any(_implies(other, alarm) for other in alarms)]


def health(step: int | None, alarms: Sequence[Alarm]) -> str:
    """One word on a run: untrained, healthy, suspect (no alarm is confirmed yet), or sick."""
    if step == 0:
        return "untrained"
    if any(alarm.confirmed for alarm in alarms):
        return "sick"
    return "suspect" if to_mention(alarms) else "healthy"


def to_mention(alarms: Sequence[Alarm]) -> list[Alarm]:
    """The alarms that people should hear of, confirmed ones first: not suspicions that only an ablation can confirm."""
    serious = [alarm for alarm in alarms if alarm.confirmed or ALARMS[alarm.kind].scans is not None]
    return sorted(serious, key=lambda alarm: not alarm.confirmed)


def what_is_wrong(step: int | None, alarms: Sequence[Alarm]) -> str:
    """What to tell people: the most serious alarm, what to try, and which other alarms there are."""
    if step == 0:
        return "Untrained: no optimiser step has been taken yet."
    mentioned = to_mention(alarms)
    if not mentioned:
        return "Healthy: no layer raises an alarm."
    first, *others = mentioned
    since = "" if first.since_step is None or first.scans == 1 else f", since step {first.since_step:,}"
    doubt = "" if first.confirmed else " Seen in a single scan, so it may pass."
    rest = [f"layer {alarm.layer} ({alarm.label})" for alarm in others[:3]]
    rest += [f"{len(others) - 3} more"] * (len(others) > 3)
    also = f" Also {listed(rest)}." if rest else ""
    layer, kind = "Layer" if first.confirmed else "Suspect: layer", ALARMS[first.kind]
    return f"{layer} {first.layer} {kind.meaning} ({first.reason}){since}. Try: {kind.advice}{doubt}{also}"


def _entropy_collapse(s: Series) -> list[bool]:
    """Low or falling entropy, large or growing logits, and a stripe (Zhai et al. 2023: growth precedes collapse).
    Three quarters of the heads, each sharp on a stripe, show it earlier."""
    entropy, logit, stripe = s["normalized_entropy"], s["max_logit"], s["stripe"]
    holds = []
    for i in range(len(entropy)):
        low = entropy[i] < COLLAPSED_ENTROPY or (i > 0 and entropy[i] < entropy[i - 1] / 2)
        large = logit[i] > LARGE_LOGIT or (i > 0 and logit[i] > 2 * logit[i - 1])
        sharp = s["sharp_heads"][i] >= SHARP_SHARE * s["heads"][i]
        # In sequences under 17 tokens the stripe is NaN, which must not rule a collapse out.
        holds.append(not stripe[i] <= COLLAPSED_STRIPE and (sharp or (low and large)))
    return holds


def _rank_collapse(s: Series) -> list[bool]:
    """A rank under half of its running maximum, or next to none. The maximum starts once the fall of early training is
    over: when the rank has fallen and risen again, or has been flat while the number of steps doubled."""
    holds, highest, top, low = [], -math.inf, -math.inf, math.inf
    for i, rank in enumerate(s["effective_rank"]):
        if math.isnan(rank):
            holds.append(False)
            continue
        top, low = max(top, rank), min(low, rank)
        risen = low < FALLEN * top and rank > RISEN * low
        if highest > 0 or risen or _is_flat(s, i):
            highest = max(highest, rank)
        holds.append(rank < RANK_LEFT * highest or rank < LEAST_RANK)
    return holds


def _is_flat(s: Series, i: int) -> bool:
    """Whether the rank has hardly changed over the second half of the steps up to the i-th scan."""
    step = s["step"][i] or 0
    recent = [rank for rank, at in zip(s["effective_rank"][: i + 1], s["step"], strict=False) if 2 * (at or 0) >= step]
    return step >= FLAT_FROM and len(recent) >= 3 and min(recent) > FLAT * max(recent)


def _dead_heads_reason(r: Record) -> str:
    heads = f"head{'s' * (len(r['dead_heads']) > 1)} {listed(r['dead_heads'])}"
    return f"{heads}: under {DEAD_RELATIVE_TO_RESIDUAL} of the residual stream"


def _implies(one: Alarm, other: Alarm) -> bool:
    implies = ALARMS[one.kind].implies
    return one.layer == other.layer and one.kind != other.kind and (implies is None or other.kind in implies)


# The most serious first.
ALARMS: Mapping[str, AlarmKind] = {
    "broken": AlarmKind(
        meaning="has numbers that are not finite",
        when="a head, or what the layer passes on, is not finite; one scan is enough",
        advice="Go back to the last finite checkpoint (--ckpt_path best) with a lower --model.learning_rate or "
        "--trainer.gradient_clip_val 1.0.",
        holds=lambda s: [n > 0 or not finite for n, finite in zip(s["broken_heads"], s["finite"], strict=True)],
        reason=lambda r: f"{r['broken_heads']} of {r['heads']} heads" if r["broken_heads"] else "what it passes on",
        scans=1,
        implies=None,
    ),
    "entropy collapse": AlarmKind(
        meaning="has an entropy collapse: its attention sticks to a few tokens",
        when=f"median entropy under {COLLAPSED_ENTROPY} of uniform (or halved), largest logit over {LARGE_LOGIT} (or "
        f"doubled), and a stripe over {COLLAPSED_STRIPE} (under 17 tokens there are none, so the rest decides); or "
        "¾ of the heads sharp on a stripe without being copying heads or sinks",
        advice="Lower --model.learning_rate, more --model.warmup_steps, --trainer.gradient_clip_val 1.0; QK-norm "
        "bounds the logits for good. Go on from a checkpoint saved before the collapse: a layer rarely recovers.",
        holds=_entropy_collapse,
        reason=lambda r: (
            f"median entropy {r['normalized_entropy']:.2f} of uniform, largest logit {r['max_logit']:.0f}, "
            f"{stripe_words(r['stripe'], r['stripe_at'])}"
        ),
        proof=("no effect", "harmful"),
    ),
    "dead layer": AlarmKind(
        meaning="is dead: it passes the residual stream on unchanged",
        when=f"block influence under {NO_INFLUENCE}",
        advice="Fewer layers would do the same for less; or start again with a lower --model.learning_rate or "
        "--model.weight_decay.",
        holds=lambda s: [influence < NO_INFLUENCE for influence in s["block_influence"]],
        reason=lambda r: f"block influence {r['block_influence']:.0e}",
        implies=("dead attention", "dead heads"),
    ),
    "dead attention": AlarmKind(
        meaning="has dead attention: its heads add next to nothing",
        when=f"every head adds under {DEAD_RELATIVE_TO_RESIDUAL} of the residual stream, and none is a sink",
        advice="Ablate it to be sure (analyze.py does). Lower --model.learning_rate or --model.weight_decay, more "
        "--model.warmup_steps, or fewer layers.",
        holds=lambda s: [silent == heads for silent, heads in zip(s["silent_heads"], s["heads"], strict=True)],
        reason=lambda r: f"the largest head output is {r['largest_output']:.0e} of the residual stream",
        proof=("no effect",),
        implies=("dead heads",),
    ),
    "dead heads": AlarmKind(
        meaning="has dead heads: they add next to nothing",
        when=f"a head adds under {DEAD_RELATIVE_TO_RESIDUAL} of the residual stream while others of its layer add "
        "more, and it is neither a copying head nor a sink",
        advice="Ablate them to be sure (analyze.py does). More --model.warmup_steps or a lower --model.learning_rate "
        "keeps heads alive; fewer heads would do the same for less.",
        holds=lambda s: [bool(heads) for heads in s["dead_heads"]],
        reason=_dead_heads_reason,
    ),
    "rank collapse": AlarmKind(
        meaning="has a rank collapse: its tokens have become alike",
        when=f"effective rank under {LEAST_RANK}, or under half of its running maximum, which starts once the fall of "
        "early training is over",
        advice="Look for an entropy collapse or dead attention in earlier layers; lower --model.learning_rate or "
        "--model.weight_decay.",
        holds=_rank_collapse,
        reason=lambda r: f"effective rank {r['effective_rank']:.1f}, under half of its maximum or under {LEAST_RANK}",
    ),
    "lazy layer": AlarmKind(
        meaning="is lazy: nearly all its heads rest on one token each, and the loss is the same without them",
        when=f"¾ of the heads put over {ONE_COLUMN} of their mass on one token, and an ablation finds no effect",
        advice="Its attention is not used: fewer layers, or an output gate that gives heads another way to rest.",
        holds=lambda s: [share >= LAZY_SHARE for share in s["one_column_share"]],
        reason=lambda r: (
            f"{r['one_column_share']:.0%} of its heads put over {ONE_COLUMN:.0%} of their mass on one token"
        ),
        scans=None,
        proof=("no effect",),
    ),
}
