"""The funnel: prepare a query, find its shortlist, rerank it stage by stage.

Arrays and numbers only. One compiled kernel serves every cascade; `search.py` lays
out its arguments and calls it, once for each thread.

q = queries, d = full dims, n = rows, v = nodes, k = answers, r = records of the trace
(record 0 is the walk or scan, record i the i-th stage).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from funnel.kernels.candidates import expand, write_best
from funnel.kernels.codes import code_offset, quantise
from funnel.kernels.jit import kernel, ticks
from funnel.kernels.query import norm, project, project_codes
from funnel.kernels.rerank import (
    extend,
    extend_with_squares,
    pack,
    renormalise,
    select,
)
from funnel.kernels.types import Array
from funnel.kernels.walk import ROOM, best_entry, scan, walk

# Columns of a trace record.
ROWS_IN, ROWS_KEPT, DIMS_READ, TICKS = 0, 1, 2, 3
# Places in `knobs`.
EF, SHORTLIST, CUT, K, WIDTH, BY_NORM, RANK = 0, 1, 2, 3, 4, 5, 6
KNOBS = 7
# Places in `scales`.
CODE_UNIT, SLACK = 0, 1
SCALES = 2
BLIND = -2
LOOSE = 1e-6  # share of a norm: a projection that holds less says nothing
FAINT = 0.02  # share of a norm: a projection that holds less is taken in floats
TOGETHER = 4  # queries: so many and an axis fit the nearest cache


@kernel
def prepare(raw: Array, query: Array, by_norm: bool) -> np.float32:
    """Copy a query, scaled to unit norm.

    Returns what its scores are multiplied by: 1, or its norm under inner product.
    """
    full = norm(raw)
    factor = 1 / full if full > 0 else np.float64(0)
    for j in range(len(raw)):
        query[j] = np.float32(np.float64(raw[j]) * factor)
    return np.float32(full) if by_norm else np.float32(1)


@kernel
def prepare_some(
    raw: Array,
    axes: tuple[Array, Array, Array],
    by_norm: bool,
    queries: Array,
    projected: Array,
    factors: Array,
    coded: tuple[Array, Array, Array],
) -> None:
    """Prepare and project up to `TOGETHER` queries.

    Parameters
    ----------
    raw, queries : (b, d) float32, in and out
    axes : see `search_many`
    projected : (b, p) float32, out
    factors : (b,) float32, out
    coded : codes, scales, offsets of the queries, scratch
        (b, w) int8, (b,) float32, (b,) int32.
    """
    floats, axis_codes, axis_units = axes
    codes, scales, offsets = coded
    for i in range(len(raw)):
        factors[i] = prepare(raw[i], queries[i], by_norm)
    if len(floats) == 0:
        projected[:] = queries[:, : projected.shape[1]]
        return
    for i in range(len(raw)):
        scales[i] = quantise(queries[i], codes[i])
        offsets[i] = code_offset(codes[i])
    some = codes[: len(raw)]
    width = projected.shape[1]
    project_codes(
        some, scales, offsets, axis_codes[:width], axis_units[:width], projected
    )
    for i in range(len(raw)):
        if norm(projected[i]) < FAINT:
            project(queries[i : i + 1], floats[:width], projected[i : i + 1])


@kernel
def retrieve(
    projected: Array,
    graph: tuple[Array, ...],
    knobs: Array,
    scales: Array,
    visited: Array,
    epoch: np.uint8,
    pool: Array,
) -> tuple[int, int, np.float32]:
    """Fill `pool` with the shortlist's nodes, packed, best first, from place 1 on.

    Parameters
    ----------
    projected : (p,) float32
        The query's coordinates that codes hold.

    Returns
    -------
    size, scored : int
        Nodes of the shortlist, nodes scored.
    scale : float32
        What makes a node's integer score the cosine of the coordinates.
    """
    codes, neighbours, entry_nodes, entry_codes = graph[:4]
    coordinates = projected
    code = np.empty(codes.shape[1], np.int8)
    below = quantise(coordinates, code) * norm(coordinates)
    scale = scales[CODE_UNIT] / below if below > 0 else 0.0
    offset, degree = code_offset(code), neighbours.shape[1]
    if degree == 0:
        size = scan(code, offset, codes, knobs[SHORTLIST], pool)
        return size, len(codes), np.float32(scale)
    top = 1 / scale if scale > 0 else 0.0
    place, score = best_entry(code, offset, entry_codes)
    size, scored = walk(
        code,
        offset,
        codes,
        neighbours,
        (entry_nodes[place], score),
        knobs[EF],
        (knobs[RANK], knobs[SHORTLIST], top, scales[SLACK]),
        visited,
        epoch,
        pool,
        np.empty((2, degree), np.int32),
        np.empty(degree, np.int64),
    )
    return min(size, knobs[SHORTLIST]), scored + len(entry_codes), np.float32(scale)


@kernel
def rerank(
    query: Array,
    vectors: tuple[tuple[Array, ...], Array, Array],
    plan: tuple[Array, Array, Array],
    knobs: Array,
    candidates: tuple[Array, ...],
    m: int,
    trace: Array,
) -> int:
    """Run the stages of a cascade over `m` candidates; return how many are left.

    Parameters
    ----------
    query : (d,) float32, unit norm
    vectors : column blocks, their first dims, prefix norms
    plan : three int64 arrays, an entry a stage
        Dim, keep, and the column of its norms (−1 if they are not stored).
    candidates : rows, scores, dots, squares, keys, spare
        Rows come in; rows and scores go out.
    trace : (r, 4) int64, added to
    """
    blocks, starts, norms = vectors
    dims, keeps, columns = plan
    rows, scores, dots, squares, keys, spare = candidates
    dots[:m], squares[:m] = 0, 0
    counting = False
    for s in range(len(dims)):
        counting |= columns[s] < 0
    start, square, first = 0, np.float64(0), len(trace) - len(dims)
    for s in range(len(dims)):
        began, stop, m_in = ticks(), dims[s], m
        square += norm(query[start:stop]) ** 2
        if counting:
            extend_with_squares(
                query, blocks, starts, rows, m, start, stop, dots, squares, norms
            )
        else:
            extend(query, blocks, starts, rows, m, start, stop, dots)
        length = np.float32(np.sqrt(square))
        by_norm = knobs[BY_NORM] != 0
        renormalise(rows, m, dots, squares, norms, columns[s], length, by_norm, scores)
        pack(scores, m, keys)
        m = select(keys, m, keeps[s], rows, dots, squares, scores, spare)
        record = trace[first + s]
        record[ROWS_IN] += m_in
        record[ROWS_KEPT] += m
        record[DIMS_READ] += m_in * (stop - start)
        record[TICKS] += ticks() - began
        start = stop
    return m


@kernel
def search_many(
    queries: Array,
    graph: tuple[Array, ...],
    axes: tuple[Array, Array, Array],
    vectors: tuple[tuple[Array, ...], Array, Array],
    plan: tuple[Array, Array, Array],
    knobs: Array,
    scales: Array,
    visited: Array,
    out: tuple[Array, Array, Array],
) -> int:
    """Search every query, one after the other.

    Parameters
    ----------
    queries : (q, d) float32
        Not normalised.
    graph : codes, neighbours, entry nodes, entry codes, node starts, node rows, loose
        (v, w) int8, (v, g) int32, (e,) int32, (e, w) int8, (v + 1,) int64, and int64
        rows. No links (g = 0): every code is scanned. No starts: node i is row i.
    axes : axes, their codes, the codes' units
        (p, d) float32, (p, w) int8, (p,) float32; none (p = 0) where the projection is
        the embedding's own prefix.
    vectors, plan : see `rerank`
    knobs : (7,) int64
        ef, shortlist, rows after the walk's cut, k, projected dims, inner product?, and
        the rank that the slack is measured from.
    scales : (2,) float64
        The coordinate that a code of 1 stands for; the walk's slack, −1 for none.
    visited : (v + 1,) uint8
        Kept between calls; its last entry is the epoch.
    out : rows (q, k) int64, scores (q, k) float32, trace (r, 4) int64
        Rows are −1 and scores −inf where there are fewer than k.

    Returns
    -------
    int
        Blind queries: those that the projection says nothing of, so that no code can
        rank for them. Their first row is `BLIND`.
    """
    out_rows, out_scores, trace = out
    pool = np.empty(max(knobs[EF], knobs[SHORTLIST]) + ROOM, np.int64)
    limit = knobs[CUT] + len(graph[6])
    candidates = (
        np.empty(limit, np.int64),
        np.empty(limit, np.float32),
        np.empty(limit, np.float32),
        np.empty(limit, np.float32),
        np.empty(limit, np.int64),
        np.empty(limit, np.bool_),
    )
    some = min(TOGETHER, len(queries))
    ready = np.empty((some, queries.shape[1]), np.float32)
    projected = np.empty((some, knobs[WIDTH]), np.float32)
    factors = np.empty(some, np.float32)
    coded = (
        np.empty((some, axes[1].shape[1]), np.int8),
        np.empty(some, np.float32),
        np.empty(some, np.int32),
    )
    blind = 0
    for first in range(0, len(queries), TOGETHER):
        last = min(first + TOGETHER, len(queries))
        began = ticks()
        prepare_some(
            queries[first:last],
            axes,
            knobs[BY_NORM] != 0,
            ready[: last - first],
            projected[: last - first],
            factors,
            coded,
        )
        trace[0, TICKS] += ticks() - began
        for i in range(first, last):
            blind += search_one(
                ready[i - first],
                projected[i - first],
                factors[i - first],
                graph,
                vectors,
                plan,
                knobs,
                scales,
                visited,
                pool,
                candidates,
                (out_rows[i], out_scores[i], trace),
            )
    return blind


@kernel
def search_one(
    query: Array,
    projected: Array,
    factor: np.float32,
    graph: tuple[Array, ...],
    vectors: tuple[tuple[Array, ...], Array, Array],
    plan: tuple[Array, Array, Array],
    knobs: Array,
    scales: Array,
    visited: Array,
    pool: Array,
    candidates: tuple[Array, ...],
    out: tuple[Array, Array, Array],
) -> int:
    """Search one prepared query; arguments and result are those of `search_many`."""
    out_rows, out_scores, trace = out
    out_rows[:], out_scores[:] = -1, -np.inf
    if norm(projected) < LOOSE and len(plan[0]) > 0:
        out_rows[0] = BLIND
        return 1
    stages, began = len(plan[0]), ticks()
    epoch = next_epoch(visited)
    size, scored, scale = retrieve(
        projected, graph, knobs, scales, visited, epoch, pool
    )
    n, rows, scores = len(vectors[2]), candidates[0], candidates[1]
    m = expand(pool[1:], size, graph, knobs[K], n, rows, scores)
    trace[0, ROWS_IN] += scored
    trace[0, ROWS_KEPT] += size
    trace[0, DIMS_READ] += scored * knobs[WIDTH]
    trace[0, TICKS] += ticks() - began
    if len(trace) > 1 + stages:
        trace[1, ROWS_IN] += size
        trace[1, ROWS_KEPT] += m
    if stages > 0:
        m = rerank(query, vectors, plan, knobs, candidates, m, trace)
    else:
        factor *= scale
    write_best(candidates, m, factor, out_rows, out_scores)
    return 0


@kernel
def next_epoch(visited: Array) -> Any:
    """Start a new walk: advance the epoch in the last entry, clear on overflow."""
    last = len(visited) - 1
    if visited[last] == 255:
        visited[:] = 0
    visited[last] += np.uint8(1)
    return visited[last]
