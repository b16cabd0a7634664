"""Parameter groups and the schedule, by known answers."""

import pytest

from gpt_lightning.model import GPT
from gpt_lightning.optim import parameter_groups, warmup_cosine


def test_only_matrices_decay_and_nothing_is_left_out(tiny_config):
    gpt = GPT(tiny_config)
    decayed, kept = parameter_groups(gpt, weight_decay=0.1)
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert {id(p) for p in kept["params"]} == {
        id(p) for name, p in gpt.named_parameters() if name.endswith("bias") or "norm" in name
    }
    assert len(decayed["params"]) + len(kept["params"]) == len(list(gpt.parameters()))


def test_schedule_at_known_steps():
    multiplier = warmup_cosine(warmup_steps=10, decay_steps=110, final_fraction=0.1)
    assert multiplier(0) == pytest.approx(0.1)
    assert multiplier(9) == pytest.approx(1.0)
    assert multiplier(10) == pytest.approx(1.0)
    assert multiplier(60) == pytest.approx(0.55)
    assert multiplier(110) == pytest.approx(0.1)
    assert multiplier(10_000) == pytest.approx(0.1)


def test_schedule_without_warm_up_starts_at_the_peak():
    assert warmup_cosine(0, 100, 0.1)(0) == pytest.approx(1.0)
