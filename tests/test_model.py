"""The network against known sizes, its own definition, and GPT-2 as `transformers` implements it."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3Config, Qwen3RotaryEmbedding

from gpt_lightning.model import GPT, GPTConfig, padded_vocabulary
from tests.gpt2_oracle import copy_from_huggingface, random_huggingface_gpt2
from tests.networks import VARIANTS


@pytest.mark.parametrize(
    ("tied", "published", "rounded_up"), [(True, 124_439_808, 124_475_904), (False, 163_037_184, 163_109_376)]
)
def test_gpt2_small_has_the_published_size_and_47_ids_more_where_they_are_rounded_up(tied, published, rounded_up):
    with torch.device("meta"):
        assert GPT(GPTConfig(tie_weights=tied)).parameter_count() == published
        padded = GPTConfig(tie_weights=tied, vocab_size=padded_vocabulary(50257))
        assert GPT(padded).parameter_count() == rounded_up


@pytest.mark.parametrize(("n_ids", "padded"), [(1, 64), (64, 64), (65, 128), (256, 256), (50257, 50304)])
def test_a_vocabulary_is_rounded_up_to_a_multiple_of_64(n_ids, padded):
    assert padded_vocabulary(n_ids) == padded


def test_logits_equal_those_of_transformers():
    theirs = random_huggingface_gpt2(n_layer=3, n_head=4, d_model=32, context_length=24, vocab_size=61)
    ours = copy_from_huggingface(theirs)
    tokens = torch.randint(61, (3, 24))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_token_sees_a_later_one(tiny_config, variant):
    gpt = GPT(replace(tiny_config, **VARIANTS[variant])).eval()
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
    pairs = [(5, 2), (9, 6), (15, 12), (6, 2)]
    scores = {(i, j): (rotary(q, slice(i, i + 1)) * rotary(k, slice(j, j + 1))).sum().item() for i, j in pairs}
    assert scores[5, 2] == pytest.approx(scores[9, 6], abs=1e-5)
    assert scores[5, 2] == pytest.approx(scores[15, 12], abs=1e-5)
    assert abs(scores[5, 2] - scores[6, 2]) > 1e-3


def test_rope_matches_the_rotation_of_complex_numbers(tiny_config):
    """The definition of Su et al. 2021, in complex numbers: (x1 + i·x2)·exp(i·position·frequency)."""
    tiny_config.position = "rope"
    rotary = GPT(tiny_config).blocks[0].attention.rotary
    x = torch.randn(1, 1, 16, 8)
    frequencies = 10_000.0 ** -(torch.arange(4) / 4)
    angles = torch.outer(torch.arange(16), frequencies)
    rotated = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(1j * angles)
    torch.testing.assert_close(rotary(x, slice(x.size(-2))), torch.cat([rotated.real, rotated.imag], dim=-1))


def test_normalised_queries_and_keys_are_those_of_qwen3():
    """The norm is per head, before positions; our three projections are one matrix."""
    options = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
    config = Qwen3Config(**options, num_hidden_layers=1, rope_theta=10_000.0, rms_norm_eps=1e-6)
    config._attn_implementation = "eager"
    theirs = Qwen3Attention(config, layer_idx=0)
    ours = GPT(GPTConfig(1, 4, 32, 16, vocab_size=8, bias=False, position="rope", qk_norm=True)).blocks[0].attention
    x = torch.randn(2, 16, 32)
    with torch.no_grad():
        ours.qkv.weight.normal_()  # so large that attention without a norm would look at one token
        for projection, weight in zip(
            (theirs.q_proj, theirs.k_proj, theirs.v_proj), ours.qkv.weight.chunk(3), strict=True
        ):
            projection.weight.copy_(weight)
        theirs.o_proj.weight.copy_(ours.output.weight)
    positions = Qwen3RotaryEmbedding(config)(x, torch.arange(16)[None])
    mask = torch.full((16, 16), -torch.inf).triu(1)[None, None]
    torch.testing.assert_close(ours(x), theirs(x, positions, mask)[0], atol=1e-5, rtol=1e-5)


def test_normalised_queries_and_keys_bound_the_logits(tiny_config):
    seen = []
    gpt = GPT(replace(tiny_config, qk_norm=True, position="rope"))
    gpt.blocks[0].attention.attend.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    with torch.no_grad():
        gpt.blocks[0].attention.qkv.weight.mul_(1000)
        gpt(torch.randint(256, (1, 16)))
    q, k, _ = seen[0]
    assert (q @ k.mT).abs().max() / math.sqrt(8) < math.sqrt(8) + 1e-4


def test_squared_relu_and_rms_norm_at_known_inputs(tiny_config):
    block = GPT(replace(tiny_config, activation="relu_squared", norm="rms")).blocks[0]
    torch.testing.assert_close(
        block.mlp.activation(torch.tensor([-2.0, 0.0, 0.5, 3.0])), torch.tensor([0, 0, 0.25, 9.0])
    )
    x = torch.full((1, 1, 16), 3.0)
    x[..., ::2] = -3.0
    torch.testing.assert_close(block.norm1(x + 100), (x + 100) / (x + 100).square().mean().sqrt())  # not centred
    assert [name for name, _ in block.norm1.named_parameters()] == ["weight"]


def test_blocks_that_begin_at_zero_begin_as_the_identity(tiny_config):
    gpt = GPT(replace(tiny_config, zero_init=True))
    x = torch.randn(1, 16, 16)
    assert torch.equal(gpt.blocks[0](x), x)


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
    with pytest.raises(ValueError, match="norm is 'batch' but must be 'layer' or 'rms'; activation is 'relu' but must"):
        GPTConfig(norm="batch", activation="relu")
    with pytest.raises(ValueError, match=r"n_layer is True; d_model is 64\.0; bias is 1: sizes must be whole numbers"):
        GPTConfig(n_layer=True, d_model=64.0, bias=1)


def test_sizes_with_ranges_stay_plain_numbers(tiny_config):
    assert {type(value) for value in asdict(replace(tiny_config, n_layer=3)).values()} == {int, float, bool, str}


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
