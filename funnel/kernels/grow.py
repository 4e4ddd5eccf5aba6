"""Grow a graph: find the links of new nodes, and link back to them. Arrays only.

Called by `graph/grow.py`, which says in what order nodes come, for slices of a batch in
threads of its own: no call reads what another one writes.

n = nodes, w = bytes of a code, g = links of a node, M = links of a new node.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.codes import code_offset
from funnel.kernels.fours import FOUR, score_listed
from funnel.kernels.jit import kernel, prefetch_row
from funnel.kernels.pool import LOWEST_SCORE, NODE_BITS, NODE_MASK
from funnel.kernels.retrieve import next_epoch
from funnel.kernels.sweep import best_entry
from funnel.kernels.types import Array
from funnel.kernels.walk import (
    FLOORS,
    OFFSETS,
    POOLS,
    QUERIES,
    SCORES,
    SIZE,
    STATE,
    TOPS,
    begin,
    new_walkers,
    walk,
)


@kernel
def code_offsets(codes: Array, offsets: Array) -> None:
    """Write the `code_offset` of each of the (n, w) codes."""
    for i in range(len(codes)):
        offsets[i] = code_offset(codes[i])


@kernel
def choose(
    keys: Array, m: int, codes: Array, offsets: Array, limit: int, out: Array
) -> None:
    """Write the candidates to link to: near ones that lie in different directions.

    A candidate nearer to one that was chosen than to the node itself is left out.

    Parameters
    ----------
    keys : (≥ m,) int64
        Candidates as the walk packs them, best first.
    limit : int
        Links at most.
    out : (≥ limit,) int32, out
        −1 after the last.

    References
    ----------
    Malkov & Yashunin 2018, arXiv:1603.09320, algorithm 4.
    """
    kept, chosen = 0, np.zeros(limit + FOUR, np.int32)
    scores = np.empty(limit + FOUR, np.int32)
    for i in range(m):
        node = (keys[i] >> 1) & NODE_MASK
        score, apart = keys[i] >> NODE_BITS, True
        for first in range(0, kept, FOUR):
            score_listed(codes[node], codes, chosen, first, offsets[node], scores)
            for j in range(first, min(first + FOUR, kept)):
                apart &= scores[j] <= score
            if not apart:
                break
        if apart:
            chosen[kept] = node
            kept += 1
            if kept == limit:
                break
    out[:kept], out[kept:] = chosen[:kept], -1


@kernel
def find_links(
    nodes: Array,
    codes: Array,
    offsets: Array,
    links: Array,
    entries: Array,
    ef: int,
    visited: Array,
    out: Array,
) -> None:
    """Walk to each new node and choose its links among what the walk kept.

    Parameters
    ----------
    nodes : (b,) int32
        Not linked to yet.
    offsets : (n,) int32
    links : (n, g) int32
    entries : (e,) int32
        Nodes that walks may start from.
    ef : int
        HNSW's ``ef_construction``.
    visited : (n + 1,) uint8
        As in `search_many`.
    out : (b, M) int32, out
    """
    walkers = new_walkers(1, codes.shape[1], ef, links.shape[1])
    everything = np.empty(0, np.uint8)
    stop = 1, 1, -1.0, 1, 1
    pool, seen = walkers[POOLS][0], visited.reshape(1, -1)
    walkers[TOPS][0], walkers[FLOORS][0] = 0, LOWEST_SCORE
    entry_codes = np.empty((len(entries), codes.shape[1]), np.int8)
    for i in range(len(entries)):
        entry_codes[i] = codes[entries[i]]
    for i in range(len(nodes)):
        query, offset = codes[nodes[i]], offsets[nodes[i]]
        place, score = best_entry(query, offset, entry_codes, walkers[SCORES])
        walkers[QUERIES][0], walkers[OFFSETS][0] = query, offset
        epoch = next_epoch(visited)
        begin(walkers, 0, (entries[place], score), ef, visited, epoch)
        walk(walkers, 1, codes, links, everything, ef, stop, seen)
        size = walkers[STATE][0, SIZE]
        choose(pool[1:], size, codes, offsets, out.shape[1], out[i])


@kernel
def link_back(
    targets: Array,
    starts: Array,
    sources: Array,
    codes: Array,
    offsets: Array,
    links: Array,
) -> None:
    """Add links to `targets` that they lack; choose again where there are more than g.

    Parameters
    ----------
    targets : (t,) int32
        Distinct nodes.
    starts : (t + 1,) int64
        Where the new links of each begin in `sources`.
    sources : int32
    links : (n, g) int32, changed in place
    """
    degree, most = links.shape[1], 0
    for t in range(len(targets)):
        most = max(most, starts[t + 1] - starts[t])
    ends = np.zeros(degree + most + FOUR, np.int32)
    scores = np.empty(degree + most + FOUR, np.int32)
    keys = np.empty(degree + most, np.int64)
    for t in range(len(targets)):
        node = targets[t]
        own, m = links[node], 0
        while m < degree and own[m] >= 0:
            ends[m] = own[m]
            m += 1
        held = m
        for s in range(starts[t], starts[t + 1]):
            known = False
            for i in range(held):
                known |= ends[i] == sources[s]
            ends[m] = sources[s]
            m += int(not known)
        if m <= degree:
            own[:m] = ends[:m]
            continue
        for i in range(m):
            prefetch_row(codes, ends[i])
        for i in range(0, m, FOUR):
            score_listed(codes[node], codes, ends, i, offsets[node], scores)
        for i in range(m):
            key = (np.int64(scores[i]) << NODE_BITS) | (np.int64(ends[i]) << 1)
            keys[i] = -key
        keys[:m].sort()
        for i in range(m):
            keys[i] = -keys[i]
        choose(keys, m, codes, offsets, degree, own)
