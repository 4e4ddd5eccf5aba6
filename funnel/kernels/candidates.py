"""Nodes → candidate rows → answers: the two ends of a rerank. Arrays and numbers only.

Called by `kernels/funnel.py`.

n = rows, k = answers.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.jit import kernel
from funnel.kernels.rerank import keep_largest, pack
from funnel.kernels.types import Array
from funnel.kernels.walk import NODE_BITS, NODE_MASK


@kernel
def expand(
    best: Array,
    size: int,
    graph: tuple[Array, ...],
    k: int,
    n: int,
    rows: Array,
    scores: Array,
) -> int:
    """Write the rows of the kept nodes and their integer scores, best first.

    Rows that are duplicates share a node; no answer needs more than `k` of them. Loose
    rows, which no code can rank, follow. What damage made of a row that is none of the
    `n` is left out.

    Returns
    -------
    int
        Rows written: at most as many as `rows` holds.
    """
    node_starts, node_rows, loose = graph[4:]
    m, limit = 0, len(rows) - len(loose)
    for i in range(size):
        if m == limit:
            break
        node = (best[i] >> 1) & NODE_MASK
        score = np.float32(best[i] >> NODE_BITS)
        if len(node_starts) == 0:
            rows[m], scores[m] = node, score
            m += 1
            continue
        # Clamped first: a sum or a range that overflows is undefined.
        start = min(max(0, node_starts[node]), len(node_rows))
        stop = min(max(0, node_starts[node + 1]), len(node_rows))
        stop = min(stop, start + k, start + limit - m)
        for j in range(start, stop):
            row = node_rows[j]
            if 0 <= row < n:
                rows[m], scores[m] = row, score
                m += 1
    for i in range(len(loose)):
        if 0 <= loose[i] < n:
            rows[m], scores[m] = loose[i], 0
            m += 1
    return m


@kernel
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
    keys[:k].sort()
    for i in range(k):
        at = 0x7FFFFFFF - (keys[k - 1 - i] & 0x7FFFFFFF)
        out_rows[i] = rows[at]
        out_scores[i] = scores[at] * factor
