"""Choose the links of nodes among the nearest that cells hold. Arrays and numbers only.

Called by `graph/knit.py`, for slices of the nodes in threads of its own.

n = nodes, b = nodes of a call, w = bytes of a code, M = links of a node, c = cells.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.cells import Cells, probe, room
from funnel.kernels.fours import FOUR, score_listed
from funnel.kernels.grow import choose
from funnel.kernels.jit import kernel
from funnel.kernels.pool import HIGHEST, NODE_BITS, NODE_MASK, ROOM, clear, insert
from funnel.kernels.types import Array

FILLED = 2  # the part of its links that a node has at least
FEWEST, ENOUGH = 2, 4  # links that lead to a node; of those that it can spare one
HASH = 2_654_435_761  # Knuth's: an odd number near 2^32 times the golden ratio


@kernel
def keep_best(
    nodes: Array, scores: Array, count: int, below: int, pool: Array, limit: int
) -> int:
    """Fill a pool with the best of some nodes; return how many it holds.

    Parameters
    ----------
    nodes, scores : (≥ count,) int32
    below : int
        Only keys that are less than this one are taken.
    pool : (≥ limit + ROOM,) int64, out
        As a walk leaves it: the keys from place 1 on, best first.
    """
    clear(pool, limit)
    size = 0
    for i in range(count):
        key = (np.int64(scores[i]) << NODE_BITS) | (np.int64(nodes[i]) << 1)
        if below > key > pool[limit]:
            insert(pool, size, limit, key)
            size = min(size + 1, limit)
    return size


@kernel
def salt_of(node: int) -> np.int32:
    """Return a number of 31 bits that differs in all of them between nodes."""
    return np.int32(((np.int64(node) * np.int64(HASH)) & NODE_MASK) >> 1)


@kernel
def fill(keys: Array, m: int, links: Array, least: int) -> None:
    """Add the nearest of the first `m` keys to a list of fewer than `least` links.

    Where one node lies nearest to all others, no other is linked to for its direction.
    """
    count = 0
    while count < least and links[count] >= 0:
        count += 1
    for i in range(m):
        if count >= least:
            break
        node, known = np.int32((keys[i] >> 1) & NODE_MASK), False
        for j in range(count):
            known |= links[j] == node
        if not known:
            links[count] = node
            count += 1


@kernel
def count_sources(links: Array, chosen: int, starts: Array) -> None:
    """Count the links that lead to each node, as where each one's sources begin.

    Parameters
    ----------
    links : (n, g) int32
        The first `chosen` of each list are counted.
    starts : (n + 1,) int64, out
    """
    starts[:] = 0
    for node in range(len(links)):
        for j in range(chosen):
            if links[node, j] < 0:
                break
            starts[links[node, j] + 1] += 1
    for node in range(len(links)):
        starts[node + 1] += starts[node]


@kernel
def write_sources(links: Array, chosen: int, starts: Array, sources: Array) -> None:
    """Write from where links lead to each node, rising: see `count_sources`.

    Parameters
    ----------
    starts : (n + 1,) int64
        Moved on while sources are written, and back in the end.
    sources : (starts[n],) int32, out
    """
    for node in range(len(links)):
        for j in range(chosen):
            end = links[node, j]
            if end < 0:
                break
            sources[starts[end]] = node
            starts[end] += 1
    for node in range(len(links), 0, -1):
        starts[node] = starts[node - 1]
    starts[0] = 0


@kernel
def lead_to_all(links: Array, degrees: Array) -> None:
    """Let `FEWEST` links lead to each node, from those that it links to itself.

    In dense regions most links lead to a few nodes, and none to others. A link makes
    room, the last one whose end has more than `ENOUGH`, where a list is full.

    Parameters
    ----------
    links : (n, g) int32, in and out
    degrees : (n,) int32, in and out
        How many links lead to each node.
    """
    for node in range(len(links)):
        for near in links[node]:
            if near < 0 or degrees[node] >= FEWEST:
                break
            around = links[near]
            place, known = -1, False
            for j in range(len(around)):
                end = around[j]
                known |= end == node
                if end < 0:
                    place = j
                    break
                if degrees[end] > ENOUGH:
                    place = j
            if not known and place >= 0:
                if around[place] >= 0:
                    degrees[around[place]] -= 1
                around[place] = node
                degrees[node] += 1


@kernel
def add_link(links: Array, end: int, added: int) -> int:
    """Add a link to a list, if need be for a far one; return how many were added.

    Parameters
    ----------
    links : (g,) int32, in and out
    added : int
        How many were added to this list before: at most half of it may be.
    """
    degree = len(links)
    for j in range(degree):
        if links[j] == end:
            return added
        if links[j] < 0:
            links[j] = end
            return added + 1
    if 2 * added >= degree:
        return added
    links[degree - 1 - added] = end
    return added + 1


@kernel
def weave(nodes: Array, found: Array, links: Array, added: Array) -> None:
    """Add the links among some nodes to those of all, there and back.

    Parameters
    ----------
    nodes : (m,) int32
    found : (m, r) int32
        Places in `nodes`, −1 after the last.
    links : (n, g) int32, in and out
    added : (n,) int32, in and out
        Links that were added to each node's list.
    """
    for i in range(len(nodes)):
        for place in found[i]:
            if place < 0:
                break
            node, end = nodes[i], nodes[place]
            added[node] = add_link(links[node], end, added[node])
            added[end] = add_link(links[end], node, added[end])


@kernel
def find_near_links(
    nodes: Array,
    codes: Array,
    offsets: Array,
    cells: Cells,
    middles: Array,
    wanted: int,
    limit: int,
    out: Array,
) -> None:
    """Choose the links of each node: among its nearest, then among cells' middles.

    The nearest of a node may all lie in one direction; those in the middle of the
    probed cells lead away from them.

    Parameters
    ----------
    nodes : (b,) int32
    codes : (n, w) int8
    offsets : (n,) int32
    cells : see `kernels/cells.py`
    middles : (c,) int32
        A node of each cell, −1 for none.
    wanted, limit : int
        Cells that are probed, nearest nodes that are candidates.
    out : (b, M) int32, out
        −1 after the last.
    """
    b, n = len(nodes), len(codes)
    queries = np.empty((b, codes.shape[1]), np.int8)
    for i in range(b):
        queries[i] = codes[nodes[i]]
    whole, far = room(limit), min(max(wanted, 1), len(middles))
    held = (
        np.empty((b, whole), np.int32), np.empty((b, whole), np.int32),
        np.zeros(b, np.int64), np.empty(b, np.int32),
    )  # fmt: skip
    for i in range(b):
        held[3][i] = salt_of(nodes[i])
    probed = probe(queries, cells, n, wanted, limit, held)
    pool, others = np.empty(limit + ROOM, np.int64), np.empty(far + ROOM, np.int64)
    keys = np.empty(limit + far, np.int64)
    near = np.empty(far + FOUR, np.int32)
    scores = np.empty(far + FOUR, np.int32)
    for i in range(b):
        node = nodes[i]
        for j in range(held[2][i]):
            held[0][i, j] += offsets[node]
        size, m = keep_best(held[1][i], held[0][i], held[2][i], HIGHEST, pool, limit), 0
        for j in range(1, size + 1):
            keys[m] = pool[j] ^ (np.int64(held[3][i]) << 1)
            m += int((keys[m] >> 1) & NODE_MASK != node)
        count = 0
        for cell in probed[i]:
            if middles[cell] >= 0 and middles[cell] != node:
                near[count] = middles[cell]
                count += 1
        near[count : count + FOUR] = node
        for j in range(0, count, FOUR):
            score_listed(codes[node], codes, near, j, offsets[node], scores)
        behind = keys[m - 1] >> NODE_BITS << NODE_BITS if m > 0 else HIGHEST
        more = keep_best(near, scores, count, behind, others, far)
        keys[m : m + more] = others[1 : more + 1]
        choose(keys, m + more, codes, offsets, out.shape[1], out[i])
        fill(keys, m, out[i], -(-out.shape[1] // FILLED))
