"""Score candidates over a range of dims and keep the best. Arrays and numbers only.

No I/O, no validation. Called by `kernels/stages.py`, `kernels/gather.py` and
`kernels/scan.py`.

n = rows, c = candidates, d = dims of a query, b = dims of one column block.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.jit import LINE_BYTES, bare, widen
from funnel.kernels.memory import numbers_at, prefetch_at, prefetch_far_at
from funnel.kernels.segments import BLOCKS, FIRST, norms_at, segment_of
from funnel.kernels.types import TINY, Array

PAGE_BYTES = 4096  # the hardware's own prefetcher stops at the end of a page
HEAD_BYTES = 192  # of a page: what makes that prefetcher start


@bare
def dot(query: Array, row: Array) -> np.float32:
    """Return the inner product of two slices of equal length.

    Both are slices on purpose: ``query[j]`` over a range of the whole row does not
    vectorise, because Numba has to allow for a negative ``j``.
    """
    total = np.float32(0)
    for j in range(len(row)):
        total += query[j] * widen(row[j])
    return total


@bare
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


@bare
def find_rows(
    memory: tuple[Array, Array, Array],
    rows: Array,
    m: int,
    block: int,
    dim: int,
    places: Array,
) -> None:
    """Write the addresses at which `m` rows hold `dim`, in a column block.

    Parameters
    ----------
    memory : table, starts, like
        The segments' table; (blocks + 1,) int64, the first dim of each block, then d;
        an empty array of the vectors' dtype: float32, or uint16 that holds float16.
    places : (≥ m,) int64, out
    """
    table, starts, like = memory
    width, first = starts[block + 1] - starts[block], dim - starts[block]
    for i in range(m):
        segment = segment_of(table, rows[i])
        at = (rows[i] - segment[FIRST]) * width + first
        places[i] = segment[BLOCKS + block] + at * like.itemsize


@bare
def extend(
    query: Array,
    memory: tuple[Array, Array, Array],
    rows: Array,
    m: int,
    start: int,
    stop: int,
    dots: Array,
    places: Array,
) -> None:
    """Continue the inner products of `m` rows over dims [start, stop).

    The first lines of every page of every row are asked for before the first row is
    read, the whole of a row while the one before it is.

    Parameters
    ----------
    query : (d,) float32
    memory : see `find_rows`
    rows : (≥ m,) int64
    dots : (≥ m,) float32, added to
    places : (≥ m,) int64, scratch
    """
    _, starts, like = memory
    for block in range(len(starts) - 1):
        left, right = max(start, starts[block]), min(stop, starts[block + 1])
        if left >= right:
            continue
        part, count = query[left:right], (right - left) * like.itemsize
        find_rows(memory, rows, m, block, left, places)
        for i in range(m):
            for page in range(0, count, PAGE_BYTES):
                for byte in range(page, min(page + HEAD_BYTES, count), LINE_BYTES):
                    prefetch_at(places[i] + byte)
        for i in range(m):
            if i + 1 < m:
                for byte in range(0, count, LINE_BYTES):
                    prefetch_far_at(places[i + 1] + byte)
            dots[i] += dot(part, numbers_at(places[i], right - left, like))


@bare
def extend_with_squares(
    query: Array,
    memory: tuple[Array, Array, Array],
    rows: Array,
    m: int,
    start: int,
    stop: int,
    dots: Array,
    places: Array,
    squares: Array,
    columns: int,
) -> None:
    """Do as `extend`, and sum the squares too: for dims whose norms are not stored.

    Squares are of rows scaled to unit full norm, so that they cannot overflow. There
    are `columns` stored norms a row.
    """
    table, starts, like = memory
    for block in range(len(starts) - 1):
        left, right = max(start, starts[block]), min(stop, starts[block + 1])
        if left >= right:
            continue
        part = query[left:right]
        find_rows(memory, rows, m, block, left, places)
        for i in range(m):
            norm = norms_at(table, rows[i], columns)[columns - 1]
            scale = np.float32(1) / norm if norm > 0 else np.float32(0)
            row = numbers_at(places[i], right - left, like)
            product, square = dot_and_square(part, row, scale)
            dots[i] += product
            squares[i] += square


@bare
def renormalise(
    rows: Array,
    m: int,
    dots: Array,
    squares: Array,
    table: Array,
    columns: int,
    column: int,
    query_norm: np.float32,
    by_norm: bool,
    scores: Array,
) -> None:
    """Turn inner products over a prefix into scores; higher is better.

    Parameters
    ----------
    table : the segments' table
    columns : int
        Stored prefix norms a row; the last is the full norm.
    column : int
        Which of them is of this prefix, or −1: then they come from `squares`.
    query_norm : float32
        Norm of the query's prefix.
    by_norm : bool
        Inner product: the prefix's cosine times the row's full norm. The caller
        multiplies by the query's.
    scores : (≥ m,) float32, out
    """
    for i in range(m):
        norms = norms_at(table, rows[i], columns)
        full = norms[columns - 1]
        norm = norms[column] if column >= 0 else np.sqrt(squares[i]) * full
        below = norm * query_norm
        score = dots[i] / below if below >= TINY else np.float32(0)
        scores[i] = score * full if by_norm else score


@bare
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


@bare
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


@bare
def sort_down(keys: Array, count: int) -> None:
    """Sort the first `count` keys, the largest first.

    Shell's sort (Shell 1959; its gaps are Ciura's, 2001): NumPy's, as Numba compiles
    it, makes lists of its own.
    """
    for gap in (1750, 701, 301, 132, 57, 23, 10, 4, 1):
        for i in range(gap, count):
            key, j = keys[i], i
            while j >= gap and keys[j - gap] < key:
                keys[j] = keys[j - gap]
                j -= gap
            keys[j] = key


@bare
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
