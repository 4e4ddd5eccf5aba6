"""Gather candidates from every segment, by walks and scans. Arrays and numbers only.

Called by `kernels/funnel.py`; the walk itself is in `kernels/walk.py`.

b = queries that are searched together, c = candidates, s = segments, w = bytes of a
code, p = projected dims.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from funnel.kernels.candidates import add_loose, expand
from funnel.kernels.codes import code_offset, quantise
from funnel.kernels.jit import kernel
from funnel.kernels.knobs import (
    CERTIFIED,
    CODE_BYTES,
    CODE_UNITS,
    CUT,
    DIMS_READ,
    EF,
    FEWEST,
    RANK,
    ROWS_IN,
    ROWS_KEPT,
    SHORTLIST,
    SLACK,
    WIDTH,
    K,
)
from funnel.kernels.memory import numbers_at
from funnel.kernels.query import norm
from funnel.kernels.rerank import pack, select
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
from funnel.kernels.types import Array
from funnel.kernels.walk import (
    LOWEST_SCORE,
    best_entry,
    keep_passing,
    scan,
    scan_listed,
    walk,
)

# What it costs to score a node of a list, and to expand one in a walk, in equal units.
LISTED_COST, EXPANDED_COST = 1, 60
GUARD = 2  # times the rank of the slack: nodes expanded before a floor ends a walk
SURPLUS = 4  # the part of a shortlist that candidates may exceed it by for a while
SPARE = 5 / 4  # nodes that may be answers are not spread evenly


@kernel
def reach(segment: Array, ef: int) -> int:
    """Return how long a walk's list must be to hold `ef` nodes that may be answers."""
    nodes, passed = int(segment[NODES]), int(segment[PASSED])
    if passed < 0 or passed == nodes:
        return min(ef, nodes)
    return min(nodes, int(SPARE * ef * nodes / max(passed, 1)) + 1)


@kernel
def retrieve(
    code: Array,
    offset: np.int32,
    segment: Array,
    knobs: Array,
    top: float,
    slack: float,
    floor: np.int64,
    guard: int,
    visited: Array,
    pool: Array,
) -> tuple[int, int]:
    """Fill `pool` with a segment's shortlist, packed, best first, from place 1 on.

    Walks the graph, or scans the codes where there is none; where few nodes may be
    answers, scans those, if that is cheaper than to walk past all the others.

    Parameters
    ----------
    code : (w,) int8
        The query.
    offset : int32
        Its `code_offset`.
    top : float
        The integer score of a cosine of 1.
    floor : int64
        What scores less is of no use: other segments gave enough that is better.
    guard : int
        Nodes that a walk expands before the floor may end it.

    Returns
    -------
    size, scored : int
        Nodes of the shortlist, nodes scored.
    """
    codes, neighbours, entries, entry_codes = graph_of(segment, knobs[CODE_BYTES])
    passing, limit, degree = flags_of(segment)[0], knobs[SHORTLIST], segment[DEGREE]
    if segment[NODES] == 0 or segment[PASSED] == 0:
        return 0, 0
    ef, count = reach(segment, knobs[EF]), segment[LISTED_COUNT]
    if count > 0 and (degree == 0 or count * LISTED_COST < ef * EXPANDED_COST):
        listed = numbers_at(segment[LISTED], count, NO_INT32)
        return scan_listed(code, offset, codes, listed, limit, floor, pool), count
    if degree == 0:
        return scan(code, offset, codes, passing, limit, floor, pool), len(codes)
    guard = min(guard, ef)
    place, score = best_entry(code, offset, entry_codes)
    size, scored = walk(
        code,
        offset,
        codes,
        neighbours,
        passing,
        (entries[place], score),
        ef,
        (min(knobs[RANK], ef), min(limit, ef), top, slack, knobs[EF], floor, guard),
        visited,
        next_epoch(visited),
        pool,
    )
    scored += len(entries)
    size = keep_passing(pool, size, passing, limit)
    may = segment[NODES] if segment[PASSED] < 0 else segment[PASSED]
    if size < min(may, knobs[FEWEST]) and floor == LOWEST_SCORE:
        # What may be an answer is out of the walk's reach.
        size = scan(code, offset, codes, passing, limit, floor, pool)
        scored += len(codes)
    return size, scored


@kernel
def shorten(candidates: tuple[Array, ...], m: int, keep: int) -> int:
    """Keep the best of what several segments gave; return how many are left."""
    rows, scores, dots, squares, keys, spare = candidates
    pack(scores, m, keys)
    return int(select(keys, m, keep, rows, dots, squares, scores, spare))


@kernel
def of_query(candidates: tuple[Array, ...], i: int) -> tuple[Array, ...]:
    """Return the candidates of the i-th of some queries."""
    rows, scores, dots, squares, keys, spare = candidates
    return rows[i], scores[i], dots[i], squares[i], keys[i], spare[i]


@kernel
def gather_segment(
    query: tuple[Array, np.int32, float],
    segment: Array,
    unit: float,
    knobs: Array,
    slack: float,
    guard: int,
    worst: np.float32,
    visited: Array,
    pool: Array,
    candidates: tuple[Array, ...],
    m: int,
    record: Array,
) -> int:
    """Add one segment's candidates to the `m` of a query; return how many there are.

    Parameters
    ----------
    query : code, its `code_offset`, what a score of its code is divided by
    unit : float
        The coordinate that a code of 1 stands for.
    guard : see `retrieve`
    worst : float32
        Nothing that scores less is of use.
    """
    code, offset, below = query
    scale, floor = unit / below if below > 0 else 0.0, np.int64(LOWEST_SCORE)
    if scale > 0 and worst > -np.inf:
        floor = np.int64(np.floor(worst / scale))
    top = 1 / scale if scale > 0 else 0.0
    size, scored = retrieve(
        code, offset, segment, knobs, top, slack, floor, guard, visited, pool
    )
    record[ROWS_IN] += scored
    record[ROWS_KEPT] += size
    record[DIMS_READ] += scored * knobs[WIDTH]
    if size == 0:
        return m
    rows, scores, _, errors, _, _ = candidates
    error = np.sqrt(knobs[WIDTH]) / 2 * unit if knobs[CERTIFIED] else -1.0
    codes = graph_of(segment, knobs[CODE_BYTES])[0]
    return expand(
        pool[1:], size, segment, knobs[K], knobs[CUT], np.float32(scale), rows, scores,
        errors, codes, np.float32(error), m,
    )  # fmt: skip


@kernel
def gather(
    projected: Array,
    table: Array,
    knobs: Array,
    scales: Array,
    visited: Array,
    pool: Array,
    candidates: tuple[Array, ...],
    counts: Array,
    scored: Array,
    record: Array,
) -> None:
    """Write the candidates of some queries: the best `CUT` of all segments, and loose.

    Every query is searched in a segment before the next one: what the first has read of
    it, the others find near.

    Parameters
    ----------
    projected : (b, p) float32
    candidates : (b, c), out
        Rows, their scores, and what `kernels/stages.py` needs beside them.
    counts : (b,) int64, in and out
        How many there are; a query that comes with less than 0 is left out.
    scored : (b,) int64, out
        Nodes that were scored for each query.
    record : (4,) int64
        Of the trace; added to.
    """
    b, cut = len(projected), knobs[CUT]
    codes, offsets = np.empty((b, knobs[CODE_BYTES]), np.int8), np.empty(b, np.int32)
    below, worst = np.empty(b, np.float64), np.full(b, -np.inf, np.float32)
    for i in range(b):
        below[i] = quantise(projected[i], codes[i]) * norm(projected[i])
        offsets[i], scored[i] = code_offset(codes[i]), 0
    nodes = max(1, table[:, NODES].sum())
    for s in range(len(table)):
        # As many as this segment's share of a list over all, and some more.
        guard = knobs[RANK] + knobs[EF] * table[s, NODES] // nodes
        # Ranked only once they are some more: what a small segment gives is little.
        most = cut + cut // SURPLUS if s < len(table) - 1 else cut
        for i in range(b):
            before, m, own = record[ROWS_IN], counts[i], of_query(candidates, i)
            if m < 0:
                continue
            counts[i] = gather_segment(
                (codes[i], offsets[i], below[i]), table[s], scales[CODE_UNITS + s],
                knobs, scales[SLACK], max(guard, GUARD * knobs[RANK]), worst[i],
                visited, pool, own, m, record,
            )  # fmt: skip
            scored[i] += record[ROWS_IN] - before
            grown = counts[i] > m
            if counts[i] > most:
                counts[i] = shorten(own, counts[i], cut)
            if grown and counts[i] == cut:
                worst[i] = own[1][:cut].min()
    for i in range(b):
        rows, scores, _, errors, _, _ = of_query(candidates, i)
        for s in range(len(table)):
            if counts[i] >= 0:
                counts[i] = add_loose(table[s], rows, scores, errors, counts[i])


@kernel
def next_epoch(visited: Array) -> Any:
    """Start a new walk: advance the epoch in the last entry, clear on overflow."""
    last = len(visited) - 1
    if visited[last] == 255:
        visited[:] = 0
    visited[last] += np.uint8(1)
    return visited[last]
