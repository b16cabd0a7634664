"""Which of a network's heads are worth a look."""

import math
from collections import defaultdict
from itertools import zip_longest

from gpt_lightning.interpret.judge.verdicts import KINDS
from gpt_lightning.interpret.result import DepthScanResult


def choose_heads(result: DepthScanResult, most: int = 12) -> list[tuple[int, int]]:
    """The heads worth a look, as (layer, head): those that stand out, worst kind first, then one of every other kind.

    Within a kind the clearest come first, by the metric behind the verdict. Every kind that stands out gets one place
    before any gets a second, and each other kind keeps its one place. With no other kinds, all `most` places go to
    heads that stand out.
    """
    of_kind: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for layer, row in enumerate(result.verdicts):
        for head, verdict in enumerate(row):
            of_kind[verdict.kind].append((layer, head))
    for kind, heads in of_kind.items():
        heads.sort(key=lambda place, kind=kind: -_clearness(result, kind, *place))
    others = [of_kind[kind][0] for kind in KINDS if kind in of_kind and not KINDS[kind].stands_out]
    standing_out = [of_kind[kind] for kind in KINDS if KINDS[kind].stands_out]
    in_turns = [place for turn in zip_longest(*standing_out) for place in turn if place is not None]
    kept = in_turns[: max(most - len(others), 1)]
    return ([place for heads in standing_out for place in heads if place in kept] + others)[:most]


def _clearness(result: DepthScanResult, kind: str, layer: int, head: int) -> float:
    metric, sign = KINDS[kind].clearest or ("", 1)
    if metric not in result.heads:
        return 0.0
    value = sign * float(result.heads[metric][layer, head])
    return -math.inf if math.isnan(value) else value
