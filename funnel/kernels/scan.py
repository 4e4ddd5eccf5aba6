"""Score every row at full precision: exact search. Arrays and numbers only.

Called by `search.py`, once for each thread, or block by block after a BLAS product.

q = queries, n = rows, d = dims, b = rows of one block, k = answers.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.jit import kernel
from funnel.kernels.rerank import dot
from funnel.kernels.types import Array


@kernel
def push(rows: Array, scores: Array, row: int, score: np.float32) -> None:
    """Insert a row into a list of the best, descending; equal scores keep their order.

    Not for scores that are not above the last one: the caller tests that.
    """
    at = len(rows) - 1
    while at > 0 and scores[at - 1] < score:
        rows[at], scores[at] = rows[at - 1], scores[at - 1]
        at -= 1
    rows[at], scores[at] = row, score


@kernel
def scan_rows(
    query: Array,
    blocks: tuple[Array, ...],
    starts: Array,
    stop: int,
    weights: Array,
    row_range: tuple[int, int],
    base: int,
    rows: Array,
    scores: Array,
) -> None:
    """Score a range of rows against one query over dims [0, stop).

    Parameters
    ----------
    query : (d,) float32
    blocks, starts : see `rerank.extend`
    weights : (n,) float32
        What each inner product is multiplied by.
    row_range : first row, and the row after the last
    base : int
        What rows are numbered from.
    rows, scores : (k,), in and out
        The best so far, descending; −1 and −inf where there are none yet.
    """
    first, last = row_range
    for row in range(first, last):
        total = np.float32(0)
        for at in range(len(blocks)):
            left, right = starts[at], min(stop, starts[at + 1])
            if left < right:
                total += dot(query[left:right], blocks[at][row][: right - left])
        score = total * weights[row - first]
        if score > scores[-1]:
            push(rows, scores, base + row, score)


@kernel
def merge_scores(products: Array, first: int, rows: Array, scores: Array) -> None:
    """Merge a block's scores into the best of every query.

    Parameters
    ----------
    products : (q, b) float32
        Scores of rows `first` to ``first + b``.
    rows, scores : (q, k), in and out
        As in `scan_rows`.
    """
    for i in range(len(products)):
        last = scores[i, -1]
        for j in range(products.shape[1]):
            if products[i, j] > last:
                push(rows[i], scores[i], first + j, products[i, j])
                last = scores[i, -1]
