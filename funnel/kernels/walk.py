"""Find a shortlist: a best-first walk over the graph, or a scan, both on int8 codes.

Arrays and numbers only: no I/O, no validation. Called by `kernels/gather.py`.

n = nodes, e = entry nodes, w = bytes of a code, g = links of a node.

A candidate is one int64, ``score << 33 | node << 1 | expanded``, so that the sorted
list of candidates, the pool, compares, moves and marks it in one word.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from funnel.kernels.codes import score_code
from funnel.kernels.fours import FOUR, score_listed, score_next
from funnel.kernels.jit import LINE_BYTES, inlined, kernel, prefetch
from funnel.kernels.lanes import KEYS, shift_in
from funnel.kernels.types import Array

NODE_BITS = 33
NODE_MASK = 0xFFFFFFFF
LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
LOWEST_SCORE = LOWEST >> NODE_BITS
Stop: TypeAlias = tuple[int, int, float, float, int, np.int64, int]
AHEAD = 8  # nodes of a list whose codes are on their way
ROOM = 1 + KEYS  # places of a pool beside those that are kept: a sentinel, a margin


@kernel
def best_entry(
    query: Array, offset: np.int32, entry_codes: Array
) -> tuple[int, np.int32]:
    """Return the position and the score of the best entry node, by scanning them all.

    Descending from one entry point instead loses tight clusters.
    """
    best, top, scores = 0, np.int32(-2147483648), np.empty(FOUR, np.int32)
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


@kernel
def clear(pool: Array, limit: int) -> None:
    """Make an empty pool: nothing is above the sentinel, everything above the rest."""
    pool[0] = HIGHEST
    for i in range(1, limit + ROOM):
        pool[i] = LOWEST


@inlined
def insert(pool: Array, size: int, limit: int, key: np.int64) -> int:
    """Insert `key` into a pool that holds `size` keys, descending; return its place.

    Parameters
    ----------
    pool : (limit + ROOM,) int64
        A sentinel, then the keys; made by `clear`. What falls off the end is lost.
    key : int64
        Above ``pool[limit]``.

    Returns
    -------
    int
        How many keys are above it. The pool now holds ``min(size + 1, limit)``.
    """
    at = 1 + min(size, limit - 1) // KEYS * KEYS
    stay: int = shift_in(pool, at, key)
    while stay == 0 and at > 1:
        at -= KEYS
        stay = shift_in(pool, at, key)
    return at - 1 + stay


@inlined
def unseen_links(
    links: Array, codes: Array, visited: Array, epoch: np.uint8, near: Array
) -> int:
    """Write the unvisited nodes of `links` to `near`, ask for their codes, count them.

    A link that is not a node (padding, or damage on disk) ends the list. No branch
    hangs on what was visited: it could not be foreseen. The last one is repeated until
    a multiple of four is full: `near` has room for that.
    """
    n, width, m = len(codes), codes.shape[1], 0
    for j in range(len(links)):
        node = links[j]
        if node < 0 or node >= n:
            break
        near[m] = node
        m += int(visited[node] != epoch)
        visited[node] = epoch
    for i in range(m):
        for byte in range(0, width, LINE_BYTES):
            prefetch(codes, near[i], byte)
    for i in range(m, -(-m // FOUR) * FOUR):
        near[i] = near[m - 1]
    return m


@inlined
def under(score: np.int64) -> np.int64:
    """Return a key below those of all nodes of a score, above those of lower scores."""
    return (max(score, np.int64(LOWEST_SCORE + 1)) << NODE_BITS) - 1


@inlined
def horizon(pool: Array, at: int, stop: Stop) -> np.int64:
    """Return the lowest score that is near enough to be expanded.

    That is ``1 + slack`` times as far as the node of rank `rank`, as distances go that
    fall from `top` with the score (1 − cosine); or `floor`, once the best `guard` of
    the pool, of which the best `at` have been, are expanded.
    """
    rank, _, top, slack, _, floor, guard = stop
    if slack < 0:
        return floor if at >= guard else np.int64(LOWEST_SCORE)
    far = (1 + slack) * (top - (pool[rank] >> NODE_BITS))
    lowest = np.int64(np.ceil(max(top - far, LOWEST_SCORE)))
    return max(lowest, floor) if at >= guard else lowest


@inlined
def absorb(
    query: Array,
    offset: np.int32,
    codes: Array,
    neighbours: Array,
    near: Array,
    m: int,
    bound: np.int64,
    pool: Array,
    size: int,
    ef: int,
    keys: Array,
    scores: Array,
) -> tuple[int, int]:
    """Score the first `m` of `near`, keep the best of those above `bound` in the pool.

    Returns
    -------
    size, lowest : int
        Nodes in the pool now, and the lowest place that one of `near` took.
    """
    fresh, bound = 0, max(bound, pool[ef])
    for i in range(0, m, FOUR):
        score_listed(query, codes, near, i, offset, scores)
    for i in range(m):
        keys[fresh] = (np.int64(scores[i]) << NODE_BITS) | (np.int64(near[i]) << 1)
        fresh += int(keys[fresh] > bound)
    lowest = ef
    for i in range(fresh):
        if keys[i] > pool[ef]:
            # Whoever is kept is likely to be expanded: its links take longest.
            for byte in range(0, 4 * neighbours.shape[1], LINE_BYTES):
                prefetch(neighbours, (keys[i] >> 1) & NODE_MASK, byte)
            lowest = min(lowest, insert(pool, size, ef, keys[i]))
            size = min(size + 1, ef)
    return size, lowest


@kernel
def walk(
    query: Array,
    offset: np.int32,
    codes: Array,
    neighbours: Array,
    passing: Array,
    entry: tuple[int, np.int32],
    ef: int,
    stop: Stop,
    visited: Array,
    epoch: np.uint8,
    pool: Array,
) -> tuple[int, int]:
    """Walk the graph best first from `entry`, keeping the best `ef` nodes.

    While the codes around one node are on their way from memory, those around the
    node before it are scored: the next node to expand is the best of what was known
    one step ago.

    Parameters
    ----------
    query : (w,) int8
    offset : int32
        The query's `code_offset`.
    codes : (n, w) int8
    neighbours : (n, g) int32, −1 ends a list
    passing : (n,) uint8
        1 for a node that may be an answer; the walk passes through the others too.
        Empty: all may.
    entry : node and its score
    ef : int
        Length of the list: HNSW's ``ef_search``.
    stop : rank, shortlist, top, slack, wanted, floor, guard
        When to end before all that are kept have been expanded: see `horizon`, or when
        so many nodes that may be answers have been. Rank, guard and shortlist, how many
        are wanted at least, are at most `ef`. A negative slack never ends a walk, nor
        does the lowest floor; a node below that is not kept, unless among the best
        `guard` to be expanded.
    visited : (n,) uint8
        Equal to `epoch` where a node was seen.
    pool : (≥ ef + ROOM,) int64, out
        The kept nodes from place 1 on, best first, as packed keys.

    Returns
    -------
    size, scored : int
        Nodes in `pool`, nodes scored.

    References
    ----------
    Malkov & Yashunin 2018, arXiv:1603.09320, algorithm 2; the end by distance:
    Al-Jazzazi et al. 2025, arXiv:2505.15636.
    """
    node, score = entry
    visited[node] = epoch
    clear(pool, ef)
    pool[1] = (np.int64(score) << NODE_BITS) | (np.int64(node) << 1)
    size, at, scored, waiting, side = 1, 0, 0, 0, 0
    passed, flagged = 0, len(passing) > 0
    room = neighbours.shape[1] + FOUR  # what is scored four at a time may be three more
    near, scores = np.empty((2, room), np.int32), np.empty(room, np.int32)
    keys = np.empty(room, np.int64)
    while True:
        found, far = 0, horizon(pool, at, stop)
        if at < size and pool[at + 1] >> NODE_BITS >= far and passed < stop[4]:
            node = (pool[at + 1] >> 1) & NODE_MASK
            pool[at + 1] |= 1
            if flagged:
                passed += passing[node]
            found = unseen_links(neighbours[node], codes, visited, epoch, near[side])
        elif waiting == 0:
            break
        scored += waiting
        size, lowest = absorb(
            query,
            offset,
            codes,
            neighbours,
            near[1 - side],
            waiting,
            max(min(under(far), pool[stop[1]]), min(under(stop[5]), pool[stop[6]])),
            pool,
            size,
            ef,
            keys,
            scores,
        )
        at = min(at, lowest)
        while at < size and pool[at + 1] & 1:
            at += 1
        waiting, side = found, 1 - side
    while size > 0 and pool[size] <= under(stop[5]):
        size -= 1
    return size, scored


@kernel
def keep_passing(pool: Array, size: int, passing: Array, limit: int) -> int:
    """Leave only nodes that may be answers in the pool, the best `limit` of them.

    Returns how many are left.
    """
    if len(passing) == 0:
        return min(size, limit)
    left = 0
    for i in range(1, size + 1):
        if left < limit and passing[(pool[i] >> 1) & NODE_MASK]:
            left += 1
            pool[left] = pool[i]
    return left


@kernel
def scan(
    query: Array,
    offset: np.int32,
    codes: Array,
    passing: Array,
    limit: int,
    floor: np.int64,
    pool: Array,
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

    Returns
    -------
    int
        Nodes in `pool`.
    """
    size, bound, scores = 0, under(floor), np.empty(FOUR, np.int32)
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


@kernel
def scan_listed(
    query: Array,
    offset: np.int32,
    codes: Array,
    listed: Array,
    limit: int,
    floor: np.int64,
    pool: Array,
) -> int:
    """Do as `scan` over the nodes `listed`, (m,) int32, increasing.

    Codes are asked for some nodes ahead: they do not follow each other.
    """
    clear(pool, limit)
    size, n, width, lowest = 0, len(codes), codes.shape[1], under(floor)
    near, scores = np.empty(FOUR, np.int32), np.empty(FOUR, np.int32)
    for first in range(0, len(listed), FOUR):
        m = min(FOUR, len(listed) - first)
        for i in range(FOUR):
            ahead = listed[min(first + i + AHEAD, len(listed) - 1)]
            for byte in range(0, width, LINE_BYTES):
                prefetch(codes, ahead, byte)
            near[i] = min(max(listed[first + min(i, m - 1)], 0), n - 1)
        score_listed(query, codes, near, 0, offset, scores)
        for i in range(m):
            key = (np.int64(scores[i]) << NODE_BITS) | (np.int64(near[i]) << 1)
            if key > max(pool[limit], lowest) and near[i] == listed[first + i]:
                insert(pool, size, limit, key)
                size = min(size + 1, limit)
    return size
