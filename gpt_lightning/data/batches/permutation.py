"""A permutation of any size, computed for the indices that are asked for alone: nothing is made or kept of the rest."""

import math

import numpy as np

# Even, so that the halves end where they began. 6 mix large tables; small ones, such as of 5 samples, take about 12
# until all orders are equally frequent.
ROUNDS = 12


def permuted(indices: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Where a pseudo-random permutation of 0, …, n − 1, which the keys choose, takes the indices.

    A Feistel network (Luby & Rackoff 1988) permutes the cells of a table that has n or barely more of them: the
    generalised one of Black & Rogaway 2002, Ciphers with Arbitrary Finite Domains, whose halves are row and column.
    (Halves of the bits would need up to 4n cells.) An index that it takes past n goes through it again until it falls
    inside (cycle walking, in the same paper). Integer arithmetic only: the same numbers everywhere.

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
    """One pass through the network: (k,) int64 in [0, rows × columns) to as many in the same range."""
    # 32 bits wide, since processors multiply several of those at a time.
    left, right = (half.astype(np.uint32) for half in np.divmod(numbers, columns))
    sizes = rows, columns
    for key in keys:
        # Murmur3's finaliser (Appleby 2011): each bit of the input flips half of the bits of the output.
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
