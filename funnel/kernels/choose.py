"""Choose the best of many scores without sorting them. Arrays and numbers only.

By vectors of sixteen: what is written out are those that reach a threshold. Called by
`kernels/cells.py` and `kernels/cluster.py`.

c = cells.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.jit import kernel
from funnel.kernels.tiles import LANES, bits_from, count_from, greatest, lowest_bit
from funnel.kernels.types import Array

LOWEST_RAW = -(1 << 31)


@kernel
def threshold(scores: Array, least: int, most: int) -> int:
    """Return a number that at least `least` scores reach, and at most `most` if it may.

    It may not where more are equal: then it is the largest that `least` reach. Steps
    away from the greatest score, then halves: each look at all scores is a few vectors.

    Parameters
    ----------
    scores : (a multiple of 16,) int32
    least : int
        At most as many as there are.
    """
    high = int(greatest(scores))
    low, step = high, 1 << 8
    found = count_from(scores, np.int32(low))
    while found < least:
        high = low - 1
        low = max(low - step, LOWEST_RAW)
        step <<= 1
        found = count_from(scores, np.int32(low))
    while found > most and low < high:
        middle = low + (high - low + 1) // 2
        here = count_from(scores, np.int32(middle))
        if here >= least:
            low, found = middle, here
        else:
            high = middle - 1
    return low


@kernel
def write_from(scores: Array, low: int, most: int, cells: Array, found: Array) -> int:
    """Write the cells that score at least `low`, and their scores, in their order.

    Of those that score `low` itself, only as many as there is room for: `most` in all.
    Returns how many there are.
    """
    left = most - count_from(scores, np.int32(low + 1))
    count = 0
    for at in range(0, len(scores), LANES):
        bits = bits_from(scores, at, np.int32(low))
        while bits != 0:
            cell = at + lowest_bit(bits)
            bits &= bits - 1
            score = scores[cell]
            if score > low or left > 0:
                left -= int(score == low)
                cells[count], found[count] = cell, score
                count += 1
    return count


@kernel
def put_first(cells: Array, found: Array, count: int, low: int) -> int:
    """Move the cells that score at least `low` to the front; return how many."""
    near = 0
    for i in range(count):
        if found[i] >= low:
            cells[near], cells[i] = cells[i], cells[near]
            found[near], found[i] = found[i], found[near]
            near += 1
    return near


@kernel
def choose_cells(
    scores: Array, wanted: int, near: int, out: Array, found: Array
) -> int:
    """Write the `wanted` cells of the best centres, about `near` of the best first.

    Parameters
    ----------
    scores : (c,) int32
        Of the centres; c is a multiple of 16.
    wanted : int
        From 1 to c.
    near : int
        At least 1.
    out : (≥ wanted,) int32, out
        Among equal centres the lower cells are taken.
    found : (≥ wanted + 16,) int32, scratch

    Returns
    -------
    int
        How many come first.
    """
    low = threshold(scores, wanted, wanted)
    count = write_from(scores, low, wanted, out, found)
    if count <= near:
        return count
    padded = -(-count // LANES) * LANES
    found[count:padded] = LOWEST_RAW
    return put_first(out, found, count, threshold(found[:padded], near, 2 * near))
