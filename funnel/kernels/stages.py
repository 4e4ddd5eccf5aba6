"""Run the stages of a cascade over a query's candidates. Arrays and numbers only.

No I/O, no validation. Called by `kernels/funnel.py`; the arithmetic is in
`kernels/rerank.py` and `kernels/certify.py`.

d = full dims, k = answers, r = records of the trace.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from funnel.kernels.certify import certify
from funnel.kernels.jit import bare, kernel, ticks
from funnel.kernels.knobs import (
    BY_NORM,
    CODE_COLUMN,
    COLUMNS,
    DIMS_READ,
    MAX_BYTES,
    MAX_TICKS,
    ROWS_IN,
    ROWS_KEPT,
    TICKS,
    K,
)
from funnel.kernels.memory import prefetch_at
from funnel.kernels.query import norm
from funnel.kernels.rerank import (
    extend,
    extend_with_squares,
    pack,
    renormalise,
    select,
)
from funnel.kernels.segments import norms_from
from funnel.kernels.types import Array

NORM_BYTES = 4


@bare
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


@bare
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
    for i in range(m):  # needed once the rows are read
        prefetch_at(norms_from(memory[0], rows[i], knobs[COLUMNS]))
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


@bare
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
