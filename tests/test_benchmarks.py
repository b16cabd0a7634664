"""Benchmarks judge and time; what they judge by has to be right. No timing is asserted."""

import json

import pytest
import torch

from benchmarks.calibration import judge, rebuilt
from gpt_lightning.interpret.scan import depth_scan
from gpt_lightning.model import GPT, GPTConfig
from tests.interpret.conftest import random_tokens, sharpened_gpt


def stored(step: int, dead_layer: bool, loss: float) -> dict:
    """A scan as the calibration stores it, of a network whose layer 1 may be dead."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(n_layer=2, n_head=2, d_model=16, context_length=72, vocab_size=50))
    if dead_layer:
        with torch.no_grad():
            for part in (gpt.blocks[1].attention.output, gpt.blocks[1].mlp.down):
                part.weight.zero_()
                part.bias.zero_()
    return json.loads(json.dumps(depth_scan(gpt, random_tokens(2, 70), step).to_json() | {"val_loss": loss}))


def test_a_stored_scan_is_judged_as_the_scan_itself():
    result = depth_scan(sharpened_gpt(), random_tokens(2, 70), step=50)
    again = rebuilt(json.loads(json.dumps(result.to_json())))
    assert [[v.kind for v in row] for row in again.verdicts] == [[v.kind for v in row] for row in result.verdicts]
    for one, other in zip(again.record()["layers"], result.record()["layers"], strict=True):
        assert one["dead_heads"] == other["dead_heads"]
        for name in one.keys() - {"dead_heads", "stripe_at"}:
            assert one[name] == pytest.approx(other[name], rel=1e-5), name


def test_when_a_run_is_named_and_when_its_loss_shows_it():
    steps = [(25, False, 2.0), (50, True, 2.0), (75, True, 2.0), (100, True, 3.0)]
    run = {"condition": "layer zeroed", "scans": [stored(*step) for step in steps]}
    found = judge(run, worst_healthy=[2.5] * 4)
    assert (found.suspected, found.confirmed, found.loss_shows) == (50, 75, 100)
    assert found.kinds == {"dead layer"}
    assert found.right_place
