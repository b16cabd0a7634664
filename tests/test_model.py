"""The network against known sizes, its own definition, and GPT-2 as `transformers` implements it."""

import math

import pytest
import torch

from gpt_lightning.model import GPT, GPTConfig
from tests.gpt2_oracle import copy_from_huggingface, random_huggingface_gpt2


@pytest.mark.parametrize(("tied", "parameters"), [(True, 124_439_808), (False, 163_037_184)])
def test_gpt2_small_has_the_published_size(tied, parameters):
    with torch.device("meta"):
        assert GPT(GPTConfig(tie_weights=tied)).parameter_count() == parameters


def test_logits_equal_those_of_transformers():
    theirs = random_huggingface_gpt2(n_layer=3, n_head=4, d_model=32, context_length=24, vocab_size=61)
    ours = copy_from_huggingface(theirs)
    tokens = torch.randint(61, (3, 24))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_no_token_sees_a_later_one(tiny_config, position):
    tiny_config.position = position
    gpt = GPT(tiny_config).eval()
    tokens = torch.randint(256, (1, 16))
    changed = tokens.clone()
    changed[0, 9] = (changed[0, 9] + 1) % 256
    difference = (gpt(tokens) - gpt(changed)).abs().amax(dim=-1)[0]
    assert difference[:9].max() == 0
    assert difference[9:].min() > 0


def test_initialisation_is_gpt2s():
    gpt = GPT(GPTConfig(n_layer=8, n_head=4, d_model=128, context_length=64, vocab_size=500))
    for block in gpt.blocks:
        for scaled in (block.attention.output.weight, block.mlp.down.weight):
            assert scaled.std().item() == pytest.approx(0.02 / math.sqrt(2 * 8), rel=0.05)
        for plain in (block.attention.qkv.weight, block.mlp.up.weight):
            assert plain.std().item() == pytest.approx(0.02, rel=0.05)
        assert block.attention.qkv.bias.abs().max() == 0
    assert gpt.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert gpt.position_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_tied_head_is_the_embedding(tiny_config):
    gpt = GPT(tiny_config)
    assert gpt.head.weight is gpt.token_embedding.weight
    tiny_config.tie_weights = False
    untied = GPT(tiny_config)
    assert untied.head.weight is not untied.token_embedding.weight


def test_without_bias_there_is_none(tiny_config):
    tiny_config.bias = False
    assert not [name for name, _ in GPT(tiny_config).named_parameters() if name.endswith("bias")]


def test_rope_leaves_no_position_table_behind(tiny_config):
    tiny_config.position = "rope"
    state = GPT(tiny_config).state_dict()
    assert not [name for name in state if "position" in name or "rotary" in name]


def test_rope_scores_depend_on_distance_only(tiny_config):
    tiny_config.position = "rope"
    rotary = GPT(tiny_config).blocks[0].attention.rotary
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    scores = {
        (i, j): (rotary(q, start=i) * rotary(k, start=j)).sum().item() for i, j in [(5, 2), (9, 6), (15, 12), (6, 2)]
    }
    assert scores[5, 2] == pytest.approx(scores[9, 6], abs=1e-5)
    assert scores[5, 2] == pytest.approx(scores[15, 12], abs=1e-5)
    assert abs(scores[5, 2] - scores[6, 2]) > 1e-3


def test_rope_matches_the_rotation_of_complex_numbers(tiny_config):
    """The definition of Su et al. 2021, in another arithmetic: (x1 + i·x2)·exp(i·position·frequency)."""
    tiny_config.position = "rope"
    rotary = GPT(tiny_config).blocks[0].attention.rotary
    x = torch.randn(1, 1, 16, 8)
    frequencies = 10_000.0 ** -(torch.arange(4) / 4)
    angles = torch.outer(torch.arange(16), frequencies)
    rotated = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(1j * angles)
    torch.testing.assert_close(rotary(x, start=0), torch.cat([rotated.real, rotated.imag], dim=-1))


def test_dropout_acts_in_training_only(tiny_config):
    tiny_config.dropout = 0.5
    gpt = GPT(tiny_config)
    tokens = torch.randint(256, (1, 16))
    assert not torch.equal(gpt(tokens), gpt(tokens))
    gpt.eval()
    assert torch.equal(gpt(tokens), gpt(tokens))


def test_too_many_tokens_are_refused(tiny_config):
    with pytest.raises(ValueError, match="17 tokens do not fit into a context of 16"):
        GPT(tiny_config)(torch.zeros(1, 17, dtype=torch.long))


def test_impossible_sizes_are_all_named():
    with pytest.raises(ValueError, match=r"n_layer is 0.*d_model \(10\) must be a multiple of n_head \(3\).*dropout"):
        GPTConfig(n_layer=0, n_head=3, d_model=10, dropout=1.0)
    with pytest.raises(ValueError, match="even head width"):
        GPTConfig(n_head=2, d_model=6, position="rope")


def test_flops_per_token_counts_every_matrix_product():
    """Against PyTorch's own counter of the matrix products of one forward and backward pass."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = GPTConfig(n_layer=2, n_head=2, d_model=64, context_length=32, vocab_size=100)
    gpt = GPT(config)
    tokens = torch.randint(100, (2, 32))
    # Fused attention on a CPU is opaque to the counter; the plain form shows its two products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        gpt(tokens).sum().backward()
    assert counter.get_total_flops() / tokens.numel() == gpt.flops_per_token()
