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
from funnel.kernels.jit import LINE_BYTES, bare, inlined, kernel, prefetch
from funnel.kernels.lanes import KEYS, shift_in
from funnel.kernels.types import Array

NODE_BITS = 33
NODE_MASK = 0xFFFFFFFF
LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
LOWEST_SCORE = LOWEST >> NODE_BITS
Stop: TypeAlias = tuple[int, int, float, int, int]
Walkers: TypeAlias = tuple[Array, ...]
# The arrays of some walks, the last three being scratch.
QUERIES, OFFSETS, TOPS, FLOORS, POOLS, STATE, NEAR = range(7)
KEYS_OF_STEP, SCORES_OF_STEP = 7, 8
# What a walk is at: places of its row in the states.
SIZE, AT, SCORED, WAITING, SIDE, PASSED, EPOCH, ENDED = range(8)
STATES = 8
WALKS = 2  # at once
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


@inlined
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
def horizon(pool: Array, at: int, stop: Stop, top: float, floor: np.int64) -> np.int64:
    """Return the lowest score that is near enough to be expanded.

    That is ``1 + slack`` times as far as the node of rank `rank`, as distances go that
    fall from `top` with the score (1 − cosine); or `floor`, once the best `guard` of
    the pool, of which the best `at` have been, are expanded.
    """
    rank, _, slack, _, guard = stop
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
def new_walkers(count: int, width: int, longest: int, degree: int) -> Walkers:
    """Make room for `count` walks at once, as `walk` takes it.

    Parameters
    ----------
    width : int
        Bytes of a code.
    longest : int
        Of their lists: the largest `ef`.
    degree : int
        Most links of a node.
    """
    room = degree + FOUR  # what is scored four at a time may be three more
    return (
        np.empty((count, width), np.int8),
        np.empty(count, np.int32),
        np.empty(count, np.float64),
        np.empty(count, np.int64),
        np.empty((count, longest + ROOM), np.int64),
        np.empty((count, STATES), np.int64),
        np.empty((count, 2, room), np.int32),
        np.empty(room, np.int64),
        np.empty(room, np.int32),
    )


@bare
def begin(
    walkers: Walkers, i: int, entry: tuple[int, np.int32], ef: int, visited: Array,
    epoch: np.uint8,
) -> None:  # fmt: skip
    """Put the i-th walk to its entry node, of which node and score are given."""
    pool, state = walkers[POOLS][i], walkers[STATE][i]
    node, score = entry
    visited[node] = epoch
    clear(pool, ef)
    pool[1] = (np.int64(score) << NODE_BITS) | (np.int64(node) << 1)
    state[:] = 0
    state[SIZE], state[EPOCH] = 1, epoch


@inlined
def step(
    walkers: Walkers,
    i: int,
    codes: Array,
    neighbours: Array,
    passing: Array,
    ef: int,
    stop: Stop,
    visited: Array,
) -> bool:
    """Take the i-th walk one step on; return whether it goes on."""
    query, pool, state = walkers[QUERIES][i], walkers[POOLS][i], walkers[STATE][i]
    floor, near, waiting = walkers[FLOORS][i], walkers[NEAR][i], state[WAITING]
    found, far = 0, horizon(pool, state[AT], stop, walkers[TOPS][i], floor)
    size, at, side = state[SIZE], state[AT], state[SIDE]
    if at < size and pool[at + 1] >> NODE_BITS >= far and state[PASSED] < stop[3]:
        node = (pool[at + 1] >> 1) & NODE_MASK
        pool[at + 1] |= 1
        if len(passing) > 0:
            state[PASSED] += passing[node]
        epoch = np.uint8(state[EPOCH])
        found = unseen_links(neighbours[node], codes, visited, epoch, near[side])
    elif waiting == 0:
        return False
    state[SCORED] += waiting
    size, lowest = absorb(
        query,
        walkers[OFFSETS][i],
        codes,
        neighbours,
        near[1 - side],
        waiting,
        max(min(under(far), pool[stop[1]]), min(under(floor), pool[stop[4]])),
        pool,
        size,
        ef,
        walkers[KEYS_OF_STEP],
        walkers[SCORES_OF_STEP],
    )
    # What was kept before the horizon came so near makes the list long to sort into.
    while size > stop[1] and pool[size] <= under(far) and len(passing) == 0:
        pool[size] = LOWEST
        size -= 1
    at = min(at, lowest)
    while at < size and pool[at + 1] & 1:
        at += 1
    state[SIZE], state[AT], state[WAITING], state[SIDE] = size, at, found, 1 - side
    return True


@bare
def walk(
    walkers: Walkers,
    count: int,
    codes: Array,
    neighbours: Array,
    passing: Array,
    ef: int,
    stop: Stop,
    visited: Array,
) -> None:
    """Walk the graph best first for several queries, keeping the best `ef` nodes each.

    Each walk takes a step in turn: what it then waits for comes from memory while the
    others take theirs.
    """
    going = count
    while going > 0:
        going = 0
        for i in range(count):
            if walkers[STATE][i, ENDED] == 0:
                if step(walkers, i, codes, neighbours, passing, ef, stop, visited[i]):
                    going += 1
                else:
                    walkers[STATE][i, ENDED] = 1
    for i in range(count):
        pool, state = walkers[POOLS][i], walkers[STATE][i]
        while state[SIZE] > 0 and pool[state[SIZE]] <= under(walkers[FLOORS][i]):
            state[SIZE] -= 1


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
