"""Score candidates over a range of dims and keep the best. Arrays and numbers only.

No I/O, no validation. Called by `kernels/funnel.py` and `kernels/scan.py`.

n = rows, c = candidates, d = dims of a query, b = dims of one column block.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.jit import LINE_BYTES, kernel, prefetch, prefetch_far, widen
from funnel.kernels.types import TINY, Array

PAGE_BYTES = 4096  # the hardware's own prefetcher stops at the end of a page
HEAD_BYTES = 192  # of a page: what makes that prefetcher start


@kernel
def dot(query: Array, row: Array) -> np.float32:
    """Return the inner product of two slices of equal length.

    Both are slices on purpose: ``query[j]`` over a range of the whole row does not
    vectorise, because Numba has to allow for a negative ``j``.
    """
    total = np.float32(0)
    for j in range(len(row)):
        total += query[j] * widen(row[j])
    return total


@kernel
def dot_and_square(
    query: Array, row: Array, scale: np.float32
) -> tuple[np.float32, np.float32]:
    """Return the inner product, and the squared norm of ``scale * row``."""
    total, square = np.float32(0), np.float32(0)
    for j in range(len(row)):
        x = widen(row[j])
        total += query[j] * x
        square += (scale * x) * (scale * x)
    return total, square


@kernel
def extend(
    query: Array,
    blocks: tuple[Array, ...],
    starts: Array,
    rows: Array,
    m: int,
    start: int,
    stop: int,
    dots: Array,
) -> None:
    """Continue the inner products of `m` rows over dims [start, stop).

    The first lines of every page of every row are asked for before the first row is
    read, the whole of a row while the one before it is.

    Parameters
    ----------
    query : (d,) float32
    blocks : column blocks, each (n, b) float32, or uint16 that holds float16
    starts : (blocks + 1,) int64
        First dim of each block, then d.
    rows : (≥ m,) int64
    dots : (≥ m,) float32, added to
    """
    for at in range(len(blocks)):
        left, right = max(start, starts[at]), min(stop, starts[at + 1])
        if left >= right:
            continue
        block = blocks[at]
        part = query[left:right]
        low, high = left - starts[at], right - starts[at]
        first, last = low * block.itemsize, high * block.itemsize
        for i in range(m):
            for page in range(first, last, PAGE_BYTES):
                for byte in range(page, min(page + HEAD_BYTES, last), LINE_BYTES):
                    prefetch(block, rows[i], byte)
        for i in range(m):
            if i + 1 < m:
                for byte in range(first, last, LINE_BYTES):
                    prefetch_far(block, rows[i + 1], byte)
            dots[i] += dot(part, block[rows[i]][low:high])


@kernel
def extend_with_squares(
    query: Array,
    blocks: tuple[Array, ...],
    starts: Array,
    rows: Array,
    m: int,
    start: int,
    stop: int,
    dots: Array,
    squares: Array,
    norms: Array,
) -> None:
    """Do as `extend`, and sum the squares too: for dims whose norms are not stored.

    Squares are of rows scaled to unit full norm, so that they cannot overflow.
    """
    full = norms.shape[1] - 1
    for at in range(len(blocks)):
        left, right = max(start, starts[at]), min(stop, starts[at + 1])
        if left >= right:
            continue
        part = query[left:right]
        low, high = left - starts[at], right - starts[at]
        for i in range(m):
            norm = norms[rows[i], full]
            scale = np.float32(1) / norm if norm > 0 else np.float32(0)
            row = blocks[at][rows[i]][low:high]
            product, square = dot_and_square(part, row, scale)
            dots[i] += product
            squares[i] += square


@kernel
def renormalise(
    rows: Array,
    m: int,
    dots: Array,
    squares: Array,
    norms: Array,
    column: int,
    query_norm: np.float32,
    by_norm: bool,
    scores: Array,
) -> None:
    """Turn inner products over a prefix into scores; higher is better.

    Parameters
    ----------
    norms : (n, columns) float32
        Stored prefix norms; the last column is the full norm.
    column : int
        Where the norms of this prefix are, or −1: then they come from `squares`.
    query_norm : float32
        Norm of the query's prefix.
    by_norm : bool
        Inner product: the prefix's cosine times the row's full norm. The caller
        multiplies by the query's.
    scores : (≥ m,) float32, out
    """
    full = norms.shape[1] - 1
    for i in range(m):
        if column >= 0:
            norm = norms[rows[i], column]
        else:
            norm = np.sqrt(squares[i]) * norms[rows[i], full]
        below = norm * query_norm
        score = dots[i] / below if below >= TINY else np.float32(0)
        scores[i] = score * norms[rows[i], full] if by_norm else score


@kernel
def pack(scores: Array, m: int, keys: Array) -> None:
    """Make int64 keys that sort as the scores do, equal scores by their place.

    A float's bits order like an integer's once those of negative numbers are flipped.
    """
    bits = scores.view(np.int32)
    for i in range(m):
        b = np.int64(bits[i])
        if b < 0:
            b = b ^ np.int64(0x7FFFFFFF)
        keys[i] = (b << 32) | np.int64(0x7FFFFFFF - i)


@kernel
def keep_largest(keys: Array, m: int, keep: int) -> None:
    """Move the `keep` largest of the first `m` keys to the front, in any order.

    Hoare's quickselect: a partition at a time, on average about 3 m steps.
    """
    low, high = 0, m - 1
    while low < high:
        pivot, i, j = keys[(low + high) >> 1], low, high
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if keep - 1 <= j:
            high = j
        elif keep - 1 >= i:
            low = i
        else:
            break


@kernel
def select(
    keys: Array,
    m: int,
    keep: int,
    rows: Array,
    dots: Array,
    squares: Array,
    scores: Array,
    spare: Array,
) -> int:
    """Keep the `keep` best candidates, in the order they had; return how many are left.

    Parameters
    ----------
    keys, rows, dots, squares, scores : (≥ m,)
        The candidates; all but `keys` are compacted in place.
    spare : (≥ m,) bool, scratch
    """
    if m <= keep:
        return m
    keep_largest(keys, m, keep)
    spare[:m] = False
    for i in range(keep):
        spare[0x7FFFFFFF - (keys[i] & 0x7FFFFFFF)] = True
    left = 0
    for i in range(m):
        if spare[i]:
            rows[left], dots[left] = rows[i], dots[i]
            squares[left], scores[left] = squares[i], scores[i]
            left += 1
    return left
