"""Statistics of the residual stream against vectors whose answer is known."""

import math

import pytest
import torch

from gpt_lightning.interpret.measure.residual import RANK_TOKENS, effective_rank, residual_statistics


def test_a_layer_that_does_nothing_has_no_influence():
    x = torch.randn(1, 9, 16)
    statistics = residual_statistics(x, x.clone())
    assert statistics["block_influence"].item() == pytest.approx(0, abs=1e-6)
    assert statistics["block_influence_centred"].item() == pytest.approx(0, abs=1e-6)
    assert statistics["block_influence"].item() >= 0


def test_rounding_never_makes_an_influence_negative():
    torch.manual_seed(0)
    for _ in range(50):
        x = torch.randn(1, 2, 16)
        assert all(residual_statistics(x, x)[name] >= 0 for name in ("block_influence", "block_influence_centred"))


def test_a_layer_that_only_rescales_has_no_influence():
    x = torch.randn(1, 9, 16)
    statistics = residual_statistics(x, 3 * x)
    assert statistics["block_influence"].item() == pytest.approx(0, abs=1e-6)
    assert statistics["residual_norm"].item() == pytest.approx(3 * x.norm(dim=-1).mean().item())


def test_a_layer_that_turns_every_vector_by_90_degrees():
    before, after = torch.zeros(2, 1, 4, 16)
    before[0, :, :4] = torch.eye(4)
    after[0, :, 4:8] = torch.eye(4)
    statistics = residual_statistics(before, after)
    assert statistics["block_influence"].item() == pytest.approx(1, abs=1e-6)
    assert statistics["block_influence_centred"].item() == pytest.approx(1, abs=1e-6)


def test_a_layer_that_reverses_every_vector():
    x = torch.randn(1, 9, 16)
    assert residual_statistics(x, -x)["block_influence"].item() == pytest.approx(2, abs=1e-6)


def test_centring_sees_what_a_shared_vector_hides():
    """Tokens that agree on all but a thousandth: the layer changes all of that thousandth."""
    before, after = torch.zeros(2, 1, 4, 16)
    before[0, :, :4], after[0, :, 4:8] = torch.eye(4), torch.eye(4)
    shared = torch.zeros(16)
    shared[-1] = 1000
    statistics = residual_statistics(before + shared, after + shared)
    assert statistics["block_influence"].item() == pytest.approx(0, abs=1e-5)
    assert statistics["block_influence_centred"].item() == pytest.approx(1, abs=1e-3)


def test_centring_is_per_sequence():
    """Two sequences, each of one vector plus noise: their means differ, so a mean over both would leave it in."""
    torch.manual_seed(0)
    shared, noise = torch.zeros(2, 1, 16), torch.randn(2, 9, 16)
    shared[0, 0, 0], shared[1, 0, 0] = 1000, -1000
    statistics = residual_statistics(shared + noise, shared - noise)
    assert statistics["block_influence_centred"].tolist() == pytest.approx([2, 2], abs=1e-3)


def test_massive_activations():
    x = torch.full((1, 5, 16), -0.5)
    ordinary = residual_statistics(x, x)
    assert ordinary["max_activation"].item() == 0.5
    assert ordinary["massive_activation_ratio"].item() == 1
    x[0, 0, 3] = -750
    massive = residual_statistics(x, x)
    assert massive["max_activation"].item() == 750
    assert massive["massive_activation_ratio"].item() == 1500


def test_residual_norm_is_that_after_the_layer():
    before, after = torch.ones(1, 3, 4), torch.full((1, 3, 4), 2.0)
    assert residual_statistics(before, after)["residual_norm"].item() == 4


def test_bfloat16_is_computed_in_float32():
    x = torch.randn(1, 50, 64).bfloat16()
    statistics = residual_statistics(x, x * 2)
    assert all(value.dtype == torch.float32 for value in statistics.values())
    assert statistics["block_influence"].item() == pytest.approx(0, abs=1e-6)


def test_a_stream_that_is_not_finite_stays_visible():
    x = torch.randn(1, 5, 16)
    broken = x.clone()
    broken[0, 2, 3] = math.nan
    statistics = residual_statistics(x, broken)
    assert all(value.isnan() for value in statistics.values()), statistics


def test_sequences_are_kept_apart():
    torch.manual_seed(0)
    before, after = torch.randn(2, 3, 9, 16)
    together = residual_statistics(before, after)
    for i in range(3):
        for name, value in residual_statistics(before[i : i + 1], after[i : i + 1]).items():
            assert together[name][i].item() == pytest.approx(value.item(), rel=1e-5), name


def test_effective_ranks_that_are_known():
    one_direction = torch.outer(torch.arange(1.0, 33), torch.randn(32))
    statistics = effective_rank(torch.stack([torch.eye(32), one_direction, torch.zeros(32, 32)]))
    assert statistics[:2].tolist() == pytest.approx([32, 1], rel=1e-5)
    assert statistics[2].isnan()


@pytest.mark.parametrize("shape", [(2, 20, 50), (2, 50, 20)])
def test_effective_rank_equals_its_definition(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    p = torch.linalg.svdvals(x.double())
    p = p / p.sum(-1, keepdim=True)
    assert effective_rank(x).tolist() == pytest.approx((-(p * p.log()).sum(-1)).exp().tolist(), rel=1e-5)


def test_a_massive_first_token_and_a_shared_vector_do_not_hide_the_rank():
    x = torch.randn(1, 100, 64, generator=torch.Generator().manual_seed(0))
    clean = residual_statistics(x, x)["effective_rank"].item()
    assert 50 < clean < 64
    x[0, 0, 7] = 1e5
    assert residual_statistics(x, x)["effective_rank"].item() == clean
    shared = torch.randn(64, generator=torch.Generator().manual_seed(1))
    shared = 30 * (shared - shared.mean())  # a layer norm takes a common mean away
    assert residual_statistics(x + shared, x + shared)["effective_rank"].item() == pytest.approx(clean, rel=0.05)


def test_a_token_of_huge_norm_counts_as_one():
    x = torch.randn(1, 100, 64, generator=torch.Generator().manual_seed(0))
    clean = residual_statistics(x, x)["effective_rank"].item()
    x[0, 5] *= 1e4
    assert residual_statistics(x, x)["effective_rank"].item() == pytest.approx(clean, rel=1e-3)


def test_the_rank_looks_at_the_beginning_of_long_sequences():
    x = torch.randn(1, 2 * RANK_TOKENS, 8, generator=torch.Generator().manual_seed(0))
    statistics = residual_statistics(x, x)["effective_rank"].item()
    x[0, 1 + RANK_TOKENS :] = 1
    assert residual_statistics(x, x)["effective_rank"].item() == statistics
    x[0, RANK_TOKENS] = 1
    assert residual_statistics(x, x)["effective_rank"].item() != statistics


def test_two_tokens_have_no_rank():
    x = torch.randn(1, 2, 8)
    assert residual_statistics(x, x)["effective_rank"].isnan()
