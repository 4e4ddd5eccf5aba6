"""The funnel: prepare a query, find its shortlist, rerank it stage by stage.

Arrays and numbers only. One compiled kernel serves every cascade; `search.py` lays
out its arguments and calls it, once for each thread.

q = queries, d = full dims, s = segments, w = bytes of a code, k = answers, r = records
of the trace (record 0 is the walk or scan, record i the i-th stage).
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.candidates import write_best
from funnel.kernels.codes import code_offset, quantise
from funnel.kernels.gather import SURPLUS, gather, new_codes, of_query
from funnel.kernels.jit import bare, kernel, ticks
from funnel.kernels.knobs import (
    BLIND,
    BY_NORM,
    CERTIFIED,
    CODE_BYTES,
    CUT,
    EF,
    LOOSE,
    MAX_TICKS,
    ROWS_IN,
    ROWS_KEPT,
    TICKS,
    TOGETHER,
    WIDTH,
)
from funnel.kernels.query import norm, project, project_codes
from funnel.kernels.retrieve import found, reach
from funnel.kernels.segments import DEGREE, LOOSE_COUNT
from funnel.kernels.stages import rerank, rerank_certified
from funnel.kernels.tiles import LANES
from funnel.kernels.types import Array
from funnel.kernels.walk import new_walkers

FAINT = 0.02  # share of a norm: a projection that holds less is taken in floats


@bare
def prepare(raw: Array, query: Array, by_norm: bool) -> np.float32:
    """Copy a query, scaled to unit norm.

    Returns what its scores are multiplied by: 1, or its norm under inner product.
    """
    full = norm(raw)
    factor = 1 / full if full > 0 else np.float64(0)
    for j in range(len(raw)):
        query[j] = np.float32(np.float64(raw[j]) * factor)
    return np.float32(full) if by_norm else np.float32(1)


@bare
def prepare_some(
    raw: Array,
    axes: tuple[Array, Array, Array],
    by_norm: bool,
    closely: bool,
    head: int,
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
    head : int
        How many of the coordinates a walk scores, at least.
    projected : (b, p) float32, out
    factors : (b,) float32, out
    coded : codes, scales, offsets of the queries, scratch
        (b, w) int8, (b,) float32, (b,) int32.
    """
    floats, tiles, units = axes
    codes, scales, offsets = coded
    for i in range(len(raw)):
        factors[i] = prepare(raw[i], queries[i], by_norm)
    if len(floats) == 0:
        for i in range(len(raw)):
            for j in range(projected.shape[1]):
                projected[i, j] = queries[i, j]
        return
    if closely:
        project(queries[: len(raw)], floats[: projected.shape[1]], projected)
        return
    for i in range(len(raw)):
        scales[i] = quantise(queries[i], codes[i])
        offsets[i] = code_offset(codes[i])
    some = codes[: len(raw)]
    width = projected.shape[1]
    project_codes(some, scales, offsets, tiles, units, projected)
    for i in range(len(raw)):
        if norm(projected[i, :head]) < FAINT:
            project(queries[i : i + 1], floats[:width], projected[i : i + 1])


@kernel
def search_many(
    queries: Array,
    axes: tuple[Array, Array, Array],
    memory: tuple[Array, Array, Array],
    plan: tuple[Array, Array, Array],
    knobs: Array,
    scales: Array,
    visited: Array,
    out: tuple[Array, Array, Array],
) -> tuple[int, int]:
    """Search every query, `TOGETHER` at a time.

    Parameters
    ----------
    queries : (q, d) float32
        Not normalised.
    axes : axes, their codes as tiles, the codes' units
        (p, d) float32, (⌈p / 16⌉, 16 w) uint8, (p,) float32; none (p = 0) where the
        projection is the embedding's own prefix.
    memory : table, starts, like
        The table of `kernels/segments.py`; the rest as in `rerank.find_rows`.
    plan : see `rerank`
    knobs : (15,) int64
        ef, shortlist, rows after the walk's cut, k, projected dims, inner product?, the
        rank that the slack is measured from, bytes of a code, stored norms a row, rows
        that are too few to be all that a walk finds, rerank by bounds?, which norm is
        of the code's coordinates, bytes and ticks that a query may take (−1: any).
    scales : (1 + s,) float64
        The walk's slack, −1 for none; the coordinate that a code of 1 stands for, in
        each segment.
    visited : (walks at once, most nodes of a segment + 1) uint8
        Kept between calls; the last entry of each is its epoch.
    out : rows, scores, trace
        (q, k) int64, (q, k) float32, (r, 4) int64. Rows are −1 and scores
        −inf where there are fewer than k.

    Returns
    -------
    blind, short : int
        Queries of which a walk would see nothing, so that no code can rank for them:
        their first row is `BLIND`. Those whose budget ended before their last stage.
    """
    table, (out_rows, out_scores, trace) = memory[0], out
    longest, loose, degree = found(knobs), 0, 0
    for s in range(len(table)):
        longest = max(longest, reach(table[s], knobs[EF]))
        loose += table[s, LOOSE_COUNT]
        degree = max(degree, table[s, DEGREE])
    limit = knobs[CUT] * min(len(table), 2) + knobs[CUT] // SURPLUS + loose
    # A budget of time is each query's own.
    some = min(TOGETHER if knobs[MAX_TICKS] < 0 else 1, len(queries))
    candidates = (
        np.empty((some, limit), np.int64),
        np.empty((some, limit), np.float32),
        np.empty((some, limit), np.float32),
        np.empty((some, limit), np.float32),
        np.empty((some, limit), np.int64),
        np.empty((some, limit), np.bool_),
    )
    ready = np.empty((some, queries.shape[1]), np.float32)
    projected = np.empty((some, knobs[WIDTH]), np.float32)
    factors = np.empty(some, np.float32)
    whole = (
        np.empty((some, axes[1].shape[1] // LANES), np.int8),
        np.empty(some, np.float32),
        np.empty(some, np.int32),
    )
    coded = new_codes(some, knobs)
    walkers = new_walkers(min(some, len(visited)), knobs[CODE_BYTES], longest, degree)
    counts, spent = np.empty(some, np.int64), np.empty(some, np.int64)
    blind, short = 0, 0
    for first in range(0, len(queries), max(1, some)):
        b, began = min(some, len(queries) - first), ticks()
        prepare_some(
            queries[first : first + b],
            axes,
            knobs[BY_NORM] != 0,
            knobs[CERTIFIED] != 0,
            knobs[CODE_BYTES],
            ready[:b],
            projected[:b],
            factors,
            whole,
        )
        for i in range(b):
            walked = projected[i, : knobs[CODE_BYTES]]
            lost = norm(walked) < LOOSE and len(plan[0]) > 0
            counts[i] = -1 if lost else 0
        gather(
            projected[:b], coded, table, knobs, scales, walkers, visited, candidates,
            counts, spent, trace[0],
        )  # fmt: skip
        trace[0, TICKS] += ticks() - began
        for i in range(b):
            at = first + i
            if counts[i] < 0:
                out_rows[at], out_scores[at] = -1, -np.inf
                out_rows[at, 0] = BLIND
                blind += 1
                continue
            short += finish(
                ready[i],
                projected[i],
                factors[i],
                memory,
                plan,
                knobs,
                of_query(candidates, i),
                counts[i],
                (spent[i], began),
                (out_rows[at], out_scores[at], trace),
            )
    if len(trace) > 1 + len(plan[0]):
        trace[1, ROWS_IN] = trace[0, ROWS_KEPT]
    return blind, short


@bare
def finish(
    query: Array,
    projected: Array,
    factor: np.float32,
    memory: tuple[Array, Array, Array],
    plan: tuple[Array, Array, Array],
    knobs: Array,
    candidates: tuple[Array, ...],
    m: int,
    spent: tuple[int, int],
    out: tuple[Array, Array, Array],
) -> int:
    """Rerank a query's `m` candidates and write its answers.

    `spent` is what `stages.rerank` takes, the rest is of `search_many`. Returns 1 if
    the budget ended before the last stage, else 0.
    """
    out_rows, out_scores, trace = out
    out_rows[:], out_scores[:] = -1, -np.inf
    stages, done = len(plan[0]), len(plan[0])
    if len(trace) > 1 + stages:
        trace[1, ROWS_KEPT] += m
    if knobs[CERTIFIED] != 0:
        m, done = rerank_certified(
            query, projected, memory, knobs, candidates, m, spent, trace[-1]
        )
    elif stages > 0:
        m, done = rerank(query, memory, plan, knobs, candidates, m, spent, trace)
    write_best(candidates, m, factor, out_rows, out_scores)
    return int(done < stages)
