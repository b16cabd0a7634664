"""What is wrong with a layer: alarms on the scans so far, each a conjunction that must hold in two scans in a row.

Takes plain numbers, which a checkpoint can carry. One scan alone makes a suspicion, written with a question mark. A
sink is never an alarm. Advice is in advice.py; calibrated on healthy and sick runs, see docs/calibration.md.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gpt_lightning.interpret.advice import ALARMS
from gpt_lightning.interpret.verdicts import DEAD_RELATIVE_TO_RESIDUAL, listed, stripe_words

PERSISTENCE = 2  # scans in a row
COLLAPSED_ENTROPY = 0.15  # of uniform attention: median over heads of each head's median row
LARGE_LOGIT = 50
COLLAPSED_STRIPE = 0.3
# Heads on their way there: sharp for none of the known good reasons. In a healthy layer they are the exception.
SHARP_ENTROPY = 0.35
SHARP_STRIPE = 0.25
SHARP_LOGIT = 15
SHARP_SHARE = 0.75  # of the heads: a healthy layer was seen with half of its heads on stripes
RANK_LEFT = 0.5  # of the running maximum
FALLEN, RISEN = 0.7, 1.05  # of the highest, and of the lowest rank so far: the first fall, and its end
FLAT, FLAT_FROM = 0.9, 500  # of the highest recent rank; steps, before which a slow network may not have begun to learn
LEAST_RANK = 3  # directions: fewer can't tell tokens apart
ONE_COLUMN = 0.9  # mass on a single token
LAZY_SHARE = 0.75  # of the heads
NO_INFLUENCE = 1e-4  # 1 − cosine between the residual stream before and after

# Per layer, in every record of a scan; see `gpt_lightning.interpret.result.DepthScanResult.record`.
Series = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Alarm:
    """One thing that is wrong with one layer.

    Attributes:
        kind: A key of advice.ALARMS.
        layer: Counted from 0.
        reason: Why, in numbers of the last scan.
        scans: In how many scans in a row it has held, the last included.
        since_step: Optimiser steps at the first of those; None if not known.
        confirmed: Whether it has lasted, or was proved by an ablation; else it is a suspicion.
    """

    kind: str
    layer: int
    reason: str
    scans: int
    since_step: int | None
    confirmed: bool

    @property
    def label(self) -> str:
        """The kind, with a question mark while it is a suspicion."""
        return self.kind if self.confirmed else f"{self.kind}?"


def layer_alarms(history: Sequence[Mapping]) -> list[Alarm]:
    """The alarms that hold at the last of some scans of one run, most serious first.

    Args:
        history: Records of scans in the order of their steps, oldest first; a single one gives suspicions only.
    """
    if not history or history[-1]["step"] == 0:
        return []
    found = []
    layers = len(history[-1]["layers"])
    # A checkpoint of an older version may hold records that lack something.
    names = history[-1]["layers"][0].keys()
    history = [scan for scan in history if all(names <= record.keys() for record in scan["layers"])]
    for kind, (holds, reason) in RULES.items():
        for layer in range(layers):
            records = [scan["layers"][layer] for scan in history]
            series = {name: [record[name] for record in records] for name in records[-1]}
            series["step"] = [scan["step"] for scan in history]
            scans = _trailing(holds(series))
            if scans:
                confirmed = kind == "broken" or (scans >= PERSISTENCE and kind != "lazy layer")
                since_step = history[-scans]["step"]
                found.append(Alarm(kind, layer, reason(records[-1]), scans, since_step, confirmed))
    return _without_consequences(found)


def health(step: int | None, alarms: Sequence[Alarm]) -> str:
    """One word on a run: untrained, healthy, suspect (nothing is confirmed yet), or sick."""
    if step == 0:
        return "untrained"
    if any(alarm.confirmed for alarm in alarms):
        return "sick"
    return "suspect" if any(alarm.kind != "lazy layer" for alarm in alarms) else "healthy"


def what_is_wrong(step: int | None, alarms: Sequence[Alarm]) -> str:
    """One sentence for people, the most serious first."""
    if step == 0:
        return "Untrained: no optimiser step was taken yet."
    # Heads at rest are normal in trained models; only an ablation makes a lazy layer something to speak of.
    serious = sorted((a for a in alarms if a.confirmed or a.kind != "lazy layer"), key=lambda a: not a.confirmed)
    if not serious:
        return "Healthy: no layer raises an alarm."
    first = serious[0]
    since = "" if first.since_step is None or first.scans == 1 else f", since step {first.since_step:,}"
    doubt = "" if first.confirmed else " Seen in a single scan, so it may pass."
    rest = [f"layer {alarm.layer} ({alarm.label})" for alarm in serious[1:4]]
    if len(serious) > 4:
        rest.append(f"{len(serious) - 4} more")
    also = f" Also {listed(rest)}." if rest else ""
    layer = "Layer" if first.confirmed else "Suspect: layer"
    kind = ALARMS[first.kind]
    return f"{layer} {first.layer} {kind.meaning} ({first.reason}){since}. Try: {kind.advice}{doubt}{also}"


def _broken(s: Series) -> list[bool]:
    return [broken > 0 or not finite for broken, finite in zip(s["broken_heads"], s["finite"], strict=True)]


def _entropy_collapse(s: Series) -> list[bool]:
    """Low or falling entropy, large or growing logits, and a stripe (Zhai et al. 2023: growth precedes collapse); or,
    earlier, three quarters of the heads sharp on a stripe each."""
    entropy, logit, stripe = s["normalized_entropy"], s["max_logit"], s["stripe"]
    holds = []
    for i in range(len(entropy)):
        low = entropy[i] < COLLAPSED_ENTROPY or (i > 0 and entropy[i] < entropy[i - 1] / 2)
        large = logit[i] > LARGE_LOGIT or (i > 0 and logit[i] > 2 * logit[i - 1])
        sharp = s["sharp_heads"][i] >= SHARP_SHARE * s["heads"][i]
        # Sequences under 17 tokens have no stripe to look at.
        holds.append(not stripe[i] <= COLLAPSED_STRIPE and (sharp or (low and large)))
    return holds


def _rank_collapse(s: Series) -> list[bool]:
    """Under half of the running maximum, or next to nothing left. The maximum starts when the fall of early training
    is over: the rank has fallen and risen again, or been flat while the number of steps doubled."""
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


def _dead_attention(s: Series) -> list[bool]:
    return [silent == heads for silent, heads in zip(s["silent_heads"], s["heads"], strict=True)]


def _dead_layer(s: Series) -> list[bool]:
    return [influence < NO_INFLUENCE for influence in s["block_influence"]]


def _dead_heads(s: Series) -> list[bool]:
    return [bool(heads) for heads in s["dead_heads"]]


def _lazy_layer(s: Series) -> list[bool]:
    return [share >= LAZY_SHARE for share in s["one_column_share"]]


# Kind → which scans it holds in, and why, from the layer's record; the most serious first.
RULES: dict[str, tuple[Callable[[Series], list[bool]], Callable[[Mapping], str]]] = {
    "broken": (
        _broken,
        lambda r: f"{r['broken_heads']} of {r['heads']} heads" if r["broken_heads"] else "what it passes on",
    ),
    "entropy collapse": (
        _entropy_collapse,
        lambda r: (
            f"median entropy {r['normalized_entropy']:.2f} of uniform, largest logit {r['max_logit']:.0f}, "
            f"{stripe_words(r['stripe'], r['stripe_at'])}"
        ),
    ),
    "dead layer": (_dead_layer, lambda r: f"block influence {r['block_influence']:.0e}"),
    "dead attention": (
        _dead_attention,
        lambda r: f"the largest head output is {r['largest_output']:.0e} of the residual stream",
    ),
    "dead heads": (
        _dead_heads,
        lambda r: f"{_heads(r['dead_heads'])} under {DEAD_RELATIVE_TO_RESIDUAL} of the residual stream",
    ),
    "rank collapse": (
        _rank_collapse,
        lambda r: f"effective rank {r['effective_rank']:.1f}, under half of its maximum or under {LEAST_RANK}",
    ),
    "lazy layer": (
        _lazy_layer,
        lambda r: f"{r['one_column_share']:.0%} of its heads put over {ONE_COLUMN:.0%} of their mass on one token",
    ),
}


def _heads(numbers: Sequence[int]) -> str:
    return f"head{'s' * (len(numbers) > 1)} {listed([str(number) for number in numbers])}:"


def _trailing(holds: Sequence[bool]) -> int:
    """How many at the end hold."""
    return next((count for count, held in enumerate(reversed(holds)) if not held), len(holds))


def _without_consequences(alarms: list[Alarm]) -> list[Alarm]:
    """What follows from another alarm of the layer says nothing more: a dead layer's attention is dead too."""
    implied = {
        "broken": tuple(RULES)[1:],
        "dead layer": ("dead attention", "dead heads"),
        "dead attention": ("dead heads",),
    }
    known = {(kind, alarm.layer) for alarm in alarms for kind in implied.get(alarm.kind, ())}
    return [alarm for alarm in alarms if (alarm.kind, alarm.layer) not in known]
