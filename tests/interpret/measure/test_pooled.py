"""Pooled attention against the dense weights, at lengths that nothing divides, and its memory."""

import math

import pytest
import torch

from gpt_lightning.errors import UserError
from gpt_lightning.interpret.measure.pooled import attention_pooled_maps, pooled_attention
from gpt_lightning.interpret.scan import attention_maps
from tests.interpret.conftest import Largest, random_tokens, sharpened_gpt


def random_qk(H: int = 3, T: int = 200, D: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    q, k = torch.randn(2, H, T, D)
    return 3 * q, k


def dense(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The full pattern in float64."""
    logits = q.double() @ k.double().mT / math.sqrt(q.size(-1))
    future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    return logits.masked_fill(future, -math.inf).softmax(-1)


def pooled_by_definition(weights: torch.Tensor, bins: int) -> tuple[torch.Tensor, torch.Tensor]:
    T = weights.size(-1)
    members = [[t for t in range(T) if i <= t * bins / T < i + 1] for i in range(bins)]
    mean, largest = torch.full((2, len(weights), bins, bins), math.nan, dtype=torch.float64)
    for i, queries in enumerate(members):
        for j, keys in enumerate(members[: i + 1]):
            cell = weights[:, queries][..., keys]
            mean[:, i, j] = cell.sum(-1).mean(-1)
            largest[:, i, j] = cell.amax((-2, -1))
    return mean, largest


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("bins", [16, 20, 33])
def test_pooling_by_blocks_equals_the_dense_definition(bins, block):
    q, k = random_qk()
    expected = pooled_by_definition(dense(q, k), bins)
    for pooled, exact in zip(pooled_attention(q, k, bins, block), expected, strict=True):
        assert pooled.shape == (3, bins, bins)
        assert pooled.dtype == torch.float32
        torch.testing.assert_close(pooled.double(), exact, atol=1e-6, rtol=1e-5, equal_nan=True)


def test_a_row_of_the_mean_is_all_of_a_querys_attention():
    mean, largest = pooled_attention(*random_qk(), bins=16)
    torch.testing.assert_close(mean.nansum(-1), torch.ones(3, 16))
    assert torch.equal(mean.isnan(), torch.ones(16, 16, dtype=torch.bool).triu(1).expand(3, -1, -1))
    assert torch.equal(largest.isnan(), mean.isnan())


def test_where_every_token_has_a_bin_it_is_the_pattern_itself():
    q, k = random_qk(T=40)
    exact = dense(q, k).float()
    for pooled in pooled_attention(q, k, bins=64, block=16):
        assert pooled.shape == (3, 40, 40)
        torch.testing.assert_close(pooled.nan_to_num(), exact, atol=1e-6, rtol=1e-5)


def test_no_tensor_is_larger_than_a_block_of_rows():
    H, T, block = 2, 1024, 32
    qk = random_qk(H, T)
    with Largest() as largest:
        pooled_attention(*qk, bins=64, block=block)
    assert 0 < largest.numel <= H * block * T


def test_autocast_and_half_precision_do_not_reach_the_weights():
    q, k = (x.bfloat16() for x in random_qk())
    expected = pooled_attention(q.float(), k.float(), bins=16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pooled_attention(q, k, bins=16)
    for one, other in zip(pooled, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_head_that_is_not_finite_does_not_touch_the_others():
    q, k = random_qk()
    expected = pooled_attention(q, k, bins=16)
    q[1, 100] = math.nan
    for pooled, exact in zip(pooled_attention(q, k, bins=16), expected, strict=True):
        assert pooled[1, 8, 0].isnan()  # of query 100
        torch.testing.assert_close(pooled[[0, 2]], exact[[0, 2]], rtol=0, atol=0, equal_nan=True)


def test_maps_of_a_network_are_its_attention_pooled():
    gpt, tokens = sharpened_gpt().train(), random_tokens(1, 70)[0]
    maps, patterns = attention_pooled_maps(gpt, tokens, bins=16), attention_maps(gpt, tokens)
    assert len(maps) == len(patterns) == 2
    for pooled, pattern in zip(maps, patterns, strict=True):
        for one, exact in zip(pooled, pooled_by_definition(pattern.double(), 16), strict=True):
            torch.testing.assert_close(one.double(), exact, atol=1e-5, rtol=1e-4, equal_nan=True)
    assert gpt.training


def test_what_cannot_be_pooled_is_refused():
    q, k = random_qk()
    for arguments, words in [
        ((q, k[:, :10]), r"\(3, 10, 8\)"),
        ((q[None], k[None]), r"\(1, 3, 200, 8\)"),
        ((q, k, 0), "bins and block"),
        ((q, k, 64, 0), "bins and block"),
    ]:
        with pytest.raises(UserError, match=words):
            pooled_attention(*arguments)
    with pytest.raises(UserError, match="vocabulary"):
        attention_pooled_maps(sharpened_gpt(), torch.tensor([1, 99]))
