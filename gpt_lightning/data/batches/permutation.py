"""A pseudo-random permutation of any size, computed only for the indices asked for."""

import math

import numpy as np

# Even, so that the halves end where they began. 6 rounds mix large tables; small ones, such as 5 samples, need about 12
# until all orders are equally frequent.
ROUNDS = 12


def permuted(indices: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """The images of indices under the pseudo-random permutation of 0, …, n − 1 that the keys choose.

    A Feistel network (Luby & Rackoff 1988) permutes the cells of a table with n cells or slightly more. It is the
    generalised one of Black & Rogaway 2002, Ciphers with Arbitrary Finite Domains, whose halves are row and column.
    (Halves of the bits would need up to 4n cells.) An index that lands past n goes through again until it falls inside
    (cycle walking, in the same paper). There is only integer arithmetic, so the numbers are the same everywhere.

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
    """One pass through the network, from (k,) int64 in [0, rows × columns) to (k,) in the same range."""
    # 32 bits wide, since processors multiply several such numbers at a time.
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
