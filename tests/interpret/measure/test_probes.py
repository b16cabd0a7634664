"""Texts that ask one question: of the right tokens, always the same, and repeated where they say so."""

import torch

from gpt_lightning.interpret.measure.probes import LEAST_PERIOD, MOST_PERIOD, random_tokens, repeated_tokens
from tests.interpret.conftest import random_tokens as some_tokens

TEXT = torch.arange(0, 40, 2).repeat(2, 3)  # 20 different tokens, all even


def test_random_tokens_are_those_of_the_text_and_always_the_same():
    texts = random_tokens(TEXT, 5, 100)
    assert texts.shape == (5, 100)
    assert texts.dtype == torch.int64
    assert set(texts.unique().tolist()) == set(range(0, 40, 2))
    assert texts.equal(random_tokens(TEXT, 5, 100))
    assert not texts[0].equal(texts[1])


def test_looking_does_not_touch_the_random_numbers_of_training():
    before = torch.get_rng_state()
    random_tokens(TEXT, 5, 100)
    repeated_tokens(TEXT, 5, 100)
    assert torch.get_rng_state().equal(before)


def test_a_repeat_has_distinct_tokens_twice():
    texts, period = repeated_tokens(TEXT, 6, context_length=128)
    assert period == 20
    assert texts.shape == (6, 40)
    assert texts[:, :20].equal(texts[:, 20:])
    assert all(len(sequence[:20].unique()) == 20 for sequence in texts)
    assert set(texts.unique().tolist()) <= set(range(0, 40, 2))
    assert texts.equal(repeated_tokens(TEXT, 6, context_length=128)[0])


def test_the_period_fits_context_and_text():
    many = torch.arange(500)[None]
    assert repeated_tokens(many, 1, context_length=1000)[1] == MOST_PERIOD
    assert repeated_tokens(many, 1, context_length=31)[1] == 15
    assert repeated_tokens(many, 1, context_length=2 * LEAST_PERIOD - 1) is None
    assert repeated_tokens(some_tokens(1, 5), 1, context_length=128) is None
