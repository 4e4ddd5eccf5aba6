"""Search that scores every row: the answers that all others are measured against.

Called by `search.py`; the arithmetic is in `kernels/scan.py` and in BLAS.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from funnel.kernels.funnel import prepare
from funnel.kernels.scan import merge_scores, scan_rows
from funnel.kernels.types import TINY, Floats, Rows
from funnel.plan import Plan
from funnel.results import Trace, TraceStage
from funnel.selection import Selection
from funnel.snapshot import Snapshot
from funnel.vectors import unit

BLAS_QUERIES = 8  # below that a scan per query reads the vectors as fast
SCAN_ROWS = 16_384
PRODUCT_BYTES = 256 << 20
GATHERED_ROWS = 2_048  # at a time, where some rows may not be answers


class Operands(NamedTuple):
    """What rows are multiplied by.

    Parameters
    ----------
    ready : (q, d) float32
    factors : (q,) float32
        What a query's scores are multiplied by.
    dims : int
        How many dims are scored.
    column : int
        Which of the stored norms is of these dims.
    by_norm : bool
        Inner product.
    """

    ready: Floats
    factors: Floats
    dims: int
    column: int
    by_norm: bool


class Piece(NamedTuple):
    """Rows that are scored together: their column blocks, and their stored norms."""

    blocks: tuple[npt.NDArray[Any], ...]
    norms: Floats


def scan(
    snapshot: Snapshot, queries: Floats, plan: Plan, selection: Selection
) -> tuple[Rows, Floats, Trace]:
    """Score every row that may be an answer, at full width or at the codes' width."""
    q, began, first = len(queries), time.perf_counter_ns(), 0
    rows = np.full((q, plan.k), -1, np.int64)
    scores = np.full((q, plan.k), -np.inf, np.float32)
    operands = _operands(snapshot, queries, plan.mode)
    for piece in _pieces(snapshot, selection):
        weights = _weights(piece.norms, operands)
        if q < BLAS_QUERIES:
            _scan_each(snapshot, plan, piece, operands, weights, first, rows, scores)
        else:
            _scan_together(snapshot, piece, operands, weights, first, rows, scores)
        first += len(weights)
    rows = _numbered(selection, rows)
    scores *= operands.factors[:, None]
    spent, dims = (time.perf_counter_ns() - began) / 1e3, operands.dims
    read, size = q * first * dims, snapshot.like.itemsize
    record = TraceStage("scan", dims, q * first, q * plan.k, read, read * size, spent)
    return rows, scores, Trace((record,), q, spent)


def _pieces(snapshot: Snapshot, selection: Selection) -> Iterator[Piece]:
    """Yield the rows that may be answers: as they are mapped, or gathered."""
    for segment, flags in zip(snapshot.segments, selection.flags, strict=True):
        step = SCAN_ROWS if flags is None else GATHERED_ROWS
        chosen = None if flags is None else np.flatnonzero(flags)
        count = segment.rows if chosen is None else len(chosen)
        for start in range(0, count, step):
            at: Any = slice(start, min(start + step, count))
            if chosen is not None:
                at = chosen[at]
            blocks = tuple(block[at] for block in segment.blocks)
            for block in blocks:
                block.flags.writeable = False  # of one type for the compiler
            yield Piece(blocks, segment.norms[at])


def _numbered(selection: Selection, rows: Rows) -> Rows:
    """Turn places among the rows that may be answers into rows."""
    if all(flags is None for flags in selection.flags):
        return rows
    found: Rows = np.where(rows >= 0, selection.listed()[rows], -1)
    return found


def _scan_each(
    snapshot: Snapshot,
    plan: Plan,
    piece: Piece,
    operands: Operands,
    weights: Floats,
    first: int,
    rows: Rows,
    scores: Floats,
) -> None:
    """Score a piece against the queries one by one."""

    def work(start: int, stop: int) -> None:
        for i in range(start, stop):
            scan_rows(
                operands.ready[i], piece.blocks, snapshot.starts, operands.dims,
                weights, (0, len(weights)), first, rows[i], scores[i],
            )  # fmt: skip

    snapshot.threads.share(len(rows), plan.threads, work)


def _scan_together(
    snapshot: Snapshot,
    piece: Piece,
    operands: Operands,
    weights: Floats,
    first: int,
    rows: Rows,
    scores: Floats,
) -> None:
    """Score a piece against all queries at once, by BLAS."""
    kind, ready, edges = snapshot.manifest.dtype, operands.ready, snapshot.starts
    step = max(1, PRODUCT_BYTES // (4 * len(ready)))
    for low in range(0, len(weights), step):
        part = weights[low : low + step]
        products = np.zeros((len(ready), len(part)), np.float32)
        for i, block in enumerate(piece.blocks):
            left, right = edges[i], min(operands.dims, edges[i + 1])
            if left < right:
                held = block[low : low + step, : right - left].view(kind)
                products += ready[:, left:right] @ held.astype(np.float32, copy=False).T
        products *= part
        merge_scores(products, first + low, rows, scores)


def _operands(snapshot: Snapshot, queries: Floats, mode: str) -> Operands:
    """Return what rows are multiplied by in a mode.

    A prefix of the axes is scored without projecting the corpus: the query is
    projected and turned back, which keeps the inner products.
    """
    m, by_norm = snapshot.manifest, snapshot.manifest.metric == "ip"
    ready = np.empty_like(queries)
    factors = np.empty(len(queries), np.float32)
    for i in range(len(queries)):
        factors[i] = prepare(queries[i], ready[i], by_norm)
    if mode != "prefix":
        return Operands(ready, factors, m.full_dim, -1, by_norm)
    if m.projection == "pca":
        axes = snapshot.axes[: m.code_dim]
        turned = np.ascontiguousarray(unit(ready @ axes.T) @ axes)
        return Operands(turned, factors, m.full_dim, 0, by_norm)
    ready[:, : m.code_dim] = unit(ready[:, : m.code_dim])
    column = m.norm_dims.index(m.code_dim)
    return Operands(ready, factors, m.code_dim, column, by_norm)


def _weights(norms: Floats, operands: Operands) -> Floats:
    """Return what the products of a piece's rows are multiplied by, (m,)."""
    below = norms[:, operands.column]
    out: Floats = np.divide(1, below, out=np.zeros_like(below), where=below >= TINY)
    return out * norms[:, -1] if operands.by_norm else out
