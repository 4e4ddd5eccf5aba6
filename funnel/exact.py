"""Search that scores every row: the answers that all others are measured against.

Called by `search.py`; the arithmetic is in `kernels/scan.py` and in BLAS.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from funnel.kernels.funnel import prepare
from funnel.kernels.scan import merge_scores, scan_rows
from funnel.kernels.types import TINY, Floats, Rows
from funnel.plan import Plan
from funnel.results import Trace, TraceStage
from funnel.snapshot import Snapshot, share_queries
from funnel.store.segment import SegmentFiles
from funnel.vectors import unit

BLAS_QUERIES = 8  # below that a scan per query reads the vectors as fast
SCAN_ROWS = 16_384
PRODUCT_BYTES = 256 << 20


def scan(snapshot: Snapshot, queries: Floats, plan: Plan) -> tuple[Rows, Floats, Trace]:
    """Score every row, at full width or at the codes' width."""
    q = len(queries)
    began = time.perf_counter_ns()
    rows = np.full((q, plan.k), -1, np.int64)
    scores = np.full((q, plan.k), -np.inf, np.float32)
    ready, factors, stop, weights = _scan_operands(snapshot, queries, plan.mode)
    s = snapshot.segment

    def per_query(start: int, stop_at: int) -> None:
        for i in range(start, stop_at):
            for first in range(0, s.rows, SCAN_ROWS):
                last = min(first + SCAN_ROWS, s.rows)
                scan_rows(
                    ready[i], s.blocks, s.block_starts, stop, weights(first, last),
                    (first, last), rows[i], scores[i],
                )  # fmt: skip

    if q < BLAS_QUERIES:
        share_queries(snapshot, q, plan.threads, per_query)
    else:
        _scan_batch(s, ready, stop, weights, rows, scores)
    scores *= factors[:, None]
    spent = (time.perf_counter_ns() - began) / 1e3
    read, size = q * s.rows * stop, s.blocks[0].itemsize
    record = TraceStage("scan", stop, q * s.rows, q * plan.k, read, read * size, spent)
    return rows, scores, Trace((record,), q, spent)


def _scan_batch(
    s: SegmentFiles, ready: Floats, stop: int, weights: Any, rows: Rows, scores: Floats
) -> None:
    """Score blocks of rows against all queries at once, by BLAS."""
    kind = s.segment.files["vectors0"].dtype
    step = max(1, min(SCAN_ROWS, PRODUCT_BYTES // (4 * len(ready))))
    for first in range(0, s.rows, step):
        last = min(first + step, s.rows)
        products = np.zeros((len(ready), last - first), np.float32)
        for i, block in enumerate(s.blocks):
            left, right = s.block_starts[i], min(stop, s.block_starts[i + 1])
            if left < right:
                part = block[first:last, : right - left].view(kind)
                products += ready[:, left:right] @ part.astype(np.float32, copy=False).T
        products *= weights(first, last)
        merge_scores(products, first, rows, scores)


def _scan_operands(
    snapshot: Snapshot, queries: Floats, mode: str
) -> tuple[Floats, Floats, int, Callable[[int, int], Floats]]:
    """Return what to multiply: queries, their factors, dims, and weights of rows.

    A prefix of the axes is scored without projecting the corpus: the query is
    projected and turned back, which keeps the inner products.
    """
    m, norms = snapshot.manifest, snapshot.segment.norms
    ready = np.empty_like(queries)
    factors = np.empty(len(queries), np.float32)
    for i in range(len(queries)):
        factors[i] = prepare(queries[i], ready[i], m.metric == "ip")
    column, stop = norms.shape[1] - 1, m.full_dim
    if mode == "prefix":
        if m.projection == "pca":
            axes = snapshot.axes[: m.code_dim]
            short = unit(ready @ axes.T)
            ready, column = np.ascontiguousarray(short @ axes), 0
        else:
            stop, column = m.code_dim, m.norm_dims.index(m.code_dim)
            ready = ready.copy()
            ready[:, :stop] = unit(ready[:, :stop])
    full = norms.shape[1] - 1

    def weights(first: int, last: int) -> Floats:
        below = norms[first:last, column]
        out = np.divide(1, below, out=np.zeros_like(below), where=below >= TINY)
        return out * norms[first:last, full] if m.metric == "ip" else out

    return ready, factors, stop, weights
