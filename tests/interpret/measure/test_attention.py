"""Attention statistics against patterns whose numbers are known, and against their definition in float64."""

import math

import pytest
import torch

from gpt_lightning.errors import UserError
from gpt_lightning.interpret.measure.attention import (
    attention_pattern,
    attention_statistics,
    entropy_floor,
    frequent_tokens,
    repeat_statistics,
)
from tests.interpret.conftest import Largest

SHARP = 1000.0  # a logit that leaves nothing for the other keys


def heads_that_look_at(keys_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v of one head whose row t puts all its mass on key keys_T[t]; values are the positions, one-hot."""
    T = len(keys_T)
    one_hot = torch.eye(T)
    q = SHARP * math.sqrt(T) * one_hot[keys_T]
    return q[None, None], one_hot[None, None], one_hot[None, None].clone()


def uniform(T: int, width: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    k, v = torch.randn(2, 1, 1, T, width)
    return torch.zeros(1, 1, T, width), k, v / v.norm(dim=-1, keepdim=True)


def random_qkv(B: int = 2, H: int = 3, T: int = 70, D: int = 8, logits: float = 4.0) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, B, H, T, D)
    return q * logits, k, v


def harmonic(T: int) -> float:
    return sum(1 / t for t in range(1, T + 1))


@pytest.mark.parametrize(("T", "mean_over_all_rows"), [(64, 3.205753), (256, 4.559599), (1024, 5.935754)])
def test_entropy_of_uniform_attention(T, mean_over_all_rows):
    statistics = attention_statistics(*uniform(T))
    # The known values divide by T rows; the metric leaves out row 0, whose entropy is 0, so its mean divides by T - 1.
    assert statistics["entropy"].item() * (T - 1) / T == pytest.approx(mean_over_all_rows, abs=1e-5)
    assert statistics["entropy"].item() == pytest.approx(math.lgamma(T + 1) / (T - 1), abs=1e-5)
    for name in ("normalized_entropy", "normalized_entropy_p10", "normalized_entropy_p90"):
        assert statistics[name].item() == pytest.approx(1, abs=1e-5)
        assert statistics[name].item() <= 1


@pytest.mark.parametrize(("T", "known"), [(8, 0.339732), (10, 0.292897), (64, 0.074123)])
def test_first_position_mass_of_uniform_attention(T, known):
    statistics = attention_statistics(*uniform(T))
    assert statistics["first_position_mass"].item() == pytest.approx(known, abs=1e-6)
    assert statistics["first_position_mass"].item() == pytest.approx(harmonic(T) / T, abs=1e-6)


def test_first_position_mass_at_64_tokens_does_not_depend_on_the_length():
    statistics = attention_statistics(*uniform(1024))
    assert statistics["first_position_mass_64"].item() == pytest.approx(0.074123, abs=1e-6)
    assert statistics["first_position_mass"].item() == pytest.approx(harmonic(1024) / 1024, abs=1e-6)


def test_identity_attention_is_no_stripe():
    statistics = attention_statistics(*heads_that_look_at(torch.arange(64)))
    assert statistics["entropy"].item() == 0
    # Column k holds one row of mass; the shortest that counts has 16 rows. Unguarded, column 63 would be 1.0.
    assert statistics["stripe"].item() == pytest.approx(1 / 16)
    assert statistics["local_mass"].item() == pytest.approx(1)
    assert statistics["previous_token"].item() == 0


def test_all_mass_on_the_first_token():
    statistics = attention_statistics(*heads_that_look_at(torch.zeros(64, dtype=torch.long)))
    expected = {"entropy": 0, "normalized_entropy_p90": 0, "first_position_mass": 1, "first_position_mass_64": 1}
    expected |= {"sink_rate": 1, "stripe": 0, "local_mass": 0}
    assert {name: statistics[name].item() for name in expected} == pytest.approx(expected)


def test_an_exact_previous_token_head():
    T = 64
    statistics = attention_statistics(*heads_that_look_at((torch.arange(T) - 1).clamp_min(0)))
    assert statistics["previous_token"].item() == 1
    assert statistics["first_position_mass"].item() == pytest.approx(2 / T)  # rows 0 and 1
    assert statistics["local_mass"].item() == 1
    assert statistics["sink_rate"].item() == 0


@pytest.mark.parametrize(("key", "fires"), [(1, True), (48, True), (49, False), (63, False)])
def test_a_stripe_needs_a_column_of_16_rows(key, fires):
    """At T = 64 the last column that counts is 64 - 16 = 48; every row that can look at `key` does."""
    rows = torch.arange(64)
    statistics = attention_statistics(*heads_that_look_at(torch.where(rows >= key, key, rows)))
    if fires:
        assert statistics["stripe"].item() == pytest.approx(1)
        assert statistics["stripe_position"].item() == key
    else:
        assert statistics["stripe"].item() < 0.3


def test_a_stripe_needs_an_eighth_of_a_long_sequence():
    rows = torch.arange(256)
    for key, fires in ((224, True), (225, False)):
        statistics = attention_statistics(*heads_that_look_at(torch.where(rows >= key, key, rows)))
        assert (statistics["stripe"].item() > 0.3) == fires


def test_a_drained_first_value_lowers_its_weighted_share():
    T = 64
    q, k, v = uniform(T)
    active = attention_statistics(q, k, v)
    # All values of one norm: weighting changes nothing.
    assert active["value_weighted_first_position_share"].item() == pytest.approx(0.074123, abs=1e-6)
    drained = v.clone()
    drained[:, :, 0] *= 0.01
    statistics = attention_statistics(q, k, drained)
    expected = sum(0.01 / (0.01 + t) for t in range(T)) / T  # row t: 0.01 on position 0, t ones behind it
    assert statistics["value_weighted_first_position_share"].item() == pytest.approx(expected, abs=1e-6)
    assert statistics["first_position_mass"].item() == pytest.approx(0.074123, abs=1e-6)
    drained[:, :, 0] = 0
    assert attention_statistics(q, k, drained)["value_weighted_first_position_share"].item() == 0


def test_local_mass_of_uniform_attention_is_its_baseline():
    statistics = attention_statistics(*uniform(64))
    expected = sum(8 / (t + 1) for t in range(8, 64)) / 56
    assert statistics["local_mass_baseline"].item() == pytest.approx(expected, abs=1e-6)
    assert statistics["local_mass"].item() == pytest.approx(expected, abs=1e-6)


def test_local_mass_counts_eight_tokens_the_query_among_them():
    rows = torch.arange(64)
    for offset, inside in ((7, 1), (8, 0)):
        statistics = attention_statistics(*heads_that_look_at((rows - offset).clamp_min(0)))
        assert statistics["local_mass"].item() == pytest.approx(inside)


def test_percentiles_show_both_modes_of_a_bimodal_head():
    q, k, v = heads_that_look_at(torch.zeros(64, dtype=torch.long))
    q[:, :, ::2] = 0  # half of the rows uniform, half on one key
    statistics = attention_statistics(q, k, v)
    assert statistics["normalized_entropy_p10"].item() == pytest.approx(0, abs=1e-6)
    assert statistics["normalized_entropy_p90"].item() == pytest.approx(1, abs=1e-6)


def test_every_metric_equals_its_definition_in_float64():
    q, k, v = random_qkv()
    B, H, T, D = q.shape
    weight_CC = torch.randn(H * D, H * D)
    logits = q.double() @ k.double().mT / math.sqrt(D)
    visible = torch.ones(T, T, dtype=torch.bool).tril()
    A = logits.masked_fill(~visible, -math.inf).softmax(-1)
    entropy = -torch.xlogy(A, A).sum(-1)
    t = torch.arange(T)
    mass = A.sum(-2) / (T - t)
    norms = v.double().norm(dim=-1)
    near = visible & (t[:, None] - t < 8)
    normalized = (entropy[..., 1:] / (t[1:] + 1.0).double().log()).quantile(torch.tensor([0.1, 0.5, 0.9]).double(), -1)
    frequent_BT = torch.rand(B, T) < 0.3
    excess = A @ frequent_BT.double()[:, None, :, None]
    excess = excess[..., 0] - (frequent_BT.cumsum(-1) / (t + 1.0))[:, None]
    peak = logits[..., visible].abs().amax(-1)
    added = torch.einsum("bhtd,chd->bhtc", A @ v.double(), weight_CC.double().view(-1, H, D))
    expected = {
        "entropy": entropy[..., 1:].mean(-1),
        "normalized_entropy_p10": normalized[0],
        "normalized_entropy": normalized[1],
        "normalized_entropy_p90": normalized[2],
        "entropy_floor": entropy_floor(peak[..., None], t[1:] + 1).mean(-1),
        "first_position_mass": A[..., 0].mean(-1),
        "first_position_mass_64": A[..., :64, 0].mean(-1),
        "sink_rate": (A[..., 0].mean(-1) > 0.3).double(),
        "value_weighted_first_position_share": (A[..., 0] * norms[..., :1] / (A @ norms[..., None])[..., 0]).mean(-1),
        "first_value_norm": norms[..., 0] / norms.mean(-1),
        "stripe": mass[..., 1 : T - 15].amax(-1),
        "stripe_position": mass[..., 1 : T - 15].argmax(-1) + 1.0,
        "local_mass": (A * near).sum(-1)[..., 8:].mean(-1),
        "local_mass_baseline": (8 / (t[8:] + 1.0)).mean().expand(B, H),
        "previous_token": A.diagonal(-1, -2, -1).mean(-1),
        "frequent_token_excess": excess[..., 1:].mean(-1),
        "max_logit": peak,
        "output_norm": added.norm(dim=-1).mean(-1),
    }
    statistics = attention_statistics(q, k, v, weight_CC, frequent_BT)
    assert statistics.keys() == expected.keys()
    for name, value in expected.items():
        assert statistics[name].shape == (B, H)
        assert statistics[name].dtype == torch.float32
        torch.testing.assert_close(statistics[name].double(), value.double(), atol=2e-5, rtol=2e-5, msg=name)


def test_output_norm_without_a_projection_is_that_of_the_mixed_values():
    q, k, v = random_qkv()
    expected = (attention_pattern(q, k) @ v).norm(dim=-1).mean(-1)
    torch.testing.assert_close(attention_statistics(q, k, v)["output_norm"], expected)


@pytest.mark.parametrize("block", [1, 7, 69, 70, 1000])
def test_the_block_of_rows_changes_no_number(block):
    qkv = random_qkv()
    expected = attention_statistics(*qkv)
    statistics = attention_statistics(*qkv, block=block)
    for name, value in expected.items():
        torch.testing.assert_close(statistics[name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_sharp_logits_give_finite_entropy():
    q, k, v = random_qkv()
    q = q.sign() * 300 / math.sqrt(q.size(-1))
    k = k.sign()
    statistics = attention_statistics(q, k, v)
    assert statistics["max_logit"].max().item() == pytest.approx(300, rel=1e-5)
    for name, value in statistics.items():
        assert value.isfinite().all(), name
        assert value.min() >= 0, name


def test_entropy_of_two_close_logits_among_huge_ones():
    """Two keys share row 1 with logits 300 and 299: the binary entropy of σ(1). A logsumexp difference loses it."""
    q = torch.tensor([0.0, 1.0])[None, None, :, None]
    k = torch.tensor([300.0, 299.0])[None, None, :, None]
    p = 1 / (1 + math.exp(-1))
    entropy = attention_statistics(q, k, torch.ones_like(k))["entropy"].item()
    assert entropy == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), abs=1e-6)


def test_bfloat16_inputs_are_computed_in_float32():
    q, k, v = random_qkv(logits=2)
    exact = attention_statistics(q, k, v)
    half = [x.bfloat16() for x in (q, k, v)]
    statistics = attention_statistics(*half)
    upcast = attention_statistics(*(x.float() for x in half))
    for name in exact:
        assert statistics[name].dtype == torch.float32
        torch.testing.assert_close(statistics[name], upcast[name], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(statistics["entropy"], exact["entropy"], atol=0.02, rtol=0)


def test_autocast_does_not_reach_the_statistics():
    q, k, v = random_qkv()
    weight_CC = torch.randn(24, 24)
    expected = attention_statistics(q, k, v, weight_CC)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        statistics = attention_statistics(q, k, v, weight_CC)
        pattern = attention_pattern(q, k)
    for name in expected:
        torch.testing.assert_close(statistics[name], expected[name], rtol=0, atol=0)
    torch.testing.assert_close(pattern, attention_pattern(q, k), rtol=0, atol=0)


def test_no_tensor_is_larger_than_a_block_of_rows():
    B, H, T, D, block = 2, 2, 1024, 8, 32
    qkv = random_qkv(B, H, T, D)
    with Largest() as largest:
        attention_statistics(*qkv, torch.randn(H * D, H * D), block=block)
    assert 0 < largest.numel <= B * H * block * T


def test_short_sequences_leave_metrics_undefined():
    undefined = {
        2: {"first_position_mass_64", "sink_rate", "stripe", "stripe_position", "local_mass", "local_mass_baseline"},
        8: {"first_position_mass_64", "sink_rate", "stripe", "stripe_position", "local_mass", "local_mass_baseline"},
        9: {"first_position_mass_64", "sink_rate", "stripe", "stripe_position"},
        16: {"first_position_mass_64", "sink_rate", "stripe", "stripe_position"},
        17: {"first_position_mass_64", "sink_rate"},
        63: {"first_position_mass_64", "sink_rate"},
        64: set(),
    }
    for T, names in undefined.items():
        statistics = attention_statistics(*random_qkv(T=T))
        assert {name for name, value in statistics.items() if not value.isfinite().all()} == names, T
        assert all(statistics[name].isnan().all() for name in names)


def test_a_head_that_is_not_finite_does_not_touch_the_others():
    q, k, v = random_qkv()
    expected = attention_statistics(q, k, v)
    q[0, 1, 5, 0] = math.nan
    statistics = attention_statistics(q, k, v)
    for name in ("entropy", "max_logit", "output_norm", "normalized_entropy", "first_position_mass", "stripe"):
        assert statistics[name][0, 1].isnan(), name
        statistics[name][0, 1] = expected[name][0, 1]
        torch.testing.assert_close(statistics[name], expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((1, 1, 4, 2), (1, 1, 5, 2), (1, 1, 4, 2)), r"\(1, 1, 5, 2\)"),
        (((1, 1, 4, 2), (1, 1, 4, 2), (1, 1, 4, 3)), r"\(1, 1, 4, 3\)"),
        (((1, 4, 2),) * 3, r"\(1, 4, 2\)"),
        (((1, 1, 1, 2),) * 3, "at least 2 tokens, not 1"),
    ],
)
def test_wrong_shapes_are_refused(shapes, words):
    with pytest.raises(UserError, match=words):
        attention_statistics(*(torch.randn(shape) for shape in shapes))


def test_a_block_of_no_rows_is_refused():
    with pytest.raises(UserError, match="block must be at least 1 row"):
        attention_statistics(*random_qkv(), block=0)


def entropy_of(logits: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(logits.double().softmax(-1)).sum(-1)


@pytest.mark.parametrize("limit", [0.1, 1, 3, 20])
@pytest.mark.parametrize("keys", [1, 2, 7, 100])
def test_no_logits_within_the_limit_have_less_entropy_than_the_floor(limit, keys):
    floor = entropy_floor(torch.tensor(limit), torch.tensor(keys)).item()
    torch.manual_seed(0)
    scattered = entropy_of((2 * torch.rand(2000, keys) - 1) * limit).min().item()
    # Some keys at the top and the others at the bottom: the worst that there is, and what the floor describes.
    extremes = entropy_of(torch.ones(keys, keys).tril() * 2 * limit - limit).min().item()
    assert floor <= min(scattered, extremes) + 1e-6
    assert floor == pytest.approx(extremes, rel=0.02, abs=1e-5)  # the number of keys at the top need not be an integer


def test_the_floor_of_no_logits_is_uniform_attention():
    assert entropy_floor(torch.tensor(0.0), torch.tensor(64)).item() == pytest.approx(math.log(64), abs=1e-4)


def test_uniform_attention_prefers_no_token():
    frequent_BT = torch.rand(1, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    statistics = attention_statistics(*uniform(64), frequent_BT=frequent_BT)
    assert statistics["frequent_token_excess"].item() == pytest.approx(0, abs=1e-6)


def test_a_head_that_looks_at_frequent_tokens_only():
    """Every fourth token is frequent, the first among them: the excess is what the three others would have got."""
    rows = torch.arange(64)
    statistics = attention_statistics(*heads_that_look_at(rows - rows % 4), frequent_BT=(rows % 4 == 0)[None])
    share = ((rows // 4 + 1) / (rows + 1))[1:].mean()
    assert statistics["frequent_token_excess"].item() == pytest.approx(1 - share.item(), abs=1e-5)


def test_the_most_frequent_tokens():
    tokens = torch.tensor([[5, 5, 5, 9, 2], [9, 7, 1, 5, 2]])
    assert frequent_tokens(tokens, types=2).tolist() == [[True, True, True, False, True], [False] * 3 + [True] * 2]
    assert frequent_tokens(tokens).all()  # no more than eight types: all of them


@pytest.mark.parametrize("bos", [0, 1])
def test_induction_and_duplicate_heads(bos):
    """Built by hand: half of the mass on the token after the earlier copy, and none, or the other half, on the copy."""
    period = 9
    t = torch.arange(bos + 2 * period)
    after, copy = (t - period + 1).clamp_min(0), (t - period).clamp_min(0)
    q, k, _ = heads_that_look_at(after)
    assert repeat_statistics(q, k, period)["induction"].item() == pytest.approx(1)
    assert repeat_statistics(q, k, period)["duplicate_token"].item() == pytest.approx(0)
    both = q + heads_that_look_at(copy)[0]
    statistics = {name: value.item() for name, value in repeat_statistics(both, k, period).items()}
    assert statistics == pytest.approx({"induction": 0.5, "duplicate_token": 0.5})


def test_repeat_statistics_equal_their_definition():
    q, k, _ = random_qkv(T=41)
    A = attention_pattern(q, k)
    statistics = repeat_statistics(q, k, period=20)
    rows = range(21, 41)
    for name, back in (("induction", 19), ("duplicate_token", 20)):
        expected = torch.stack([A[..., t, t - back] for t in rows], -1).mean(-1)
        torch.testing.assert_close(statistics[name], expected)


@pytest.mark.parametrize("period", [1, 21])
def test_a_repeat_that_does_not_fit_is_refused(period):
    q, k, _ = random_qkv(T=40)
    with pytest.raises(UserError, match=f"repeat of {period} tokens"):
        repeat_statistics(q, k, period)


def test_a_pattern_is_causal_and_sums_to_one():
    q, k, _ = random_qkv()
    pattern = attention_pattern(q, k)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 3, 70))
    assert pattern.triu(1).count_nonzero() == 0
    torch.testing.assert_close(attention_pattern(q[:, :, :12], k[:, :, :12]), pattern[..., :12, :12])
