"""The permutation that stands for a shuffle of the samples. Seeds are fixed, so that no test fails by chance."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_lightning.data.batches.permutation import ROUNDS, permuted
from tests.data.test_properties import any_of


def keys(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1 << 32, size=ROUNDS, dtype=np.uint32)


def permutation(n: int, seed: int) -> np.ndarray:
    return permuted(np.arange(n), n, keys(seed))


def chi_square(counts: np.ndarray) -> float:
    """In standard deviations from what chance makes of equally likely outcomes."""
    expected, degrees = counts.mean(), counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - degrees) / (2 * degrees) ** 0.5


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 66, 127, 251, 4095, 4096, 4097, 10007, 10**5 + 3])
def test_each_number_comes_once(n):
    for seed in range(3):
        order = permutation(n, seed)
        assert order.dtype == np.int64
        assert (np.sort(order) == np.arange(n)).all()


@any_of(200)
@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_each_number_comes_once_whatever_the_size(n, seed):
    assert (np.sort(permutation(n, seed)) == np.arange(n)).all()


@pytest.mark.parametrize("n", [97_656_249, 2**32 - 1, 2**32, 2**32 + 1, 2**60 - 1, 2**60])
def test_large_ones_stay_in_range_and_do_not_repeat(n):
    places = np.concatenate([np.arange(50_000), n - 1 - np.arange(50_000)])
    order = permuted(places, n, keys(0))
    assert order.min() >= 0
    assert order.max() < n
    assert len(np.unique(order)) == len(places)
    # They fill the range.
    assert abs(chi_square(np.histogram(order / n, 64, (0, 1))[0])) < 4


def test_numbers_do_not_depend_on_what_else_is_asked_for():
    order = permutation(10007, 0)
    places = np.random.default_rng(0).integers(10007, size=1000)
    assert (permuted(places, 10007, keys(0)) == order[places]).all()
    assert permuted(np.array([], np.int64), 10007, keys(0)).tolist() == []


def one_by_one(index: int, n: int, keys: list[int]) -> int:
    """The same in Python's integers, which are the same on every platform."""
    columns = math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    while True:
        left, right = divmod(index, columns)
        for round_number, key in enumerate(keys):
            mixed = right ^ key
            mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B % 2**32
            mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 % 2**32
            mixed = (mixed ^ mixed >> 16) // 2
            left, right = right, (left + mixed) % (columns if round_number % 2 else rows)
        index = left * columns + right
        if index < n:
            return index


@pytest.mark.parametrize("n", [1, 2, 3, 66, 10007, 97_656_249, 2**32 + 1, 2**60])
def test_it_is_what_integer_arithmetic_says(n):
    places = np.unique(np.linspace(0, n - 1, 200).astype(np.int64).clip(0, n - 1))
    expected = [one_by_one(place, n, keys(1).tolist()) for place in places.tolist()]
    assert permuted(places, n, keys(1)).tolist() == expected


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_all_orders_of_a_few_come_about_equally_often(n):
    orders = list(itertools.permutations(range(n)))
    counts = Counter(tuple(permutation(n, seed).tolist()) for seed in range(10 * len(orders)))
    assert chi_square(np.array([counts[order] for order in orders])) < 5


@pytest.mark.parametrize("n", [64, 1000, 2**16, 2**16 + 1, 10**5 + 3])
@pytest.mark.parametrize("seed", range(3))
def test_where_a_number_goes_does_not_show_where_it_came_from(n, seed):
    order = permutation(n, seed)
    bins = 8 if n < 1000 else 16
    counts = np.zeros((bins, bins))
    np.add.at(counts, (np.arange(n) * bins // n, order * bins // n), 1)
    assert abs(chi_square(counts)) < 4
    lowest = np.zeros((8, 8))
    np.add.at(lowest, (np.arange(n) % 8, order % 8), 1)
    assert abs(chi_square(lowest)) < 4
    assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 4 / n**0.5


@pytest.mark.parametrize("n", [1000, 2**16, 2**16 + 1, 10**5 + 3])
@pytest.mark.parametrize("seed", range(3))
def test_neighbours_part(n, seed):
    """A shuffle leaves 2 pairs of neighbours on average, with a Poisson distribution, at every distance."""
    order = permutation(n, seed)
    for distance in (1, 2, 16, int(n**0.5), int(n**0.5) + 1):
        steps = order[distance:] - order[:-distance]
        assert (np.abs(steps) == 1).sum() <= 10
        # No difference is frequent: a lattice would have one for all.
        assert Counter(steps.tolist()).most_common(1)[0][1] <= 14
        assert abs(np.corrcoef(order[distance:], order[:-distance])[0, 1]) < 4.5 / n**0.5


def test_other_keys_make_another_order():
    orders = [permutation(10007, seed) for seed in range(20)]
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).sum() <= 10  # of two shuffles 1 on average
        assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / 10007**0.5
