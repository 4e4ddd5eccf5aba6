"""Score every code, or those of a list, and keep the best. Arrays and numbers only.

What a search does where there is no graph to walk, or where few nodes may be answers;
and how a walk finds its entry. Called by `kernels/retrieve.py` and `kernels/grow.py`.

n = nodes, e = entry nodes, w = bytes of a code.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.codes import score_code
from funnel.kernels.fours import FOUR, score_listed, score_next
from funnel.kernels.jit import bare, prefetch_row
from funnel.kernels.pool import NODE_BITS, clear, insert, under
from funnel.kernels.types import Array

AHEAD = 8  # nodes of a list whose codes are on their way


@bare
def best_entry(
    query: Array, offset: np.int32, entry_codes: Array, scores: Array
) -> tuple[int, np.int32]:
    """Return the position and the score of the best entry node, by scanning them all.

    Descending from one entry point instead loses tight clusters.
    """
    best, top = 0, np.int32(-2147483648)
    whole = len(entry_codes) // FOUR * FOUR
    for first in range(0, whole, FOUR):
        score_next(query, entry_codes, first, offset, scores)
        for i in range(FOUR):
            if scores[i] > top:
                best, top = first + i, scores[i]
    for i in range(whole, len(entry_codes)):
        score = score_code(query, entry_codes[i], offset)
        if score > top:
            best, top = i, score
    return best, top


@bare
def scan(
    query: Array,
    offset: np.int32,
    codes: Array,
    passing: Array,
    limit: int,
    floor: np.int64,
    pool: Array,
    scores: Array,
) -> int:
    """Score every code and keep the best `limit`: the walk of an index without a graph.

    Parameters
    ----------
    query : (w,) int8
    offset : int32
        The query's `code_offset`.
    codes : (n, w) int8
    passing : (n,) uint8
        1 for a node that may be an answer. Empty: all may.
    limit : int
    floor : int64
        A lower score is of no use.
    pool : (≥ limit + ROOM,) int64, out
        The kept nodes from place 1 on, best first, as packed keys.
    scores : (≥ 4,) int32
        Scratch.

    Returns
    -------
    int
        Nodes in `pool`.
    """
    size, bound = 0, under(floor)
    for first in range(0, len(codes), FOUR):
        m = min(FOUR, len(codes) - first)
        if m == FOUR:
            score_next(query, codes, first, offset, scores)
            top = max(max(scores[0], scores[1]), max(scores[2], scores[3]))
            if top < bound >> NODE_BITS:
                continue
        for i in range(m):
            node = first + i
            if m < FOUR:
                scores[i] = score_code(query, codes[node], offset)
            key = (np.int64(scores[i]) << NODE_BITS) | (np.int64(node) << 1)
            if key > bound and (len(passing) == 0 or passing[node]):
                if size == 0:  # of most small segments, nothing is above the floor
                    clear(pool, limit)
                insert(pool, size, limit, key)
                size = min(size + 1, limit)
                bound = max(bound, pool[limit])
    return size


@bare
def scan_listed(
    query: Array,
    offset: np.int32,
    codes: Array,
    listed: Array,
    limit: int,
    floor: np.int64,
    pool: Array,
    near: Array,
    scores: Array,
) -> int:
    """Do as `scan` over the nodes `listed`, (m,) int32, increasing.

    Codes are asked for some nodes ahead: they do not follow each other.
    """
    clear(pool, limit)
    size, n, lowest = 0, len(codes), under(floor)
    for first in range(0, len(listed), FOUR):
        m = min(FOUR, len(listed) - first)
        for i in range(FOUR):
            ahead = listed[min(first + i + AHEAD, len(listed) - 1)]
            prefetch_row(codes, ahead)
            near[i] = min(max(listed[first + min(i, m - 1)], 0), n - 1)
        score_listed(query, codes, near, 0, offset, scores)
        for i in range(m):
            key = (np.int64(scores[i]) << NODE_BITS) | (np.int64(near[i]) << 1)
            if key > max(pool[limit], lowest) and near[i] == listed[first + i]:
                insert(pool, size, limit, key)
                size = min(size + 1, limit)
    return size
