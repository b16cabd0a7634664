"""The JSON contract of a depth scan."""

import json
import math

import pytest
import torch

from gpt_lightning.interpret.result import HEAD_UNITS, LAYER_UNITS
from gpt_lightning.interpret.scan import depth_scan
from tests.interpret.conftest import random_tokens, sharpened_gpt


def strictly(result) -> dict:
    """Through JSON as every parser reads it: NaN and Infinity are not part of it."""
    return json.loads(json.dumps(result.to_json(), allow_nan=False))


def test_json_has_every_metric_with_its_unit(scanned):
    found = strictly(scanned)
    assert found["units"] == HEAD_UNITS | LAYER_UNITS
    assert (found["step"], found["sequences"], found["tokens"]) == (300, 2, 70)
    assert found["summary"] == scanned.summary
    assert [layer["layer"] for layer in found["layers"]] == [0, 1]
    for i, layer in enumerate(found["layers"]):
        assert layer.keys() == LAYER_UNITS.keys() | {"layer", "heads"}
        assert [head["head"] for head in layer["heads"]] == list(range(5))
        for j, head in enumerate(layer["heads"]):
            assert head.keys() == HEAD_UNITS.keys() | {"head", "verdict", "reason"}
            assert (head["verdict"], head["reason"]) == (scanned.verdicts[i][j].label, "why")
            for name in HEAD_UNITS:
                assert head[name] == pytest.approx(scanned.heads[name][i, j].item(), rel=1e-6)
        for name in LAYER_UNITS:
            assert layer[name] == pytest.approx(scanned.layers[name][i].item(), rel=1e-6)


def test_positions_and_tokens_are_whole_numbers(scanned):
    scanned.heads["stripe_token"][0, 0] = 16_777_215  # the largest odd number that float32 holds
    head = strictly(scanned)["layers"][0]["heads"][0]
    assert head["stripe_token"] == 16_777_215
    assert isinstance(head["stripe_token"], int)
    assert isinstance(head["stripe_position"], int)


def test_undefined_metrics_are_null():
    found = strictly(depth_scan(sharpened_gpt(), random_tokens(2, 2)))
    undefined = {"first_position_mass_64", "sink_rate", "stripe", "stripe_position", "stripe_token"}
    undefined |= {"local_mass", "local_mass_baseline"}
    assert found["step"] is None
    for layer in found["layers"]:
        for head in layer["heads"]:
            assert {name for name in HEAD_UNITS if head[name] is None} == undefined


def test_infinite_metrics_are_null(scanned):
    scanned.layers["massive_activation_ratio"][1] = math.inf  # over a median of 0
    scanned.heads["max_logit"][0, 0] = -math.inf
    first, second = strictly(scanned)["layers"]
    assert second["massive_activation_ratio"] is None
    assert first["heads"][0]["max_logit"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_network_still_makes_valid_json(value):
    gpt = sharpened_gpt()
    with torch.no_grad():
        gpt.token_embedding.weight.fill_(value)
    found = strictly(depth_scan(gpt, random_tokens(2, 70)))
    assert {head["verdict"] for layer in found["layers"] for head in layer["heads"]} == {"broken"}
    assert found["layers"][0]["residual_norm"] is None


def test_the_summary_is_that_of_the_verdicts(scanned):
    assert scanned.summary.startswith("10 heads in 2 layers: 1 broken, ")
