"""A look into a network: micro-batches that fit into memory, its own precision, and nothing left behind."""

from contextlib import nullcontext

import pytest
import torch

from gpt_lightning.errors import UserError
from gpt_lightning.interpret.measure import hooks
from gpt_lightning.interpret.measure.hooks import looking
from tests.interpret.conftest import random_tokens, sharpened_gpt


@pytest.mark.parametrize(
    ("most_numbers", "numbers_per_token", "sizes"),
    [
        (2**24, None, [5]),
        (2 * 30 * 4 * 16, None, [2, 2, 1]),  # by default the MLP's: 4 × 16 channels, 30 tokens
        (2 * 30 * 4 * 16 - 1, None, [1] * 5),
        (2 * 30 * 7, 7, [2, 2, 1]),
        (1, 7, [1] * 5),  # at least one
    ],
)
def test_as_many_sequences_at_once_as_fit(most_numbers, numbers_per_token, sizes, monkeypatch):
    monkeypatch.setattr(hooks, "MOST_NUMBERS", most_numbers)
    tokens = random_tokens(5, 30)
    with looking(sharpened_gpt(), tokens, numbers_per_token) as parts:
        assert [len(part) for part in parts] == sizes
        assert torch.cat(parts).equal(tokens)


@pytest.mark.parametrize("fails", [False, True])
def test_a_look_leaves_nothing_behind(fails):
    gpt = sharpened_gpt(dropout=0.5).train()
    seen, blocks = [], []

    def look() -> None:
        on_attention, on_block = lambda layer, q, k, v: seen.append(layer), lambda layer, *_: blocks.append(layer)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with looking(gpt, random_tokens(2, 9), None, on_attention, on_block) as (part_BT,):
                assert not gpt.training
                assert not torch.is_grad_enabled()
                assert gpt.hidden_states(part_BT).dtype == torch.float32
                if fails:
                    raise RuntimeError("out of memory")
            assert torch.is_autocast_enabled("cpu")

    with pytest.raises(RuntimeError, match="out of memory") if fails else nullcontext():
        look()
    assert all(module.training for module in gpt.modules())
    assert torch.is_grad_enabled()
    gpt.hidden_states(random_tokens(2, 9))
    assert seen == blocks == [0, 1]


def test_wrong_tokens_are_refused_before_the_network_is_touched():
    look = looking(sharpened_gpt(), torch.tensor([[0, 50]]))
    with pytest.raises(UserError, match="The token id 50 is outside this model's vocabulary of 50 ids"), look:
        pytest.fail("looked")
