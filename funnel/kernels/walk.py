"""Walk the graph for a shortlist, best first, on int8 codes. Arrays and numbers only.

Several queries walk in turn, a step each, so that what one waits for comes from memory
while the others step. What each is at lies in arrays, a row a walk: `new_walkers` makes
them, the caller writes the queries in, `begin` puts a walk to its entry, `walk` runs
them all. No I/O, no validation. Called by `kernels/retrieve.py` and `kernels/grow.py`.

n = nodes, w = bytes of a code, g = links of a node, b = walks.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from funnel.kernels.fours import FOUR, score_listed
from funnel.kernels.jit import bare, inlined, kernel, prefetch_row
from funnel.kernels.pool import (
    LOWEST,
    LOWEST_SCORE,
    NODE_BITS,
    NODE_MASK,
    ROOM,
    clear,
    first_open,
    insert_all,
    under,
)
from funnel.kernels.types import Array

WALKS = 2  # at once: more were no faster

Stop: TypeAlias = tuple[int, int, float, int, int]
"""When a walk ends before all that are kept have been expanded: rank, shortlist, slack,
wanted, guard. See `horizon`; or when so many nodes that may be answers have been. Rank,
guard and shortlist, how many are wanted at least, are at most `ef`. A negative slack
never ends a walk, nor does the lowest floor."""

Walkers: TypeAlias = tuple[Array, ...]
"""Arrays of some walks, a row each: codes of the queries, (b, w) int8; their
`code_offset`s, int32; the scores that distances fall from, float64; the floors, int64:
a node below is not kept, unless among the best `guard` to be expanded; pools, (b, ≥ ef
+ ROOM) int64; states; nodes to score now and next, (b, 2, g + 3) int32. The last two
are scratch of one step, g + 3 keys and scores."""
QUERIES, OFFSETS, TOPS, FLOORS, POOLS, STATE, NEAR, KEYS, SCORES = range(9)

# What a walk is at: places of its row in the states.
SIZE, AT, SCORED, WAITING, SIDE, PASSED, EPOCH, ENDED = range(8)
STATES = 8


@inlined
def unseen_links(
    links: Array, codes: Array, visited: Array, epoch: np.uint8, near: Array
) -> int:
    """Write the unvisited nodes of `links` to `near`, ask for their codes, count them.

    A link that is not a node (padding, or damage on disk) ends the list. No branch
    hangs on what was visited: it could not be foreseen. The last one is repeated until
    a multiple of four is full: `near` has room for that.
    """
    n, m = len(codes), 0
    for j in range(len(links)):
        node = links[j]
        if node < 0 or node >= n:
            break
        near[m] = node
        m += int(visited[node] != epoch)
        visited[node] = epoch
    for i in range(m):
        prefetch_row(codes, near[i])
    for i in range(m, -(-m // FOUR) * FOUR):
        near[i] = near[m - 1]
    return m


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
    for i in range(fresh):
        # Whoever is kept is likely to be expanded: its links take longest.
        prefetch_row(neighbours, (keys[i] >> 1) & NODE_MASK)
    lowest = insert_all(pool, size, ef, keys, fresh)
    return min(size + fresh, ef), lowest


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
        walkers[KEYS],
        walkers[SCORES],
    )
    # What was kept before the horizon came so near makes the list long to sort into.
    while size > stop[1] and pool[size] <= under(far) and len(passing) == 0:
        pool[size] = LOWEST
        size -= 1
    at = first_open(pool, size, min(at, lowest))
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
    """Walk the graph for the first `count` of some queries, keep the best `ef` nodes.

    Each walk takes a step in turn. While the codes around one node are on their way,
    those around the node before it are scored: the next node to expand is the best of
    what was known one step ago. A walk alone and among others finds the same.

    Parameters
    ----------
    walkers : see `Walkers`
        Begun. Each pool comes out with as many nodes as its state says, best first,
        beside how many were scored.
    codes : (n, w) int8
    neighbours : (n, g) int32, −1 ends a list
    passing : (n,) uint8
        1 for a node that may be an answer; the walk passes through the others too.
        Empty: all may.
    ef : int
        Length of the list: HNSW's ``ef_search``.
    stop : see `Stop`
    visited : (b, ≥ n) uint8
        Equal to a walk's epoch where it has seen a node.

    References
    ----------
    Malkov & Yashunin 2018, arXiv:1603.09320, algorithm 2; the end by distance:
    Al-Jazzazi et al. 2025, arXiv:2505.15636.
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
