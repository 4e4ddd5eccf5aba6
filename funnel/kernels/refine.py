"""Rank what a walk found by the rest of its code. Arrays and numbers only.

A walk scores the first dims of a code alone, which are a line or two; the rest, the
tail, is read of the few that it found best. Called by `kernels/gather.py`.

n = nodes, t = bytes of a tail.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.fours import FOUR, score_listed
from funnel.kernels.jit import bare, prefetch_row
from funnel.kernels.pool import NODE_BITS, NODE_MASK
from funnel.kernels.rerank import keep_largest, sort_down
from funnel.kernels.types import Array

REFINED = 5  # times the shortlist: so many of the best by a code's head hold it


@bare
def refine(
    query: Array,
    offset: np.int32,
    tails: Array,
    pool: Array,
    size: int,
    keep: int,
    near: Array,
    scores: Array,
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
    near, scores : (≥ 4,) int32
        Scratch.
    """
    for i in range(1, size + 1):
        prefetch_row(tails, (pool[i] >> 1) & NODE_MASK)
    for first in range(1, size + 1, FOUR):
        for i in range(FOUR):
            near[i] = (pool[min(first + i, size)] >> 1) & NODE_MASK
        score_listed(query, tails, near, 0, offset, scores)
        for i in range(min(FOUR, size + 1 - first)):
            score = (pool[first + i] >> NODE_BITS) + scores[i]
            pool[first + i] = (score << NODE_BITS) | (np.int64(near[i]) << 1)
    left, kept = min(size, keep), pool[1:]
    keep_largest(kept, size, left)
    sort_down(kept, left)
    return left
