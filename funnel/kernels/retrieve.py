"""Fill the pools of some queries from one segment: by a walk, or a scan of its codes.

Arrays and numbers only. Called by `kernels/gather.py` and, for epochs, by
`kernels/grow.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from funnel.kernels.jit import bare
from funnel.kernels.knobs import CODE_BYTES, EF, FEWEST, RANK, SHORTLIST, TAIL_BYTES
from funnel.kernels.memory import numbers_at
from funnel.kernels.pool import LOWEST_SCORE, keep_passing
from funnel.kernels.refine import REFINED
from funnel.kernels.segments import (
    DEGREE,
    LISTED,
    LISTED_COUNT,
    NO_INT32,
    NODES,
    PASSED,
    flags_of,
    graph_of,
)
from funnel.kernels.sweep import best_entry, scan, scan_listed
from funnel.kernels.types import Array
from funnel.kernels.walk import (
    FLOORS,
    NEAR,
    OFFSETS,
    POOLS,
    QUERIES,
    SCORED,
    SCORES,
    SIZE,
    STATE,
    Walkers,
    begin,
    walk,
)

# What it costs to score a node of a list, and to expand one in a walk, in equal units.
LISTED_COST, EXPANDED_COST = 1, 60
SPARE = 5 / 4  # nodes that may be answers are not spread evenly


@bare
def reach(segment: Array, ef: int) -> int:
    """Return how long a walk's list must be to hold `ef` nodes that may be answers."""
    nodes, passed = int(segment[NODES]), int(segment[PASSED])
    if passed < 0 or passed == nodes:
        return min(ef, nodes)
    return min(nodes, int(SPARE * ef * nodes / max(passed, 1)) + 1)


@bare
def found(knobs: Array) -> int:
    """Return how many of the best a walk finds, of which the shortlist is chosen."""
    return int(knobs[SHORTLIST] * (REFINED if knobs[TAIL_BYTES] else 1))


@bare
def retrieve(
    walkers: Walkers,
    count: int,
    segment: Array,
    knobs: Array,
    slack: float,
    guard: int,
    visited: Array,
) -> None:
    """Fill the pools of `count` queries with the best of a segment, packed, in order.

    Walks the graph, or scans the codes where there is none; where few nodes may be
    answers, scans those, if that is cheaper than to walk past all the others. How many
    nodes there are and how many were scored go to the walkers' states.

    Parameters
    ----------
    walkers : see `walk.Walkers`
        Codes, offsets, tops and floors are those of the queries.
    guard : int
        Nodes that a walk expands before what is of no use may end it.
    """
    codes, neighbours, entries, entry_codes = graph_of(segment, knobs[CODE_BYTES])
    passing, limit, degree = flags_of(segment)[0], found(knobs), segment[DEGREE]
    states = walkers[STATE]
    states[:count] = 0
    if segment[NODES] == 0 or segment[PASSED] == 0:
        return
    ef, few = reach(segment, knobs[EF]), segment[LISTED_COUNT]
    if few > 0 and (degree == 0 or few * LISTED_COST < ef * EXPANDED_COST):
        listed = numbers_at(segment[LISTED], few, NO_INT32)
        for i in range(count):
            states[i, SIZE] = scan_listed(
                walkers[QUERIES][i], walkers[OFFSETS][i], codes, listed, limit,
                walkers[FLOORS][i], walkers[POOLS][i], walkers[NEAR][i, 0],
                walkers[SCORES],
            )  # fmt: skip
            states[i, SCORED] = few
        return
    if degree > 0:
        for i in range(count):
            query, offset = walkers[QUERIES][i], walkers[OFFSETS][i]
            place, score = best_entry(query, offset, entry_codes, walkers[SCORES])
            entry, epoch = (entries[place], score), next_epoch(visited[i])
            begin(walkers, i, entry, ef, visited[i], epoch)
        stop = min(knobs[RANK], ef), min(limit, ef), slack, knobs[EF], min(guard, ef)
        walk(walkers, count, codes, neighbours, passing, ef, stop, visited)
    may = segment[NODES] if segment[PASSED] < 0 else segment[PASSED]
    for i in range(count):
        pool, floor, size = walkers[POOLS][i], walkers[FLOORS][i], states[i, SIZE]
        if degree > 0:
            states[i, SCORED] += len(entries)
            size = keep_passing(pool, size, passing, limit)
        if degree == 0 or (size < min(may, knobs[FEWEST]) and floor == LOWEST_SCORE):
            # No graph, or what may be an answer is out of the walk's reach.
            query, offset = walkers[QUERIES][i], walkers[OFFSETS][i]
            size = scan(
                query, offset, codes, passing, limit, floor, pool, walkers[SCORES]
            )
            states[i, SCORED] += len(codes)
        states[i, SIZE] = size


@bare
def next_epoch(visited: Array) -> Any:
    """Start a new walk: advance the epoch in the last entry, clear on overflow."""
    last = len(visited) - 1
    if visited[last] == 255:
        visited[:] = 0
    visited[last] += np.uint8(1)
    return visited[last]
