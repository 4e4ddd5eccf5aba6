"""Rank what a walk found by the rest of its code. Arrays and numbers only.

A walk scores the first dims of a code alone, which are a line or two; the rest, the
tail, is read of the few that it found best. Called by `kernels/gather.py`.

n = nodes, t = bytes of a tail.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.fours import FOUR, score_listed
from funnel.kernels.jit import LINE_BYTES, kernel, prefetch
from funnel.kernels.pool import NODE_BITS, NODE_MASK
from funnel.kernels.rerank import keep_largest
from funnel.kernels.types import Array

REFINED = 5  # times the shortlist: so many of the best by a code's head hold it


@kernel
def refine(
    query: Array, offset: np.int32, tails: Array, pool: Array, size: int, keep: int
) -> int:
    """Add the scores of tails to a pool's, keep the best; return how many are left.

    Parameters
    ----------
    query : (t,) int8
        The tail of the query's code.
    offset : int32
        Its `code_offset`.
    tails : (n, t) int8
    pool : (> size,) int64, in and out
        Nodes from place 1 on, as `walk` packs them; they come out best first.
    """
    near, scores = np.empty(FOUR, np.int32), np.empty(FOUR, np.int32)
    for i in range(1, size + 1):
        for byte in range(0, len(query), LINE_BYTES):
            prefetch(tails, (pool[i] >> 1) & NODE_MASK, byte)
    for first in range(1, size + 1, FOUR):
        for i in range(FOUR):
            near[i] = (pool[min(first + i, size)] >> 1) & NODE_MASK
        score_listed(query, tails, near, 0, offset, scores)
        for i in range(min(FOUR, size + 1 - first)):
            score = (pool[first + i] >> NODE_BITS) + scores[i]
            pool[first + i] = (score << NODE_BITS) | (np.int64(near[i]) << 1)
    left, kept = min(size, keep), pool[1:]
    keep_largest(kept, size, left)
    best = kept[:left]
    best.sort()
    for i in range(left // 2):
        best[i], best[left - 1 - i] = best[left - 1 - i], best[i]
    return left
