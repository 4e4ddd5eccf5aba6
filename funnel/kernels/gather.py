"""Gather the candidates of some queries from every segment. Arrays and numbers only.

Called by `kernels/funnel.py`; what is found in one segment is `kernels/retrieve.py`'s.

b = queries that are searched together, c = candidates, s = segments, w = bytes of a
code, p = projected dims.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from funnel.kernels.candidates import add_loose, expand
from funnel.kernels.codes import code_offset, quantise
from funnel.kernels.jit import bare, kernel, spliced
from funnel.kernels.knobs import (
    CERTIFIED,
    CODE_BYTES,
    CODE_UNITS,
    CUT,
    DIMS_READ,
    EF,
    RANK,
    ROWS_IN,
    ROWS_KEPT,
    SHORTLIST,
    SLACK,
    TAIL_BYTES,
    WIDTH,
    K,
)
from funnel.kernels.pool import LOWEST_SCORE, NODE_BITS
from funnel.kernels.query import norm
from funnel.kernels.refine import refine
from funnel.kernels.rerank import pack, select
from funnel.kernels.retrieve import found, retrieve
from funnel.kernels.segments import NODES, graph_of, tails_of
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
    TOPS,
    Walkers,
)

GUARD = 2  # times the rank of the slack: nodes expanded before a floor ends a walk
SURPLUS = 4  # the part of a shortlist that candidates may exceed it by for a while

Coded: TypeAlias = tuple[Array, Array, Array, Array, Array]
"""Codes of some queries, (b, w) int8; the `code_offset`s of what a walk scores, (b,)
int32; what a score of a code is divided by, (b,) float64; the part that a walk scores
of a query's product with itself, (b,) float64; what a walk scores less is of no use,
(b,) float32."""


@bare
def shorten(candidates: tuple[Array, ...], m: int, keep: int) -> int:
    """Keep the best of what several segments gave; return how many are left."""
    rows, scores, dots, squares, keys, spare = candidates
    pack(scores, m, keys)
    return int(select(keys, m, keep, rows, dots, squares, scores, spare))


@spliced
def of_query(candidates: tuple[Array, ...], i: int) -> tuple[Array, ...]:
    """Return the candidates of the i-th of some queries."""
    rows, scores, dots, squares, keys, spare = candidates
    return rows[i], scores[i], dots[i], squares[i], keys[i], spare[i]


@kernel
def new_codes(count: int, knobs: Array) -> Coded:
    """Make room for the codes of `count` queries, of which nothing is known."""
    return (
        np.empty((count, knobs[CODE_BYTES] + knobs[TAIL_BYTES]), np.int8),
        np.empty(count, np.int32),
        np.empty(count, np.float64),
        np.empty(count, np.float64),
        np.empty(count, np.float32),
    )


@bare
def code_query(projected: Array, coded: Coded, knobs: Array, i: int) -> None:
    """Code the i-th of some queries, of which no candidate is known yet."""
    codes, offsets, below, shares, worst = coded
    head, held = knobs[CODE_BYTES], norm(projected)
    below[i] = quantise(projected, codes[i]) * held
    offsets[i], worst[i] = code_offset(codes[i, :head]), -np.inf
    shares[i] = (norm(projected[:head]) / held) ** 2 if held > 0 else 0.0


@bare
def scale_of(unit: float, below: float) -> float:
    """Return what integer scores are multiplied by: the unit over the divisor."""
    return unit / below if below > 0 else 0.0


@bare
def send_out(
    coded: Coded, i: int, unit: float, head: int, walkers: Walkers, at: int
) -> None:
    """Tell a walker of the i-th query. A code of 1 stands for `unit`."""
    codes, offsets, below, shares, worst = coded
    scale, floor = scale_of(unit, below[i]), np.int64(LOWEST_SCORE)
    if scale > 0 and worst[i] > -np.inf:
        floor = np.int64(np.floor(worst[i] / scale))
    own, walkers[OFFSETS][at] = walkers[QUERIES][at], offsets[i]
    for j in range(head):
        own[j] = codes[i, j]
    walkers[TOPS][at] = shares[i] / scale if scale > 0 else 0.0
    walkers[FLOORS][at] = floor


@bare
def collect(
    coded: Coded,
    i: int,
    segment: Array,
    unit: float,
    most: int,
    knobs: Array,
    walkers: Walkers,
    at: int,
    candidates: tuple[Array, ...],
    counts: Array,
    spent: Array,
    record: Array,
) -> None:
    """Add what a walker found to the candidates of the i-th query: `most`, or fewer."""
    codes, _, below, _, worst = coded
    head, tail, cut = knobs[CODE_BYTES], knobs[TAIL_BYTES], knobs[CUT]
    size, seen = walkers[STATE][at, SIZE], walkers[STATE][at, SCORED]
    pool, tails, m = walkers[POOLS][at], tails_of(segment, tail), counts[i]
    spent[i] += seen * head + (size if tail else 0) * tail
    record[ROWS_IN] += seen
    record[DIMS_READ] += seen * min(knobs[WIDTH], head)
    scale = np.float32(scale_of(unit, below[i]))
    if tail:
        record[DIMS_READ] += size * (knobs[WIDTH] - head)
        if size == found(knobs):  # as many are as good: what is worse is of no use
            worst[i] = max(worst[i], np.float32(pool[size] >> NODE_BITS) * scale)
        rest = codes[i, head:]
        size = refine(
            rest, code_offset(rest), tails, pool, size, knobs[SHORTLIST],
            walkers[NEAR][at, 0], walkers[SCORES],
        )  # fmt: skip
    record[ROWS_KEPT] += size
    if size == 0:
        return
    own = of_query(candidates, i)
    error = np.sqrt(knobs[WIDTH]) / 2 * unit if knobs[CERTIFIED] else -1.0
    counts[i] = expand(
        pool[1:], size, segment, knobs[K], cut, scale, own[0], own[1], own[3],
        graph_of(segment, head)[0], tails, np.float32(error), m,
    )  # fmt: skip
    grown = counts[i] > m
    if counts[i] > most:
        counts[i] = shorten(own, counts[i], cut)
    if grown and counts[i] == cut and tail == 0:
        worst[i] = np.inf
        for j in range(cut):
            worst[i] = min(worst[i], own[1][j])


@bare
def gather_segment(
    coded: Coded,
    first: int,
    stop: int,
    segment: Array,
    unit: float,
    guard: int,
    most: int,
    knobs: Array,
    slack: float,
    walkers: Walkers,
    visited: Array,
    candidates: tuple[Array, ...],
    counts: Array,
    spent: Array,
    record: Array,
) -> None:
    """Add one segment's candidates to those of the queries from `first` to `stop`.

    Parameters
    ----------
    coded : see `Coded`
    first, stop : int
        At most as many queries as there are walkers.
    unit : float
        The coordinate that a code of 1 stands for.
    guard : see `retrieve`
    most : int
        Candidates that a query may have before they are shortened.
    """
    m = 0
    for i in range(first, stop):
        if counts[i] >= 0:
            send_out(coded, i, unit, knobs[CODE_BYTES], walkers, m)
            m += 1
    retrieve(walkers, m, segment, knobs, slack, guard, visited)
    m = 0
    for i in range(first, stop):
        if counts[i] >= 0:
            collect(
                coded, i, segment, unit, most, knobs, walkers, m, candidates, counts,
                spent, record,
            )  # fmt: skip
            m += 1


@bare
def gather(
    projected: Array,
    coded: Coded,
    table: Array,
    knobs: Array,
    scales: Array,
    walkers: Walkers,
    visited: Array,
    candidates: tuple[Array, ...],
    counts: Array,
    spent: Array,
    record: Array,
) -> None:
    """Write the candidates of some queries: the best `CUT` of all segments, and loose.

    Every query is searched in a segment before the next one: what the first has read of
    it, the others find near.

    Parameters
    ----------
    projected : (b, p) float32
    coded : see `Coded`, scratch
    walkers : see `walk.Walkers`, scratch
    candidates : (b, c), out
        Rows, their scores, and what `kernels/stages.py` needs beside them.
    counts : (b,) int64, in and out
        How many there are; a query that comes with less than 0 is left out.
    spent : (b,) int64, out
        Bytes of codes that were read for each query.
    record : (4,) int64
        Of the trace; added to.
    """
    b, cut, together = len(projected), knobs[CUT], len(walkers[STATE])
    for i in range(b):
        code_query(projected[i], coded, knobs, i)
        spent[i] = 0
    nodes = 0
    for s in range(len(table)):
        nodes += table[s, NODES]
    for s in range(len(table)):
        # As many as this segment's share of a list over all, and some more.
        guard = knobs[RANK] + knobs[EF] * table[s, NODES] // max(1, nodes)
        # Ranked only once they are some more: what a small segment gives is little.
        most = cut + cut // SURPLUS if s < len(table) - 1 else cut
        for i in range(0, b, together):
            gather_segment(
                coded, i, min(i + together, b), table[s], scales[CODE_UNITS + s],
                max(guard, GUARD * knobs[RANK]), most, knobs, scales[SLACK], walkers,
                visited, candidates, counts, spent, record,
            )  # fmt: skip
    for i in range(b):
        rows, scores, _, errors, _, _ = of_query(candidates, i)
        for s in range(len(table)):
            if counts[i] >= 0:
                counts[i] = add_loose(table[s], rows, scores, errors, counts[i])
