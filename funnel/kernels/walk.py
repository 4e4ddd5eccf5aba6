"""Find a shortlist: a best-first walk over the graph, or a scan, both on int8 codes.

Arrays and numbers only: no I/O, no validation. Called by `kernels/funnel.py`.

n = nodes, e = entry nodes, w = bytes of a code, g = links of a node, s = `ef`.

A candidate is one int64, ``score << 33 | node << 1 | expanded``, so that the sorted
buffer compares, moves and marks it in one word (20–35 % faster than two arrays).
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.jit import LINE_BYTES, kernel, prefetch
from funnel.kernels.types import Array

NODE_BITS = 33
NODE_MASK = 0xFFFFFFFF


def code_width(dim: int) -> int:
    """Return the bytes of a code of `dim` coordinates: whole cache lines."""
    return -(-dim // LINE_BYTES) * LINE_BYTES


@kernel
def score_code(query: Array, code: Array) -> np.int32:
    """Return the inner product of two codes, whose width is a multiple of 64.

    Blocks of 64 with a known length are unrolled to a few VNNI instructions.
    """
    total = np.int32(0)
    for start in range(0, len(code), 64):
        a = query[start : start + 64]
        b = code[start : start + 64]
        for j in range(64):
            total += np.int32(a[j]) * np.int32(b[j])
    return total


@kernel
def best_entry(query: Array, entry_codes: Array) -> tuple[int, np.int32]:
    """Return the position and the score of the best entry node, by scanning them all.

    Descending from one entry point instead loses tight clusters.
    """
    best, top = 0, np.int32(-2147483648)
    for i in range(len(entry_codes)):
        score = score_code(query, entry_codes[i])
        if score > top:
            best, top = i, score
    return best, top


@kernel
def insert(best: Array, size: int, limit: int, key: np.int64) -> tuple[int, int]:
    """Insert `key` into the descending `best`; return its place and the new size.

    The place is `limit` if the key did not make it.
    """
    if size == limit:
        if key <= best[limit - 1]:
            return limit, size
        at = limit - 1
    else:
        at = size
        size += 1
    while at > 0 and best[at - 1] < key:
        best[at] = best[at - 1]
        at -= 1
    best[at] = key
    return at, size


@kernel
def unseen_links(
    links: Array, codes: Array, visited: Array, epoch: np.uint8, near: Array
) -> int:
    """Write the unvisited nodes of `links` to `near`, ask for their codes, count them.

    A link that is not a node (padding, or damage on disk) ends the list.
    """
    n, width, m = len(codes), codes.shape[1], 0
    for j in range(len(links)):
        node = links[j]
        if node < 0 or node >= n:
            break
        near[m] = node
        if visited[node] != epoch:
            visited[node] = epoch
            for byte in range(0, width, LINE_BYTES):
                prefetch(codes, node, byte)
            m += 1
    return m


@kernel
def walk(
    query: Array,
    codes: Array,
    neighbours: Array,
    entry: tuple[int, np.int32],
    ef: int,
    visited: Array,
    epoch: np.uint8,
    best: Array,
    near: Array,
) -> tuple[int, int]:
    """Walk the graph best first from `entry`, keeping the best `ef` nodes.

    Parameters
    ----------
    query : (w,) int8
    codes : (n, w) int8
    neighbours : (n, g) int32, −1 ends a list
    entry : node and its score
    ef : int
        Length of the buffer: HNSW's ``ef_search``.
    visited : (n,) uint8
        Equal to `epoch` where a node was seen.
    best : (≥ ef,) int64, out
        The kept nodes, best first, as packed keys.
    near : (≥ g,) int32, scratch

    Returns
    -------
    size, scored : int
        Nodes in `best`, nodes scored.

    References
    ----------
    Malkov & Yashunin 2018, arXiv:1603.09320, algorithm 2.
    """
    node, score = entry
    visited[node] = epoch
    best[0] = (np.int64(score) << NODE_BITS) | (np.int64(node) << 1)
    size, at, scored = 1, 0, 0
    while at < size:
        node = (best[at] >> 1) & NODE_MASK
        best[at] |= 1
        m = unseen_links(neighbours[node], codes, visited, epoch, near)
        scored += m
        lowest = at + 1
        for i in range(m):
            score = score_code(query, codes[near[i]])
            key = (np.int64(score) << NODE_BITS) | (np.int64(near[i]) << 1)
            place, size = insert(best, size, ef, key)
            lowest = min(lowest, place)
        at = lowest
        while at < size and best[at] & 1:
            at += 1
        if at < size:
            node = (best[at] >> 1) & NODE_MASK
            for byte in range(0, 4 * neighbours.shape[1], LINE_BYTES):
                prefetch(neighbours, node, byte)
    return size, scored


@kernel
def scan(query: Array, codes: Array, limit: int, best: Array) -> int:
    """Score every code and keep the best `limit`: the walk of an index without a graph.

    Parameters
    ----------
    query : (w,) int8
    codes : (n, w) int8
    limit : int
    best : (≥ limit,) int64, out
        The kept nodes, best first, as packed keys.

    Returns
    -------
    int
        Nodes in `best`.
    """
    size = 0
    for node in range(len(codes)):
        score = score_code(query, codes[node])
        key = (np.int64(score) << NODE_BITS) | (np.int64(node) << 1)
        _, size = insert(best, size, limit, key)
    return size
