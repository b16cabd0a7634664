"""A permutation of any size evaluated where it is asked for, so that nothing has to be made or kept of the rest."""

import math

import numpy as np

# Even, so that the halves end where they began. 6 mix large tables; the orders of 5 samples, say, need about 12 to come
# equally often.
ROUNDS = 12


def permuted(indices: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Where a pseudo-random permutation of 0, …, n − 1 takes the indices; it is the keys that choose which.

    A Feistel network (Luby & Rackoff 1988) permutes the cells of a table that has n or barely more of them: the
    generalised one of Black & Rogaway 2002, Ciphers with Arbitrary Finite Domains, whose halves are row and column.
    Bits for halves would make up to 4n. What it takes past n goes through it again until it falls inside (cycle
    walking, in the same paper). Integer arithmetic only: the same numbers everywhere.

    Args:
        indices: (k,) integers in [0, n).
        n: 1 to 2^60.
        keys: (rounds,) uint32, an even number of them.

    Returns:
        (k,) int64 in [0, n).
    """
    columns = math.isqrt(n - 1) + 1  # the square root, rounded up
    rows = -(-n // columns)
    result = _feistel(np.asarray(indices, np.int64), rows, columns, keys)
    outside = np.flatnonzero(result >= n)
    while len(outside):
        again = _feistel(result[outside], rows, columns, keys)
        result[outside] = again
        outside = outside[again >= n]
    return result


def _feistel(numbers: np.ndarray, rows: int, columns: int, keys: np.ndarray) -> np.ndarray:
    """(k,) int64 in [0, rows × columns), to the same."""
    # Of 32 bits, since processors multiply several of those at a time.
    left, right = (half.astype(np.uint32) for half in np.divmod(numbers, columns))
    sizes = rows, columns
    for key in keys:
        # Murmur3's finaliser (Appleby 2011): each bit of what goes in turns half of those that come out.
        mixed = right ^ key
        mixed ^= mixed >> 16
        mixed *= 0x85EBCA6B
        mixed ^= mixed >> 13
        mixed *= 0xC2B2AE35
        mixed ^= mixed >> 16
        mixed >>= 1  # so that the sum does not overflow
        mixed += left
        mixed %= sizes[0]
        left, right, sizes = right, mixed, sizes[::-1]
    return left.astype(np.int64) * columns + right
