"""Search that scores every row: the answers that all others are measured against.

Called by `search.py`; the arithmetic is in `kernels/scan.py` and in BLAS.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from funnel.kernels.funnel import prepare
from funnel.kernels.scan import merge_scores, scan_rows
from funnel.kernels.types import TINY, Floats, Rows
from funnel.plan import Plan
from funnel.results import Trace, TraceStage
from funnel.snapshot import Snapshot
from funnel.store.segment import SegmentFiles
from funnel.vectors import unit

BLAS_QUERIES = 8  # below that a scan per query reads the vectors as fast
SCAN_ROWS = 16_384
PRODUCT_BYTES = 256 << 20
Weigh: TypeAlias = Callable[[int, int], Floats]


def scan(snapshot: Snapshot, queries: Floats, plan: Plan) -> tuple[Rows, Floats, Trace]:
    """Score every row, at full width or at the codes' width."""
    q = len(queries)
    began = time.perf_counter_ns()
    rows = np.full((q, plan.k), -1, np.int64)
    scores = np.full((q, plan.k), -np.inf, np.float32)
    ready, factors, stop, column = _scan_operands(snapshot, queries, plan.mode)
    by_norm = snapshot.manifest.metric == "ip"
    for first, segment in zip(snapshot.firsts[:-1], snapshot.segments, strict=True):
        weigh = partial(_weights, segment.norms, column, by_norm)
        into = Into(int(first), rows, scores)
        if q < BLAS_QUERIES:
            snapshot.threads.share(
                q, plan.threads, partial(_scan_each, segment, ready, stop, weigh, into)
            )
        else:
            _scan_batch(segment, ready, stop, weigh, into)
    scores *= factors[:, None]
    spent, n = (time.perf_counter_ns() - began) / 1e3, int(snapshot.firsts[-1])
    read, size = q * n * stop, snapshot.memory[2].itemsize
    record = TraceStage("scan", stop, q * n, q * plan.k, read, read * size, spent)
    return rows, scores, Trace((record,), q, spent)


class Into(NamedTuple):
    """Where a segment's best go: its first row's number; rows and scores, (q, k)."""

    first: int
    rows: Rows
    scores: Floats


def _scan_each(
    s: SegmentFiles,
    ready: Floats,
    dims: int,
    weigh: Weigh,
    into: Into,
    start: int,
    stop: int,
) -> None:
    """Score blocks of rows against queries `start` to `stop`, one by one."""
    for i in range(start, stop):
        for first in range(0, s.rows, SCAN_ROWS):
            last = min(first + SCAN_ROWS, s.rows)
            scan_rows(
                ready[i], s.blocks, s.block_starts, dims, weigh(first, last),
                (first, last), into.first, into.rows[i], into.scores[i],
            )  # fmt: skip


def _scan_batch(
    s: SegmentFiles, ready: Floats, dims: int, weigh: Weigh, into: Into
) -> None:
    """Score blocks of rows against all queries at once, by BLAS."""
    kind = s.segment.files["vectors0"].dtype
    step = max(1, min(SCAN_ROWS, PRODUCT_BYTES // (4 * len(ready))))
    for first in range(0, s.rows, step):
        last = min(first + step, s.rows)
        products = np.zeros((len(ready), last - first), np.float32)
        for i, block in enumerate(s.blocks):
            left, right = s.block_starts[i], min(dims, s.block_starts[i + 1])
            if left < right:
                part = block[first:last, : right - left].view(kind)
                products += ready[:, left:right] @ part.astype(np.float32, copy=False).T
        products *= weigh(first, last)
        merge_scores(products, into.first + first, into.rows, into.scores)


def _scan_operands(
    snapshot: Snapshot, queries: Floats, mode: str
) -> tuple[Floats, Floats, int, int]:
    """Return queries to multiply, their factors, dims, and the column of their norms.

    A prefix of the axes is scored without projecting the corpus: the query is
    projected and turned back, which keeps the inner products.
    """
    m = snapshot.manifest
    ready = np.empty_like(queries)
    factors = np.empty(len(queries), np.float32)
    for i in range(len(queries)):
        factors[i] = prepare(queries[i], ready[i], m.metric == "ip")
    if mode != "prefix":
        return ready, factors, m.full_dim, -1
    if m.projection == "pca":
        axes = snapshot.axes[: m.code_dim]
        short = unit(ready @ axes.T)
        return np.ascontiguousarray(short @ axes), factors, m.full_dim, 0
    ready[:, : m.code_dim] = unit(ready[:, : m.code_dim])
    return ready, factors, m.code_dim, m.norm_dims.index(m.code_dim)


def _weights(
    norms: Floats, column: int, by_norm: bool, first: int, last: int
) -> Floats:
    """Return what the products of rows `first` to `last` are multiplied by."""
    below = norms[first:last, column]
    out: Floats = np.divide(1, below, out=np.zeros_like(below), where=below >= TINY)
    return out * norms[first:last, -1] if by_norm else out
