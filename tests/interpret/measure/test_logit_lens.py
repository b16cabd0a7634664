"""The logit lens against `transformers`, the network's own predictions, and a circuit whose streams are known."""

import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from gpt_lightning.errors import UserError
from gpt_lightning.interpret.measure import hooks
from gpt_lightning.interpret.measure import logit_lens as logit_lens_module
from gpt_lightning.interpret.measure.logit_lens import LogitLens, logit_lens
from gpt_lightning.model import GPT, GPTConfig
from tests.gpt2_oracle import copy_from_huggingface, random_huggingface_gpt2
from tests.interpret.circuits import induction_circuit, repeated_sequences
from tests.interpret.conftest import Largest, left_as_it_was, random_tokens, sharpened_gpt, with_checkpointed_blocks
from tests.networks import VARIANTS


def assert_same(lens: LogitLens, expected: LogitLens, **tolerance: float) -> None:
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(lens, name), value, msg=lambda m, name=name: f"{name}: {m}", **tolerance)


def test_the_lens_equals_that_on_the_hidden_states_of_transformers():
    theirs = random_huggingface_gpt2(n_layer=3, n_head=4, d_model=32, context_length=24, vocab_size=50)
    tokens = random_tokens(3, 24)
    with torch.no_grad():
        *states, normed = theirs(tokens, output_hidden_states=True).hidden_states  # the last is after the final norm
        logits = [theirs.lm_head(x) for x in (*map(theirs.transformer.ln_f, states), normed)]
    log_probs = torch.stack(logits).double().log_softmax(-1)  # L+1, B, T, V
    loss = -log_probs[:, :, :-1].gather(-1, tokens[:, 1:, None].expand(4, -1, -1, -1)).mean((1, 2, 3))
    kl = (log_probs[-1].exp() * (log_probs[-1] - log_probs)).sum(-1).mean((1, 2))
    best = log_probs.argmax(-1)
    lens = logit_lens(copy_from_huggingface(theirs), tokens, shown_tokens=10)
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    assert kl[:3].min() > 0.1  # far from the final distribution, or this would prove little
    close(lens.cross_entropy.double(), loss)
    close(lens.kl_to_final.double(), kl)
    close(lens.top1_agreement, (best == best[-1]).float().mean((1, 2)))
    assert lens.top_tokens.equal(best[:, 0, :10])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_last_stream_is_the_networks_own_prediction(variant):
    gpt, tokens = sharpened_gpt(**VARIANTS[variant]), random_tokens(3, 30)
    lens = logit_lens(gpt, tokens)
    with torch.no_grad():
        logits = gpt(tokens)
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert lens.cross_entropy[-1].item() == pytest.approx(expected, rel=1e-6)
    assert lens.kl_to_final[-1].item() == 0
    assert lens.kl_to_final[:-1].min() > 0.1
    assert lens.top1_agreement[-1].item() == 1
    assert lens.top_tokens[-1].equal(logits[0, :24].argmax(-1))


def test_the_circuit_knows_nothing_before_its_last_layer():
    """Nothing writes where its logits read until layer 1: the lens is uniform before."""
    lens = logit_lens(induction_circuit(), repeated_sequences(4), shown_tokens=63)
    assert lens.cross_entropy[:2].tolist() == pytest.approx([math.log(64)] * 2, abs=1e-5)
    assert lens.top_tokens[2, 32:-1].equal(repeated_sequences(1)[0, 33:])
    assert lens.cross_entropy[2] < lens.cross_entropy[1] - 1
    assert lens.kl_to_final[0].item() > 1


def test_shapes():
    lens = logit_lens(sharpened_gpt(n_layer=3), random_tokens(2, 9))
    for name in ("cross_entropy", "kl_to_final", "top1_agreement"):
        assert getattr(lens, name).shape == (4,)
        assert getattr(lens, name).dtype == torch.float32
        assert not getattr(lens, name).requires_grad
    assert lens.top_tokens.shape == (4, 9)  # no more than there are
    assert lens.top_tokens.dtype == torch.int64
    assert logit_lens(sharpened_gpt(), random_tokens(2, 40)).top_tokens.shape == (3, 24)


@pytest.mark.parametrize("most_numbers", [1, 7 * 4 * 50, 40 * 16 * 3, 2 * 40 * 16 * 3])
def test_micro_batches_and_blocks_of_rows_change_no_number(most_numbers, monkeypatch):
    gpt, tokens = sharpened_gpt(), random_tokens(3, 40)
    expected = logit_lens(gpt, tokens)
    monkeypatch.setattr(hooks, "MOST_NUMBERS", most_numbers)
    assert_same(logit_lens(gpt, tokens), expected, atol=1e-5, rtol=1e-5)


def test_no_logits_are_larger_than_allowed(monkeypatch):
    gpt = GPT(GPTConfig(2, 2, 8, 64, 2000))
    monkeypatch.setattr(hooks, "MOST_NUMBERS", 2**17)
    with Largest() as largest:
        logit_lens(gpt, random_tokens(4, 64))
    assert 2**14 < largest.numel <= 2**15  # four at once; one sequence's would be 2**17


def test_one_sequence_at_a_time_where_memory_asks_for_it(monkeypatch):
    batches, streams = [], logit_lens_module.residual_streams
    monkeypatch.setattr(logit_lens_module, "residual_streams", lambda gpt, x: batches.append(len(x)) or streams(gpt, x))
    for most_numbers in (2**24, 2 * 30 * 16 * 3, 1):  # 30 tokens, 16 wide, 3 streams
        monkeypatch.setattr(hooks, "MOST_NUMBERS", most_numbers)
        logit_lens(sharpened_gpt(), random_tokens(5, 30))
    assert batches == [5, 2, 2, 1, 1, 1, 1, 1, 1]


def test_an_id_without_a_token_is_no_guess_but_counts_in_the_losses():
    """As it does in training: id 49 is by far the likeliest everywhere, and only 40 ids are tokens."""
    gpt, tokens = sharpened_gpt(), random_tokens(2, 30) % 40
    with torch.no_grad():
        gpt.norm.bias.fill_(3.0)
        gpt.token_embedding.weight[49] = 3.0
    free, lens = logit_lens(gpt, tokens), logit_lens(gpt, tokens, n_ids=40)
    assert (free.top_tokens == 49).all()
    with torch.no_grad():
        logits = gpt(tokens)
    assert lens.top_tokens[-1].equal(logits[0, :24, :40].argmax(-1))
    assert lens.top_tokens.max() < 40
    assert lens.top1_agreement[0] < 1  # of guesses among tokens; that of id 49 would be the same at every depth
    assert lens.cross_entropy.equal(free.cross_entropy)
    assert lens.kl_to_final.equal(free.kl_to_final)


def test_autocast_does_not_reach_the_lens():
    gpt, tokens = sharpened_gpt(), random_tokens(2, 30)
    expected = logit_lens(gpt, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lens = logit_lens(gpt, tokens)
    assert_same(lens, expected, atol=0, rtol=0)


def test_a_network_in_bfloat16():
    lens = logit_lens(induction_circuit().bfloat16(), repeated_sequences(4))
    assert lens.cross_entropy.dtype == torch.float32
    assert lens.cross_entropy[0].item() == pytest.approx(math.log(64), abs=1e-5)


def test_a_network_with_activation_checkpointing():
    gpt, tokens = sharpened_gpt(), random_tokens(2, 30)
    expected = logit_lens(gpt, tokens)
    assert_same(logit_lens(with_checkpointed_blocks(gpt), tokens), expected, atol=0, rtol=0)


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(fails, monkeypatch):
    gpt = sharpened_gpt(dropout=0.5).train()
    gpt.blocks[1].eval()
    tokens = random_tokens(2, 20)
    if fails:
        monkeypatch.setattr(gpt.blocks[1].mlp, "forward", lambda x: 1 / 0)
    with left_as_it_was(gpt), pytest.raises(ZeroDivisionError) if fails else nullcontext():
        assert_same(logit_lens(gpt, tokens), logit_lens(gpt, tokens), atol=0, rtol=0)


def test_wrong_tokens_are_refused():
    with pytest.raises(UserError, match="token id 50"):
        logit_lens(sharpened_gpt(), torch.tensor([[0, 50]]))
