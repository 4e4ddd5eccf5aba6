"""Nodes → candidate rows → answers: the two ends of a rerank. Arrays and numbers only.

Called by `kernels/gather.py` and `kernels/funnel.py`.

n = rows of a segment, k = answers.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.certify import code_error
from funnel.kernels.jit import bare, prefetch
from funnel.kernels.memory import numbers_at
from funnel.kernels.pool import NODE_BITS, NODE_MASK
from funnel.kernels.rerank import keep_largest, pack, sort_down
from funnel.kernels.segments import (
    FIRST,
    LOOSE,
    LOOSE_COUNT,
    NO_INT64,
    ROWS,
    flags_of,
    owners_of,
)
from funnel.kernels.types import Array


@bare
def ask_for_rows(best: Array, size: int, node_starts: Array, node_rows: Array) -> None:
    """Ask for the lines in which `expand` finds the rows of kept nodes."""
    for i in range(size):
        prefetch(node_starts, (best[i] >> 1) & NODE_MASK, 0)
    for i in range(size):
        start = node_starts[(best[i] >> 1) & NODE_MASK]
        prefetch(node_rows, min(max(0, start), len(node_rows)), 0)


@bare
def expand(
    best: Array,
    size: int,
    segment: Array,
    k: int,
    limit: int,
    scale: np.float32,
    rows: Array,
    scores: Array,
    errors: Array,
    codes: Array,
    tails: Array,
    error: np.float32,
    m: int,
) -> int:
    """Add the rows of a segment's kept nodes and their scores, best first, after `m`.

    Rows that are duplicates share a node; no answer needs more than `k` of them. Rows
    that may not be answers are left out, and what damage made of a row that is none.

    Parameters
    ----------
    best : (≥ size,) int64
        Nodes as the walk packs them.
    segment : a row of the segments' table
    limit : int
        Rows to add at most.
    scale : float32
        What an integer score is multiplied by.
    rows, scores, errors : int64, float32, float32, in and out
    codes, tails : (v, w) int8, (v, t) int8; no tails: (0, 0)
    error : float32
        Of a code, for `certify.code_error`; below 0 errors are not asked for.

    Returns
    -------
    int
        Rows there are now.
    """
    node_starts, node_rows = owners_of(segment)
    row_flags, n, first = flags_of(segment)[1], segment[ROWS], segment[FIRST]
    limit += m
    if len(node_starts) > 0:
        ask_for_rows(best, size, node_starts, node_rows)
    for i in range(size):
        if m == limit:
            break
        node = (best[i] >> 1) & NODE_MASK
        score = np.float32(best[i] >> NODE_BITS) * scale
        hidden = error
        if error >= 0:
            hidden = code_error(codes[node], error)
            if len(tails):
                hidden = max(hidden, code_error(tails[node], error))
        if len(node_starts) == 0:
            if node < n:
                rows[m], scores[m], errors[m] = first + node, score, hidden
                m += 1
            continue
        # Clamped first: a sum or a range that overflows is undefined.
        start = min(max(0, node_starts[node]), len(node_rows))
        stop = min(max(0, node_starts[node + 1]), len(node_rows))
        left = k
        for j in range(start, stop):
            row = node_rows[j]
            if left == 0 or m == limit:
                break
            if 0 <= row < n and (len(row_flags) == 0 or row_flags[row]):
                rows[m], scores[m], errors[m] = first + row, score, hidden
                m += 1
                left -= 1
    return m


@bare
def add_loose(segment: Array, rows: Array, scores: Array, errors: Array, m: int) -> int:
    """Add a segment's loose rows, which no code can rank; return how many there are."""
    loose = numbers_at(segment[LOOSE], segment[LOOSE_COUNT], NO_INT64)
    row_flags = flags_of(segment)[1]
    for i in range(len(loose)):
        row = loose[i]
        if 0 <= row < segment[ROWS] and (len(row_flags) == 0 or row_flags[row]):
            rows[m], scores[m], errors[m] = segment[FIRST] + row, 0, np.inf
            m += 1
    return m


@bare
def write_best(
    candidates: tuple[Array, ...],
    m: int,
    factor: np.float32,
    out_rows: Array,
    out_scores: Array,
) -> None:
    """Write the best candidates in order; equal scores keep the order they came in."""
    rows, scores, _, _, keys, _ = candidates
    pack(scores, m, keys)
    k = min(m, len(out_rows))
    keep_largest(keys, m, k)
    sort_down(keys, k)
    for i in range(k):
        at = 0x7FFFFFFF - (keys[i] & 0x7FFFFFFF)
        out_rows[i] = rows[at]
        out_scores[i] = scores[at] * factor
