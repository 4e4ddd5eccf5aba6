"""Rerank best first, and stop when no row that is left can be an answer.

Arrays and numbers only: no I/O, no validation. Called by `kernels/stages.py`.

What a code can hide is bounded: by how far a code may be from its row's coordinates,
and, by Cauchy and Schwarz, by what of row and query lies outside the projection.

c = candidates, d = full dims, p = projected dims, w = bytes of a code.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from funnel.kernels.jit import kernel
from funnel.kernels.query import norm
from funnel.kernels.rerank import extend, pack, renormalise
from funnel.kernels.scan import push
from funnel.kernels.segments import norms_at
from funnel.kernels.types import TINY, Array

TOGETHER = 8  # rows read before one looks whether to go on
ROUNDING = 2e-5  # of a cosine: float32 sums over thousands of dims, stored norms
TOP = 3e38  # a greater error is no bound
OUTSIDE = 1e-6  # of a squared norm: what rounding can hide of what is outside


@kernel
def code_error(code: Array, most: np.float32) -> np.float32:
    """Return how far a code may be from the coordinates it stands for.

    Parameters
    ----------
    code : (w,) int8
    most : float32
        The error of a code none of whose coordinates was clipped. Of others it is not
        bounded: infinity.
    """
    error = most
    for j in range(len(code)):
        if code[j] == 127 or code[j] == -127:
            error = np.float32(np.inf)
    return error


@kernel
def query_error(projected: Array, held: float) -> float:
    """Return how far a query's code, at unit norm, may be from its coordinates."""
    largest: Any = np.float32(0)
    for j in range(len(projected)):
        largest = max(largest, abs(projected[j]))
    return float(np.sqrt(len(projected)) * float(largest) / (254 * max(held, 1e-12)))


@kernel
def outside(held: float) -> float:
    """Return the norm of what a projection leaves out of a unit vector, from above."""
    return float(np.sqrt(max(0.0, 1.0 - held * held) + OUTSIDE))


@kernel
def bound_scores(
    projected: Array,
    table: Array,
    columns: tuple[int, int],
    by_norm: bool,
    candidates: tuple[Array, ...],
    m: int,
    bounds: Array,
) -> None:
    """Write what each of `m` candidates can score at most.

    Parameters
    ----------
    projected : (p,) float32
        The query's coordinates, of a query of unit norm.
    table : the segments' table
    columns : stored norms a row, and which of them is of the code's coordinates
    candidates : rows, scores, dots, squares, keys, spare
        Scores are those of codes, squares the errors of the codes (`code_error`).
    bounds : (≥ m,) float32, out
        Cosines; under inner product times the full norm, as scores are.
    """
    rows, scores, _, errors, _, _ = candidates
    held = min(1.0, float(norm(projected)))
    loose, beyond = query_error(projected, held), outside(held)
    for i in range(m):
        norms = norms_at(table, rows[i], columns[0])
        full = norms[columns[0] - 1]
        inside = min(1.0, norms[columns[1]] / full) if full >= TINY else 0.0
        length = float(full) if by_norm else 1.0
        error = errors[i] + (length + errors[i]) * loose
        highest = (scores[i] + error) * inside * held
        bound = highest + length * (outside(inside) * beyond + ROUNDING)
        # An error without a bound says nothing; nor does the code of a row of no norm.
        bounds[i] = np.float32(bound) if errors[i] < TOP else np.float32(np.inf)


@kernel
def certify(
    query: Array,
    projected: Array,
    memory: tuple[Array, Array, Array],
    columns: tuple[int, int],
    by_norm: bool,
    candidates: tuple[Array, ...],
    m: int,
    k: int,
) -> int:
    """Score candidates at full width, likeliest first, until no other can be a hit.

    The answers are those of scoring all `m`. Rows and scores come out, in any order;
    returns how many were scored.

    Parameters
    ----------
    query : (d,) float32, unit norm
    memory : see `rerank.find_rows`
    k : int
        Answers.
    others : see `bound_scores`
    """
    rows, scores, dots, squares, keys, _ = candidates
    bounds, order = np.empty(m, np.float32), np.empty(m, np.int64)
    bound_scores(projected, memory[0], columns, by_norm, candidates, m, bounds)
    pack(bounds, m, keys)
    keys[:m].sort()
    for i in range(m):
        order[i] = rows[0x7FFFFFFF - (keys[m - 1 - i] & 0x7FFFFFFF)]
    bounds.sort()
    rows[:m], dots[:m], squares[:m] = order, 0, 0
    best, places = np.full(k, -np.inf, np.float32), np.zeros(k, np.int64)
    done, length = 0, np.float32(norm(query))
    while done < m and not (bounds[m - 1 - done] < best[k - 1]):
        some = min(TOGETHER, m - done)
        stop = done + some
        extend(
            query, memory, rows[done:stop], some, 0, len(query), dots[done:stop], keys
        )
        renormalise(
            rows[done:stop], some, dots[done:stop], squares[done:stop], memory[0],
            columns[0], columns[0] - 1, length, by_norm, scores[done:stop],
        )  # fmt: skip
        for i in range(done, stop):
            if scores[i] > best[k - 1]:
                push(places, best, i, scores[i])
        done = stop
    return done
