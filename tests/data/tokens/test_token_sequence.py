"""Token ids in several arrays are read as one array of them would be."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt_lightning.data.tokens.token_sequence import Tokens
from tests.data.test_properties import any_of

DTYPES = st.sampled_from([np.dtype("<u2"), np.dtype("<u4")])
SHARDS = st.lists(st.tuples(st.integers(0, 12), DTYPES), min_size=1, max_size=8)
BOUNDS = st.none() | st.integers(-120, 120)


def sharded(lengths: list[int], dtypes: list | None = None) -> list[np.ndarray]:
    """Ids that tell where they are, in arrays of these lengths."""
    ids = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    return [part.astype(dtype) for part, dtype in zip(ids, dtypes or [np.uint16] * len(ids), strict=True)]


def split(shards) -> tuple[Tokens, np.ndarray]:
    """Tokens of the lengths and dtypes, and the one array that they stand for."""
    arrays = sharded([length for length, _ in shards], [dtype for _, dtype in shards])
    return Tokens(arrays), np.arange(sum(map(len, arrays)))


@any_of(400)
@given(SHARDS, BOUNDS, BOUNDS)
@example([(0, np.dtype("<u2"))], None, None)
@example([(5, np.dtype("<u2")), (0, np.dtype("<u2")), (5, np.dtype("<u2"))], 5, 3)
def test_slices_are_those_of_one_array(shards, start, stop):
    tokens, joined = split(shards)
    assert len(tokens) == len(joined)
    piece = tokens[start:stop]
    assert isinstance(piece, np.ndarray)
    assert piece.dtype == tokens.dtype
    assert piece.tolist() == joined[start:stop].tolist()


@any_of(400)
@given(SHARDS, st.integers(1, 30), st.data())
def test_windows_are_those_of_one_array(shards, length, data):
    tokens, joined = split(shards)
    length = min(length, max(1, len(joined)))
    # Of no ids there is no window, but a caller may ask for none.
    starts = st.lists(st.integers(0, max(0, len(joined) - length)), max_size=20 if len(joined) else 0)
    starts = np.array(data.draw(starts), np.int64)
    rows = tokens.windows(starts, length)
    assert rows.shape == (len(starts), length)
    assert rows.dtype == tokens.dtype
    assert rows.tolist() == (starts[:, None] + np.arange(length)).tolist()


@pytest.mark.parametrize("lengths", [[10], [4, 6]])
def test_windows_of_several_lengths(lengths):
    tokens = Tokens(sharded(lengths))
    assert tokens.windows(np.array([3]), 2).tolist() == [[3, 4]]
    assert tokens.windows(np.array([3]), 4).tolist() == [[3, 4, 5, 6]]


def test_a_window_may_span_shards_shorter_than_itself():
    tokens = Tokens(sharded([5, 1, 0, 2, 1, 6]))
    assert tokens.windows(np.array([4, 0]), 9).tolist() == [list(range(4, 13)), list(range(9))]


@pytest.mark.parametrize("starts", [[0, 8], [-1, 0], [7, 12]])
def test_a_window_outside_of_several_shards_is_refused(starts):
    """Where it would otherwise be filled up with what does not follow."""
    with pytest.raises(IndexError, match="between 0 and 7"):
        Tokens(sharded([5, 5])).windows(np.array(starts), 3)


def test_a_window_before_the_beginning_of_several_shards_is_not_counted_from_the_end():
    with pytest.raises(IndexError, match="between 0 and 7"):
        Tokens(sharded([2, 8])).windows(np.array([2, -5]), 3)


def test_a_window_past_the_end_of_one_shard_is_refused():
    with pytest.raises(IndexError):
        Tokens(sharded([10])).windows(np.array([8]), 3)


def test_the_dtype_holds_the_ids_of_every_shard():
    small, large = np.array([1, 2], np.uint16), np.array([70_000], np.uint32)
    tokens = Tokens([small, large])
    assert tokens.dtype == tokens[:1].dtype == tokens.windows(np.array([0]), 2).dtype == np.uint32
    assert tokens[:].tolist() == [1, 2, 70_000]
    assert Tokens([small, small]).dtype == Tokens([large[:0], small]).dtype == np.uint16


def test_what_lies_in_one_shard_is_not_copied():
    arrays = sharded([10, 10])
    tokens = Tokens(arrays)
    assert np.shares_memory(tokens[10:20], arrays[1])
    assert np.shares_memory(tokens[3:10], arrays[0])
    assert tokens[9:11].tolist() == [9, 10]


@pytest.mark.parametrize("lengths", [[10], [4, 6]])
def test_windows_are_copies(lengths):
    arrays = sharded(lengths)
    rows = Tokens(arrays).windows(np.array([0, 1]), 2)
    assert not any(np.shares_memory(rows, array) for array in arrays)


@pytest.mark.parametrize("where", [3, slice(None, None, 2), slice(None, None, -1), None])
def test_other_ways_of_indexing_are_refused(where):
    with pytest.raises(TypeError, match="read by slices"):
        Tokens(sharded([5, 5]))[where]


def test_tokens_are_not_taken_for_an_array_by_mistake():
    with pytest.raises(TypeError, match="read by slices"):
        list(Tokens(sharded([5, 5])))
