"""Linear CKA against values by hand and its other form, and which rows of the residual streams it compares."""

import math

import pytest
import torch

from gpt_lightning.errors import UserError
from gpt_lightning.interpret.measure import hooks, similarity
from gpt_lightning.interpret.measure.similarity import layer_similarity, linear_cka
from tests.gpt2_oracle import copy_from_huggingface, random_huggingface_gpt2
from tests.interpret.conftest import left_as_it_was, random_tokens, sharpened_gpt


def random_pair(N: int = 40, C: int = 6, K: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Two descriptions of the same rows that share something; far from centred."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, C, generator=generator)
    y = x @ torch.randn(C, K, generator=generator) + 2 * torch.randn(N, K, generator=generator)
    return x + 3, y - 5


def cka_from_grams(x_NC: torch.Tensor, y_NC: torch.Tensor) -> float:
    """The definition by HSIC: tr(KHLH) of the Gram matrices, H the centring matrix."""
    x, y, N = x_NC.double(), y_NC.double(), len(x_NC)
    centring = torch.eye(N, dtype=torch.float64) - 1 / N

    def hsic(a, b):
        return torch.trace(a @ a.T @ centring @ b @ b.T @ centring)

    return (hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()).item()


def test_values_by_hand():
    a, b = torch.tensor([1.0, -1, 0, 0]), torch.tensor([0.0, 0, 1, -1])
    c = torch.tensor([1.0, 0, -1, 0])
    assert linear_cka(a[:, None], b[:, None]) == pytest.approx(0, abs=1e-12)
    assert linear_cka(a[:, None], c[:, None]) == pytest.approx(1 / 4)  # aᵀc = 1, both of squared length 2
    assert linear_cka(torch.stack((a, b), 1), a[:, None]) == pytest.approx(1 / math.sqrt(2))  # 2² / (√(2² + 2²)·2)


def test_the_form_from_gram_matrices():
    x, y = random_pair()
    assert 0.1 < cka_from_grams(x, y) < 0.9
    assert linear_cka(x, y) == pytest.approx(cka_from_grams(x, y), rel=1e-9)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), rel=1e-12)


def test_rotating_scaling_and_shifting_change_nothing():
    x, y = random_pair()
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).double()).Q
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, 7 * x.double() @ rotation - 2) == pytest.approx(1, abs=1e-12)
    assert linear_cka(7 * x.double() @ rotation - 2, y) == pytest.approx(linear_cka(x, y), rel=1e-9)
    stretched = x * torch.tensor([10.0, 1, 1, 1, 1, 1])
    assert linear_cka(stretched, y) != pytest.approx(linear_cka(x, y), rel=0.01)  # it isn't blind to everything


def test_unrelated_features_are_not_alike():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 20_000, 5, generator=generator)
    assert linear_cka(x, y) < 0.002


def test_large_numbers_are_computed_in_float64():
    x, y = random_pair()
    assert linear_cka(1e25 * x, y) == pytest.approx(linear_cka(x, y), rel=1e-6)  # its square overflows float32


def test_what_does_not_vary_has_no_similarity():
    x, _ = random_pair()
    assert math.isnan(linear_cka(x, torch.ones(40, 3)))
    assert math.isnan(linear_cka(x, x / 0))


@pytest.mark.parametrize(
    "shapes", [((4, 2), (5, 2)), ((4,), (4, 2)), ((1, 2), (1, 2)), ((4, 2, 1), (4, 2)), ((4, 2), (4, 2, 1))]
)
def test_other_than_matrices_of_the_same_rows_are_refused(shapes):
    with pytest.raises(UserError, match="same rows"):
        linear_cka(torch.ones(shapes[0]), torch.ones(shapes[1]))


def streams_of(theirs, tokens) -> list[torch.Tensor]:
    """The residual streams by `transformers`; all but the last, which it returns only after the final norm."""
    with torch.no_grad():
        return list(theirs(tokens, output_hidden_states=True).hidden_states[:-1])


@pytest.fixture
def theirs():
    return random_huggingface_gpt2(n_layer=3, n_head=4, d_model=8, context_length=24, vocab_size=50)


def test_similarity_equals_that_of_the_hidden_states_of_transformers(theirs):
    tokens = random_tokens(5, 24)
    cka = layer_similarity(copy_from_huggingface(theirs), tokens)
    rows = [x[:, 1:].flatten(0, 1) for x in streams_of(theirs, tokens)]
    expected = torch.tensor([[cka_from_grams(x, y) for y in rows] for x in rows])
    assert expected.min() < 0.9
    torch.testing.assert_close(cka[:3, :3], expected, atol=1e-5, rtol=0)
    assert cka.shape == (4, 4)
    assert cka.dtype == torch.float32
    assert cka.equal(cka.T)
    torch.testing.assert_close(cka.diagonal(), torch.ones(4), atol=1e-6, rtol=0)
    assert 0 < cka[3, :3].min() < cka[3, :3].max() < 1


def test_the_rows_are_spread_evenly_over_all_sequences(theirs):
    tokens = random_tokens(5, 24)
    cka = layer_similarity(copy_from_huggingface(theirs), tokens, max_rows=20)
    kept = [row * 115 // 20 for row in range(20)]  # of 5 · 23 rows
    rows = [x[:, 1:].flatten(0, 1)[kept] for x in streams_of(theirs, tokens)]
    expected = torch.tensor([[cka_from_grams(x, y) for y in rows] for x in rows])
    torch.testing.assert_close(cka[:3, :3], expected, atol=1e-5, rtol=0)
    assert (cka - layer_similarity(copy_from_huggingface(theirs), tokens)).abs().max() > 0.001


def test_a_massive_first_token_does_not_count():
    """A massive activation at position 0 alone changes nothing there; without attention, nothing anywhere."""
    gpt, tokens = sharpened_gpt(), random_tokens(4, 30)
    with torch.no_grad():
        for block in gpt.blocks:
            block.attention.output.weight.zero_()
    expected = layer_similarity(gpt, tokens)
    with torch.no_grad():
        gpt.position_embedding.weight[0, 3] = 1e5
    torch.testing.assert_close(layer_similarity(gpt, tokens), expected, atol=1e-6, rtol=0)
    assert expected[0, -1] < 0.99


@pytest.mark.parametrize("max_rows", [7, 2048])
def test_micro_batches_change_no_number(max_rows, monkeypatch):
    gpt, tokens = sharpened_gpt(), random_tokens(5, 30)
    expected = layer_similarity(gpt, tokens, max_rows)
    for most_numbers in (1, 2 * 30 * 16 * 3):
        monkeypatch.setattr(hooks, "MOST_NUMBERS", most_numbers)
        torch.testing.assert_close(layer_similarity(gpt, tokens, max_rows), expected, atol=1e-6, rtol=0)


def test_one_sequence_at_a_time_where_memory_asks_for_it(monkeypatch):
    batches, streams = [], similarity.residual_streams
    monkeypatch.setattr(similarity, "residual_streams", lambda gpt, x: batches.append(len(x)) or streams(gpt, x))
    for most_numbers in (2**24, 2 * 30 * 16 * 3, 1):
        monkeypatch.setattr(hooks, "MOST_NUMBERS", most_numbers)
        layer_similarity(sharpened_gpt(), random_tokens(5, 30))
    assert batches == [5, 2, 2, 1, 1, 1, 1, 1, 1]


def test_autocast_does_not_reach_the_similarity():
    gpt, tokens = sharpened_gpt(), random_tokens(3, 30)
    expected = layer_similarity(gpt, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer_similarity(gpt, tokens).equal(expected)


def test_the_network_is_left_as_it_was():
    gpt = sharpened_gpt(dropout=0.5).train()
    with left_as_it_was(gpt):
        assert layer_similarity(gpt, random_tokens(2, 20)).equal(layer_similarity(gpt, random_tokens(2, 20)))
    assert gpt.training


@pytest.mark.parametrize(
    ("tokens", "max_rows", "words"),
    [
        (torch.tensor([[0, 50]]), 2048, "token id 50"),
        (torch.tensor([[0, 1, 2]]), 1, "max_rows is 1 and the text has 2"),
        (torch.tensor([[0, 1]]), 2048, "the text has 1"),
    ],
)
def test_too_few_rows_or_wrong_tokens_are_refused(tokens, max_rows, words):
    with pytest.raises(UserError, match=words):
        layer_similarity(sharpened_gpt(), tokens, max_rows)
