"""Token ids that lie in several arrays, one after the other, read as if they lay in one."""

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class Tokens:
    """Token ids in one or several arrays, the shards. What is read does not depend on where one ends.

    Nothing is read or copied before it is asked for, so opening takes the same time whatever the size.

    Args:
        arrays: At least one, of unsigned integers, memory-mapped or not: (ids,) each, possibly of length 0.

    Attributes:
        dtype: Of what is read: the smallest that holds the ids of every shard that has any.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        # asarray: indexing a plain array is faster than indexing a memmap.
        shards = [np.asarray(array) for array in arrays]
        self._shards = [shard for shard in shards if len(shard)] or shards[:1]
        ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)
        self._begins, self._length = np.append(0, ends[:-1]), int(ends[-1])
        self.dtype = np.result_type(*self._shards)
        self._rows: dict[int, np.ndarray] = {}  # views, by the length of a row

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice) -> np.ndarray:
        """The ids of a slice without a step, as NumPy understands it: a view of one shard where no other is needed.

        Raises:
            TypeError: it is no slice, or has a step. Ids one by one would be slow.
        """
        if not isinstance(where, slice) or where.step not in (None, 1):
            raise TypeError(f"token ids are read by slices without a step, not by {where!r}")
        start, stop, _ = where.indices(self._length)
        pieces = self._pieces(start, max(start, stop))
        # Of one piece concatenate would make a copy.
        return pieces[0].astype(self.dtype, copy=False) if len(pieces) == 1 else self._joined(pieces)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Rows of consecutive ids.

        Args:
            starts: (n,) int64, where each row begins, from 0 to len − `length`.
            length: Of a row, at least 1.

        Returns:
            (n, length), a copy.

        Raises:
            IndexError: with several shards, a row does not lie within the sequence.
        """
        if len(starts) == 0:
            return np.empty((0, length), self.dtype)
        if len(self._shards) == 1:
            if length not in self._rows:  # making the view takes longer than gathering a batch
                self._rows[length] = sliding_window_view(self._shards[0], length)
            return self._rows[length][starts]
        shards = np.searchsorted(self._begins, starts, side="right") - 1
        places = (starts - self._begins[shards]).tolist()
        # A slice for each row. Gathering the rows of one shard at a time is faster if many of them share a shard, but
        # takes ten times as long for a batch of 32 from 100 shards.
        cut = zip(shards.tolist(), places, strict=True)
        ids = self._joined([self._shards[shard][place : place + length] for shard, place in cut])
        if ids.size < starts.size * length or min(places) < 0:  # some rows end in the next shard, or begin nowhere
            if starts.min() < 0 or starts.max() > self._length - length:
                raise IndexError(f"rows of {length} begin between 0 and {self._length - length}")
            ids = self._joined([piece for start in starts.tolist() for piece in self._pieces(start, start + length)])
        return ids.reshape(starts.size, length)

    def _pieces(self, start: int, stop: int) -> list[np.ndarray]:
        """The parts of the shards that ids `start` to `stop` lie in, at least one; 0 ≤ `start` ≤ `stop` ≤ len."""
        first = np.searchsorted(self._begins, start, side="right") - 1
        end = max(first + 1, np.searchsorted(self._begins, stop))
        held = zip(self._begins[first:end].tolist(), self._shards[first:end], strict=True)
        return [shard[max(0, start - begin) : stop - begin] for begin, shard in held]

    def _joined(self, pieces: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(pieces, dtype=self.dtype)
