"""Token ids in several arrays, such as memory-mapped files, read as if they were in one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def map_ids(path: Path, dtype: np.dtype, offset: int = 0) -> np.ndarray:
    """(ids,) of a file from a byte on, memory-mapped; NumPy cannot map an empty range."""
    return np.memmap(path, dtype, mode="r", offset=offset) if path.stat().st_size > offset else np.empty(0, dtype)


class Tokens:
    """Token ids in one or more arrays, the shards. What is read does not depend on where a shard ends.

    Nothing is read or copied until it is asked for, so opening takes the same time whatever the size.

    Args:
        arrays: At least one of unsigned integers, memory-mapped or not: (ids,) each, possibly of length 0.

    Attributes:
        dtype: The smallest type that holds the ids of every shard that is not empty; all that is read has it.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        # asarray: indexing a plain array is faster than indexing a memmap.
        shards = [np.asarray(array) for array in arrays]
        self._shards = [shard for shard in shards if len(shard)] or shards[:1]
        ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)
        self._begins, self._length = np.append(0, ends[:-1]), int(ends[-1])
        self.dtype = np.result_type(*self._shards)
        self._rows: dict[int, np.ndarray] = {}  # views by row length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice) -> np.ndarray:
        """The ids of a slice, with NumPy's rules; a view if they lie in one shard.

        Raises:
            TypeError: not a slice, or one with a step. Reading single ids would be slow.
        """
        if not isinstance(where, slice) or where.step not in (None, 1):
            raise TypeError(f"token ids are read by slices without a step, not by {where!r}")
        start, stop, _ = where.indices(self._length)
        pieces = self._pieces(start, max(start, stop))
        # concatenate would copy even a single piece
        return pieces[0].astype(self.dtype, copy=False) if len(pieces) == 1 else self._joined(pieces)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Rows of consecutive ids.

        Args:
            starts: (n,) int64, where each row begins, from 0 to len − `length`.
            length: The ids in a row, at least 1.

        Returns:
            (n, length), a copy.

        Raises:
            IndexError: a row does not lie within the sequence. Negative starts are noticed with several shards only.
        """
        if len(starts) == 0:
            return np.empty((0, length), self.dtype)
        if len(self._shards) == 1:
            if length not in self._rows:  # making the view takes longer than gathering a batch
                self._rows[length] = sliding_window_view(self._shards[0], length)
            return self._rows[length][starts]
        shards = np.searchsorted(self._begins, starts, side="right") - 1
        places = (starts - self._begins[shards]).tolist()
        # One slice per row. Gathering shard by shard is faster if many rows share a shard, but ten times as slow for a
        # batch of 32 from 100 shards.
        where = zip(shards.tolist(), places, strict=True)
        ids = self._joined([self._shards[shard][place : place + length] for shard, place in where])
        if ids.size < starts.size * length or min(places) < 0:  # a row reaches into another shard or out of all
            if starts.min() < 0 or starts.max() > self._length - length:
                raise IndexError(f"rows of {length} begin between 0 and {self._length - length}")
            ids = self._joined([piece for start in starts.tolist() for piece in self._pieces(start, start + length)])
        return ids.reshape(starts.size, length)

    def _pieces(self, start: int, stop: int) -> list[np.ndarray]:
        """Views of ids `start` to `stop`, one per shard and at least one; 0 ≤ `start` ≤ `stop` ≤ len."""
        first = np.searchsorted(self._begins, start, side="right") - 1
        end = max(first + 1, np.searchsorted(self._begins, stop))
        held = zip(self._begins[first:end].tolist(), self._shards[first:end], strict=True)
        return [shard[max(0, start - begin) : stop - begin] for begin, shard in held]

    def _joined(self, pieces: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(pieces, dtype=self.dtype)
