"""The JSON contract of a depth scan."""

import json
import math
from dataclasses import replace

import pytest
import torch

from gpt_lightning.interpret.judge.alarms import ALARMS, Alarm
from gpt_lightning.interpret.metrics import HEAD_METRICS, LAYER_METRICS, METRICS
from gpt_lightning.interpret.scan import depth_scan
from tests.interpret.conftest import random_tokens, sharpened_gpt

COLLAPSE = Alarm("entropy collapse", layer=1, reason="why", scans=2, since_step=200, confirmed=True)


def strictly(result) -> dict:
    """Through JSON as every parser reads it: NaN and Infinity are not part of it."""
    return json.loads(json.dumps(result.to_json(), allow_nan=False))


def test_json_has_every_metric_with_its_unit(scanned):
    content = strictly(scanned)
    assert content["units"] == {name: row.unit for name, row in METRICS.items()}
    assert (content["step"], content["sequences"], content["tokens"]) == (300, 2, 70)
    assert content["summary"] == scanned.summary
    assert (content["verdict"], content["alarms"]) == ("healthy", [])
    assert [layer["layer"] for layer in content["layers"]] == [0, 1, 2]
    for i, layer in enumerate(content["layers"]):
        assert layer.keys() == LAYER_METRICS.keys() | {"layer", "verdict", "heads"}
        assert layer["verdict"] == "no alarm"
        assert [head["head"] for head in layer["heads"]] == list(range(5))
        for j, head in enumerate(layer["heads"]):
            assert head.keys() == HEAD_METRICS.keys() | {"head", "verdict", "reason", "evidence"}
            assert (head["verdict"], head["reason"]) == (scanned.verdicts[i][j].label, "why")
            for name in HEAD_METRICS:
                assert head[name] == pytest.approx(scanned.heads[name][i, j].item(), rel=1e-6)
        for name in LAYER_METRICS:
            assert layer[name] == pytest.approx(scanned.layers[name][i].item(), rel=1e-6)


def test_positions_and_tokens_are_whole_numbers(scanned):
    scanned.heads["stripe_token"][0, 0] = 16_777_215  # the largest odd number that float32 holds
    head = strictly(scanned)["layers"][0]["heads"][0]
    assert head["stripe_token"] == 16_777_215
    assert isinstance(head["stripe_token"], int)
    assert isinstance(head["stripe_position"], int)


def test_undefined_metrics_are_null():
    content = strictly(depth_scan(sharpened_gpt(), random_tokens(2, 2)))
    undefined = {"first_position_mass_64", "sink_rate", "stripe", "stripe_position", "stripe_token"}
    undefined |= {"local_mass", "local_mass_baseline", "induction", "duplicate_token"}
    undefined |= {"stripe_same_position", "stripe_same_token"}
    assert content["step"] is None
    for layer in content["layers"]:
        for head in layer["heads"]:
            assert {name for name in HEAD_METRICS if head[name] is None} == undefined


def test_infinite_metrics_are_null(scanned):
    scanned.layers["massive_activation_ratio"][1] = math.inf  # over a median of 0
    scanned.heads["max_logit"][0, 0] = -math.inf
    first, second, _ = strictly(scanned)["layers"]
    assert second["massive_activation_ratio"] is None
    assert first["heads"][0]["max_logit"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_network_still_makes_valid_json(value):
    gpt = sharpened_gpt()
    with torch.no_grad():
        gpt.token_embedding.weight.fill_(value)
    content = strictly(depth_scan(gpt, random_tokens(2, 70)))
    assert {head["verdict"] for layer in content["layers"] for head in layer["heads"]} == {"broken"}
    assert content["layers"][0]["residual_norm"] is None


def test_the_summary_begins_with_what_is_wrong(scanned):
    assert scanned.summary.startswith("Healthy: no layer raises an alarm. 15 heads in 3 layers: 1 broken, ")
    scanned.alarms = [COLLAPSE]
    assert scanned.summary.startswith("Layer 1 has an entropy collapse: ")
    assert "(why), since step 200. Try: Lower --model.learning_rate" in scanned.summary


def test_json_has_the_alarms_with_their_advice(scanned):
    scanned.alarms = [COLLAPSE, replace(COLLAPSE, layer=2, confirmed=False)]
    content = strictly(scanned)
    assert content["verdict"] == "sick"
    assert [layer["verdict"] for layer in content["layers"]] == ["no alarm", "entropy collapse", "entropy collapse?"]
    first, second = content["alarms"]
    assert (first["kind"], first["layer"], first["reason"], first["since_step"]) == ("entropy collapse", 1, "why", 200)
    assert (first["confirmed"], second["confirmed"], second["label"]) == (True, False, "entropy collapse?")
    assert first["advice"] == ALARMS["entropy collapse"].advice


def test_a_record_holds_what_alarms_look_at(scanned):
    """Head 0 of layer 1 is on a stripe without a good reason; the others each have one, or miss a part."""
    metrics = {
        "normalized_entropy": [0.2, 0.2, 0.2, 0.2, 0.9],
        "stripe": [0.95, 0.5, 0.5, 0.1, 0.5],
        "max_logit": [70.0, 80.0, 20.0, 20.0, 20.0],
        "first_position_mass": [0.1, 0.92, 0.1, 0.1, 0.1],
        "induction": [0.1, 0.1, 0.5, 0.1, 0.1],
        "output_norm_relative_to_residual": [0.5, 1e-4, 0.2, 9e-4, 9e-4],
        "output_norm_relative_to_layer": [1.0, 0.05, 1.0, 0.05, 0.5],
    }
    for name, values in metrics.items():
        scanned.heads[name][1] = torch.tensor(values)
    scanned.stripe_places[1][0] = "'e'"
    record = scanned.record()
    assert record["step"] == 300
    layer = record["layers"][1]
    assert (layer["heads"], layer["sharp_heads"], layer["silent_heads"], layer["broken_heads"]) == (5, 1, 2, 0)
    assert layer["dead_heads"] == [3]  # 1 rests on a sink, and 4 is no quieter than the others
    assert layer["normalized_entropy"] == pytest.approx(0.2)
    assert (layer["max_logit"], layer["stripe_at"]) == (80, "'e'")
    assert (layer["stripe"], layer["largest_output"]) == (pytest.approx(0.95), 0.5)
    assert layer["one_column_share"] == pytest.approx(2 / 5)
    assert layer["effective_rank"] == scanned.layers["effective_rank"][1]
    assert record["layers"][0]["broken_heads"] == 1


def test_a_record_of_a_diverged_network():
    gpt = sharpened_gpt()
    with torch.no_grad():
        gpt.blocks[1].attention.qkv.weight[0, 0] = math.nan
    result = depth_scan(gpt, random_tokens(2, 30), step=5)
    assert result.record()["layers"][1]["broken_heads"] == 1
    assert (result.health, result.alarms[0].label) == ("sick", "broken")
