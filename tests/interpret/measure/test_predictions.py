"""The loss of every prediction, against the logits of all the text at once."""

import pytest
import torch
import torch.nn.functional as F

from gpt_lightning.errors import UserError
from gpt_lightning.interpret.measure import hooks
from gpt_lightning.interpret.measure.predictions import cross_entropies
from tests.interpret.conftest import random_tokens, sharpened_gpt


@pytest.mark.parametrize("most_numbers", [1, 700, 2**24])
def test_losses_equal_those_of_all_logits_at_once(most_numbers, monkeypatch):
    """However small the pieces: sequence by sequence and row by row."""
    monkeypatch.setattr(hooks, "MOST_NUMBERS", most_numbers)
    gpt, tokens = sharpened_gpt(dropout=0.5).train(), random_tokens(3, 20)
    losses = cross_entropies(gpt, tokens)
    assert gpt.training
    with torch.no_grad():
        logits = gpt.eval()(tokens)
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(3, 19)
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-5)


def test_autocast_does_not_reach_the_losses():
    gpt, tokens = sharpened_gpt(), random_tokens(2, 20)
    expected = cross_entropies(gpt, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cross_entropies(gpt, tokens).equal(expected)


def test_tokens_outside_the_vocabulary_are_refused():
    with pytest.raises(UserError, match="token id 50"):
        cross_entropies(sharpened_gpt(), torch.tensor([[0, 50]]))
