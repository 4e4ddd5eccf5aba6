"""The sorted list of candidates of a walk or a scan, the pool. Arrays and numbers only.

A candidate is one int64, ``score << 33 | node << 1 | expanded``, so that the list
compares, moves and marks it in one word. Places 1 to `size` hold the candidates, best
first; place 0 is a sentinel. Called by whoever finds nodes by their codes.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.jit import HAS_AVX512, bare, inlined
from funnel.kernels.ordered import (
    KEYS,
    MERGED,
    evens,
    lowest_bit,
    merge_in,
    shift_in,
)
from funnel.kernels.types import Array

NODE_BITS = 33
NODE_MASK = 0xFFFFFFFF
LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
LOWEST_SCORE = LOWEST >> NODE_BITS
LONG = 1 << 62 if HAS_AVX512 else 8  # blocks: there keys are inserted one by one
ROOM = 1 + KEYS  # places of a pool beside those that are kept: a sentinel, a margin


@inlined
def clear(pool: Array, limit: int) -> None:
    """Make an empty pool: nothing is above the sentinel, everything above the rest."""
    pool[0] = HIGHEST
    for i in range(1, limit + ROOM):
        pool[i] = LOWEST


@inlined
def insert(pool: Array, size: int, limit: int, key: np.int64) -> int:
    """Insert `key` into a pool that holds `size` keys, descending; return its place.

    Parameters
    ----------
    pool : (limit + ROOM,) int64
        A sentinel, then the keys; made by `clear`. What falls off the end is lost.
    key : int64
        Above ``pool[limit]``.

    Returns
    -------
    int
        How many keys are above it. The pool now holds ``min(size + 1, limit)``.
    """
    at = 1 + min(size, limit - 1) // KEYS * KEYS
    stay: int = shift_in(pool, at, key)
    while stay == 0 and at > 1:
        at -= KEYS
        stay = shift_in(pool, at, key)
    return at - 1 + stay


@inlined
def insert_all(pool: Array, size: int, limit: int, keys: Array, count: int) -> int:
    """Insert the first `count` of some keys as `insert` does.

    Four at a time, in one way through the list: where the CPU's vectors hold eight keys
    that is faster always, elsewhere unless the list is long.

    Parameters
    ----------
    keys : (≥ count + 3,) int64, changed
        In any order, above ``pool[limit]``.

    Returns
    -------
    int
        The lowest place that one of them took, less one; `limit` where none did. The
        pool now holds ``min(size + count, limit)``.
    """
    lowest, blocks = limit, (min(size + count, limit) + KEYS - 1) // KEYS
    if blocks > LONG:
        for i in range(count):
            if keys[i] > pool[limit]:
                lowest = min(lowest, insert(pool, size, limit, keys[i]))
                size = min(size + 1, limit)
        return lowest
    for i in range(count, count + MERGED - 1):
        keys[i] = LOWEST
    for at in range(0, count, MERGED):
        lowest = min(lowest, merge_in(pool, blocks, keys, at))
    return lowest


@inlined
def first_open(pool: Array, size: int, at: int) -> int:
    """Return how many are above the first that is not expanded, at least `at`."""
    found = evens(pool, at + 1)
    while found == 0 and at + KEYS < size:
        at += KEYS
        found = evens(pool, at + 1)
    at += lowest_bit(found) if found else KEYS
    return min(at, size)


@inlined
def under(score: np.int64) -> np.int64:
    """Return a key below those of all nodes of a score, above those of lower scores."""
    return (max(score, np.int64(LOWEST_SCORE + 1)) << NODE_BITS) - 1


@bare
def keep_passing(pool: Array, size: int, passing: Array, limit: int) -> int:
    """Leave only nodes that may be answers in the pool, the best `limit` of them.

    Returns how many are left.
    """
    if len(passing) == 0:
        return min(size, limit)
    left = 0
    for i in range(1, size + 1):
        if left < limit and passing[(pool[i] >> 1) & NODE_MASK]:
            left += 1
            pool[left] = pool[i]
    return left
