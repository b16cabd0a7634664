"""Which heads are shown: what stands out, worst first, and one of every other kind."""

import math

import torch

from gpt_lightning.interpret.heads_of_note import choose_heads
from gpt_lightning.interpret.judge.verdicts import KINDS, Verdict
from tests.interpret.draw.test_matrices import MIXED, made_up_result


def test_every_kind_has_its_clearest_head():
    result = made_up_result(1, 4)
    kinds = {"previous-token": "previous_token", "sink (no-op)": "first_position_mass", "local": "local_mass"}
    kinds |= {"induction": "induction", "duplicate-token": "duplicate_token", "diffuse": "normalized_entropy"}
    kinds |= {"stripe": "stripe"}
    for kind, metric in kinds.items():
        result.verdicts = [[MIXED] + [Verdict(kind, kind, "why")] * 3]
        result.heads[metric] = torch.tensor([[0.9, math.nan, 0.5, 0.7]])
        assert (0, 3) in choose_heads(result, 2), kind
        del result.heads[metric]
        assert (0, 1) in choose_heads(result, 2), kind  # without the metric the first
    result.verdicts = [[Verdict("dead?", "dead?", "why")] * 4]
    result.heads["output_norm_relative_to_residual"] = torch.tensor([[3.0, 1.0, 2.0, 4.0]])
    assert choose_heads(result) == [(0, 1), (0, 2), (0, 0), (0, 3)]


def verdicts_of(*kinds: str) -> list[list[Verdict]]:
    return [[Verdict(kind, kind, "why") for kind in kinds]]


def test_what_stands_out_comes_first_and_every_other_kind_keeps_its_place():
    result = made_up_result(1, 30)
    result.heads["stripe"] = torch.arange(30.0)[None]
    result.verdicts = verdicts_of(*["mixed"] * 3, *["stripe"] * 20, *["broken"] * 5, "local", "diffuse")
    chosen = choose_heads(result)
    kinds = [result.verdicts[layer][head].kind for layer, head in chosen]
    assert kinds == ["broken"] * 5 + ["stripe"] * 4 + ["local", "diffuse", "mixed"]
    assert chosen[5:9] == [(0, 22), (0, 21), (0, 20), (0, 19)]
    assert chosen == choose_heads(result)
    result.verdicts = verdicts_of(*["broken"] * 25, *["stripe"] * 5)
    kinds = [result.verdicts[layer][head].kind for layer, head in choose_heads(result)]
    assert kinds == ["broken"] * 7 + ["stripe"] * 5  # all places go to what stands out, and each kind has its turn


def test_a_choice_is_never_longer_than_asked_for_nor_twice_the_same():
    result = made_up_result(4, 12)
    for most in (1, 2, 5, 12, 48):
        chosen = choose_heads(result, most)
        assert len(chosen) == len(set(chosen)) <= most
        assert KINDS[result.verdicts[chosen[0][0]][chosen[0][1]].kind].stands_out
    result.verdicts = [[MIXED] * 12] * 4
    assert choose_heads(result) == [(0, 0)]
