"""The funnel: prepare a query, find its shortlist, rerank it stage by stage.

Arrays and numbers only. One compiled kernel serves every cascade; `search.py` lays
out its arguments and calls it, once for each thread.

q = queries, d = full dims, s = segments, w = bytes of a code, k = answers, r = records
of the trace (record 0 is the walk or scan, record i the i-th stage).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from funnel.kernels.candidates import add_loose, expand, write_best
from funnel.kernels.certify import certify
from funnel.kernels.codes import code_offset, quantise
from funnel.kernels.jit import kernel, ticks
from funnel.kernels.memory import numbers_at
from funnel.kernels.query import norm, project, project_codes
from funnel.kernels.rerank import (
    extend,
    extend_with_squares,
    pack,
    renormalise,
    select,
)
from funnel.kernels.segments import (
    DEGREE,
    LISTED,
    LISTED_COUNT,
    LOOSE_COUNT,
    NO_INT32,
    NODES,
    PASSED,
    flags_of,
    graph_of,
)
from funnel.kernels.types import Array
from funnel.kernels.walk import (
    LOWEST_SCORE,
    ROOM,
    best_entry,
    keep_passing,
    scan,
    scan_listed,
    walk,
)

# Columns of a trace record.
ROWS_IN, ROWS_KEPT, DIMS_READ, TICKS = 0, 1, 2, 3
# Places in `knobs`.
EF, SHORTLIST, CUT, K, WIDTH, BY_NORM, RANK, CODE_BYTES, COLUMNS, FEWEST = range(10)
CERTIFIED, CODE_COLUMN, MAX_BYTES, MAX_TICKS = range(10, 14)
KNOBS = 14
# Places in `scales`.
SLACK, CODE_UNITS = 0, 1
BLIND = -2
LOOSE = 1e-6  # share of a norm: a projection that holds less says nothing
FAINT = 0.02  # share of a norm: a projection that holds less is taken in floats
NORM_BYTES = 4
TOGETHER = 4  # queries: so many and an axis fit the nearest cache
# What it costs to score a node of a list, and to expand one in a walk, in equal units.
LISTED_COST, EXPANDED_COST = 1, 60
GUARD = 2  # times the rank of the slack: nodes expanded before a floor ends a walk
SPARE = 5 / 4  # nodes that may be answers are not spread evenly


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
    closely: bool,
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
    closely : bool
        Project over the axes themselves, not over their codes.
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
    if closely:
        project(queries[: len(raw)], floats[: projected.shape[1]], projected)
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
def gather(
    projected: Array,
    table: Array,
    knobs: Array,
    scales: Array,
    visited: Array,
    pool: Array,
    candidates: tuple[Array, ...],
    record: Array,
) -> int:
    """Write the candidates of all segments, the best `CUT` and loose rows.

    Returns how many there are. `record`, of the trace, is added to.
    """
    code = np.empty(knobs[CODE_BYTES], np.int8)
    below = quantise(projected, code) * norm(projected)
    offset, m = code_offset(code), 0
    rows, scores, _, errors, _, _ = candidates
    floor = np.int64(LOWEST_SCORE)
    nodes = max(1, table[:, NODES].sum())
    for s in range(len(table)):
        # As many as this segment's share of a list over all, and some more.
        guard = knobs[RANK] + knobs[EF] * table[s, NODES] // nodes
        scale = scales[CODE_UNITS + s] / below if below > 0 else 0.0
        if m == knobs[CUT] and scale > 0:
            floor = np.int64(np.floor(scores[:m].min() / scale))
        size, scored = retrieve(
            code,
            offset,
            table[s],
            knobs,
            1 / scale if scale > 0 else 0.0,
            scales[SLACK],
            floor,
            max(guard, GUARD * knobs[RANK]),
            visited,
            pool,
        )
        record[ROWS_IN] += scored
        record[ROWS_KEPT] += size
        record[DIMS_READ] += scored * knobs[WIDTH]
        error = np.sqrt(knobs[WIDTH]) / 2 * scales[CODE_UNITS + s]
        m = expand(
            pool[1:], size, table[s], knobs[K], knobs[CUT], np.float32(scale), rows,
            scores, errors, graph_of(table[s], knobs[CODE_BYTES])[0],
            np.float32(error if knobs[CERTIFIED] else -1), m,
        )  # fmt: skip
        if m > knobs[CUT]:
            m = shorten(candidates, m, knobs[CUT])
    for s in range(len(table)):
        m = add_loose(table[s], rows, scores, errors, m)
    return m


@kernel
def rerank(
    query: Array,
    memory: tuple[Array, Array, Array],
    plan: tuple[Array, Array, Array],
    knobs: Array,
    candidates: tuple[Array, ...],
    m: int,
    spent: tuple[int, int],
    trace: Array,
) -> tuple[int, int]:
    """Run the stages of a cascade over `m` candidates.

    Returns
    -------
    m, done : int
        Candidates that are left, and stages that were run: all that the budget allows.

    Parameters
    ----------
    query : (d,) float32, unit norm
    memory : table, starts, like
        See `kernels/rerank.py: find_rows`.
    plan : three int64 arrays, an entry a stage
        Dim, keep, and the column of its norms (−1 if they are not stored).
    candidates : rows, scores, dots, squares, keys, spare
        Rows come in; rows and scores go out.
    spent : bytes read and the time of the beginning
    trace : (r, 4) int64, added to
    """
    dims, keeps, columns = plan
    dots, squares, counting = candidates[2], candidates[3], False
    dots[:m], squares[:m] = 0, 0
    for s in range(len(dims)):
        counting |= columns[s] < 0
    start, square, first = 0, 0.0, len(trace) - len(dims)
    used, since = spent
    for s in range(len(dims)):
        used += m * ((dims[s] - start) * memory[2].itemsize + NORM_BYTES)
        if is_over(knobs, used, since):
            return m, s
        stage = (start, dims[s], keeps[s], columns[s])
        m, square = rerank_stage(
            query, memory, stage, knobs, candidates, m, counting, square,
            trace[first + s],
        )  # fmt: skip
        start = dims[s]
    return m, len(dims)


@kernel
def rerank_stage(
    query: Array,
    memory: tuple[Array, Array, Array],
    stage: tuple[int, int, int, int],
    knobs: Array,
    candidates: tuple[Array, ...],
    m: int,
    counting: bool,
    square: float,
    record: Array,
) -> tuple[int, float]:
    """Continue scores of `m` candidates over more dims and keep the best.

    Parameters
    ----------
    stage : start, stop, keep, column
        Dims that were read before, dims to score, rows to keep, the column of the norms
        of that prefix (−1 if they are not stored).
    counting : bool
        Some stage has no stored norms: squares are summed.
    square : float
        The squared norm of the query over the dims that were read before.
    record : (4,) int64, added to

    Returns
    -------
    m, square
        Candidates that are left, and the square over all dims so far.
    """
    began, (start, stop, keep, column) = ticks(), stage
    rows, scores, dots, squares, keys, spare = candidates
    square += norm(query[start:stop]) ** 2
    if counting:
        extend_with_squares(
            query, memory, rows, m, start, stop, dots, keys, squares, knobs[COLUMNS]
        )
    else:
        extend(query, memory, rows, m, start, stop, dots, keys)
    renormalise(
        rows, m, dots, squares, memory[0], knobs[COLUMNS], column,
        np.float32(np.sqrt(square)), knobs[BY_NORM] != 0, scores,
    )  # fmt: skip
    pack(scores, m, keys)
    left = select(keys, m, keep, rows, dots, squares, scores, spare)
    record[ROWS_IN] += m
    record[ROWS_KEPT] += left
    record[DIMS_READ] += m * (stop - start)
    record[TICKS] += ticks() - began
    return left, square


@kernel
def is_over(knobs: Array, used: int, since: int) -> Any:
    """Tell whether a query's budget of bytes or of time does not allow a stage."""
    over = knobs[MAX_BYTES] >= 0 and used > knobs[MAX_BYTES]
    return over or (knobs[MAX_TICKS] >= 0 and ticks() - since > knobs[MAX_TICKS])


@kernel
def rerank_certified(
    query: Array,
    projected: Array,
    memory: tuple[Array, Array, Array],
    knobs: Array,
    candidates: tuple[Array, ...],
    m: int,
    spent: tuple[int, int],
    record: Array,
) -> tuple[int, int]:
    """Do as `rerank` at full width alone, and drop only what cannot be an answer."""
    began, row_bytes = ticks(), len(query) * memory[2].itemsize + NORM_BYTES
    used = spent[0] + m * row_bytes
    if is_over(knobs, used, spent[1]):
        return m, 0
    columns = knobs[COLUMNS], knobs[CODE_COLUMN]
    by_norm, k = knobs[BY_NORM] != 0, knobs[K]
    m = certify(query, projected, memory, columns, by_norm, candidates, m, k)
    record[ROWS_IN] += m
    record[ROWS_KEPT] += min(m, k)
    record[DIMS_READ] += m * len(query)
    record[TICKS] += ticks() - began
    return m, 1


@kernel
def search_many(
    queries: Array,
    axes: tuple[Array, Array, Array],
    memory: tuple[Array, Array, Array],
    plan: tuple[Array, Array, Array],
    knobs: Array,
    scales: Array,
    visited: Array,
    out: tuple[Array, Array, Array, Array],
) -> int:
    """Search every query, one after the other.

    Parameters
    ----------
    queries : (q, d) float32
        Not normalised.
    axes : axes, their codes, the codes' units
        (p, d) float32, (p, w) int8, (p,) float32; none (p = 0) where the projection is
        the embedding's own prefix.
    memory : table, starts, like
        The table of `kernels/segments.py`; the rest as in `rerank.find_rows`.
    plan : see `rerank`
    knobs : (14,) int64
        ef, shortlist, rows after the walk's cut, k, projected dims, inner product?, the
        rank that the slack is measured from, bytes of a code, stored norms a row, rows
        that are too few to be all that a walk finds, rerank by bounds?, which norm is
        of the code's coordinates, bytes and ticks that a query may take (−1: any).
    scales : (1 + s,) float64
        The walk's slack, −1 for none; the coordinate that a code of 1 stands for, in
        each segment.
    visited : (most nodes of a segment + 1,) uint8
        Kept between calls; its last entry is the epoch.
    out : rows, scores, trace, whole
        (q, k) int64, (q, k) float32, (r, 4) int64, (q,) bool. Rows are −1 and scores
        −inf where there are fewer than k; a query is whole if all its stages were run.

    Returns
    -------
    int
        Blind queries: those that the projection says nothing of, so that no code can
        rank for them. Their first row is `BLIND`.
    """
    table, (out_rows, out_scores, trace, whole) = memory[0], out
    longest, loose = knobs[SHORTLIST], 0
    for s in range(len(table)):
        longest = max(longest, reach(table[s], knobs[EF]))
        loose += table[s, LOOSE_COUNT]
    pool = np.empty(longest + ROOM, np.int64)
    limit = knobs[CUT] * min(len(table), 2) + loose
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
            knobs[CERTIFIED] != 0,
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
                memory,
                plan,
                knobs,
                scales,
                visited,
                pool,
                candidates,
                (out_rows[i], out_scores[i], trace, whole[i : i + 1]),
            )
    return blind


@kernel
def search_one(
    query: Array,
    projected: Array,
    factor: np.float32,
    memory: tuple[Array, Array, Array],
    plan: tuple[Array, Array, Array],
    knobs: Array,
    scales: Array,
    visited: Array,
    pool: Array,
    candidates: tuple[Array, ...],
    out: tuple[Array, Array, Array, Array],
) -> int:
    """Search one prepared query; arguments and result are those of `search_many`."""
    out_rows, out_scores, trace, whole = out
    out_rows[:], out_scores[:], whole[0] = -1, -np.inf, True
    if norm(projected) < LOOSE and len(plan[0]) > 0:
        out_rows[0] = BLIND
        return 1
    stages, began = len(plan[0]), ticks()
    kept, scored = trace[0, ROWS_KEPT], trace[0, ROWS_IN]
    m = gather(projected, memory[0], knobs, scales, visited, pool, candidates, trace[0])
    trace[0, TICKS] += ticks() - began
    if len(trace) > 1 + stages:
        trace[1, ROWS_IN] += trace[0, ROWS_KEPT] - kept
        trace[1, ROWS_KEPT] += m
    spent, done = ((trace[0, ROWS_IN] - scored) * knobs[CODE_BYTES], began), stages
    if knobs[CERTIFIED] != 0:
        m, done = rerank_certified(
            query, projected, memory, knobs, candidates, m, spent, trace[-1]
        )
    elif stages > 0:
        m, done = rerank(query, memory, plan, knobs, candidates, m, spent, trace)
    whole[0] = done == stages
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
