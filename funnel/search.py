"""One search over one snapshot: lay out the plan, run the kernels, merge.

Queries come checked from `index.py`; the arithmetic is in `kernels/`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from funnel.cascade import Cascade, Stage
from funnel.errors import CascadeError
from funnel.kernels import funnel as k
from funnel.kernels.scan import merge_scores, scan_rows
from funnel.kernels.types import Floats, Rows
from funnel.results import Trace, TraceStage
from funnel.store.manifest import Manifest
from funnel.store.segment import SegmentFiles, map_file

MODES = ("funnel", "rerank", "prefix_ann", "prefix", "exact")
BLAS_QUERIES = 8  # below that a scan per query reads the vectors as fast
SCAN_ROWS = 16_384


@dataclass(frozen=True)
class Plan:
    """How to search: what was asked, with every default filled in.

    Parameters
    ----------
    mode : str
    k, shortlist, ef : int
    cascade : Cascade or None
        None where nothing is reranked.
    threads : int
    """

    mode: str
    k: int
    shortlist: int
    ef: int
    cascade: Cascade | None
    threads: int


class Snapshot:
    """One version of an index, open: mapped arrays, and scratch for walks.

    Parameters
    ----------
    folder : Path
    manifest : Manifest
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        data = folder / "data"
        self.manifest = manifest
        self.segment = SegmentFiles(data, manifest.segments[0], manifest.id_kind)
        self.axes = np.empty((0, 0), np.float32)
        self.axes.flags.writeable = False
        if "axes" in manifest.files:
            self.axes = map_file(data, manifest.files["axes"])
        s = self.segment
        entry_codes = s.codes[s.entries]
        entry_codes.flags.writeable = False
        s.entries.flags.writeable = False
        self.graph = (
            s.codes, s.neighbours, s.entries, entry_codes, s.node_starts, s.node_rows,
        )  # fmt: skip
        self.vectors = (s.blocks, s.block_starts, s.norms)
        self._scratch: list[npt.NDArray[np.uint8]] = []
        self._pool: ThreadPoolExecutor | None = None
        self._pool_lock = threading.Lock()

    def borrow_scratch(self) -> npt.NDArray[np.uint8]:
        """Return a `visited` array that no other thread has."""
        try:
            return self._scratch.pop()
        except IndexError:
            return np.zeros(len(self.segment.codes) + 1, np.uint8)

    def return_scratch(self, visited: npt.NDArray[np.uint8]) -> None:
        """Give a `visited` array back for the next search."""
        self._scratch.append(visited)

    def pool(self) -> ThreadPoolExecutor:
        """Return the threads that batches are shared among."""
        with self._pool_lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(cpu_count(), "funnel")
            return self._pool

    def close(self) -> None:
        """Stop the threads."""
        with self._pool_lock:
            if self._pool is not None:
                self._pool.shutdown(wait=True)
                self._pool = None


def cpu_count() -> int:
    """Return the CPUs that this process may run on."""
    return (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else (os.cpu_count() or 1)
    )


def default_cascade(manifest: Manifest, k: int, shortlist: int) -> Cascade:
    """Return the cascade of an index that was not told or taught a better one.

    A stage must not rank worse than the order it receives. Principal axes rank better
    than any own prefix, so over them the walk's own order cuts the shortlist once;
    over the own prefix, a prefix twice as long as the codes cuts it again.
    """
    full_dim, code_dim = manifest.full_dim, manifest.code_dim
    cut = min(shortlist, max(2 * k, shortlist // 4))
    if manifest.projection == "prefix":
        cut = min(shortlist, max(2 * k, shortlist // 2))
    stages = [Stage(code_dim, cut, space="codes")]
    if manifest.projection == "prefix":
        longer = [d for d in manifest.dims if 2 * code_dim <= d <= full_dim // 2]
        if longer:
            keep = min(cut, max(2 * k, shortlist // 8))
            stages.append(Stage(longer[0], keep))
    return Cascade([*stages, Stage(full_dim, min(k, cut))])


def search(
    snapshot: Snapshot, queries: Floats, plan: Plan
) -> tuple[Rows, Floats, Trace]:
    """Return rows and scores, each (q, k), best first, and what it cost."""
    if plan.mode in ("exact", "prefix"):
        return _scan(snapshot, queries, plan)
    return _walk(snapshot, queries, plan)


def _share(
    snapshot: Snapshot, count: int, threads: int, work: Callable[[int, int], Any]
) -> list[Any]:
    """Run ``work(start, stop)`` over slices of `count` queries, in threads."""
    threads = max(1, min(threads, count))
    if threads == 1:
        return [work(0, count)]
    pieces = min(count, threads * 4)
    edges = [count * i // pieces for i in range(pieces + 1)]
    gate = threading.Semaphore(threads)

    def guarded(start: int, stop: int) -> Any:
        with gate:
            return work(start, stop)

    pool = snapshot.pool()
    futures = [
        pool.submit(guarded, a, b) for a, b in zip(edges, edges[1:], strict=False)
    ]
    return [future.result() for future in futures]


def _walk(
    snapshot: Snapshot, queries: Floats, plan: Plan
) -> tuple[Rows, Floats, Trace]:
    m, q = snapshot.manifest, len(queries)
    stages, cut = _stages(plan)
    arrays = _plan_arrays(m, stages)
    knobs = np.zeros(k.KNOBS, np.int64)
    knobs[k.EF], knobs[k.SHORTLIST] = plan.ef, plan.shortlist
    knobs[k.CUT] = cut.keep if cut else plan.shortlist
    knobs[k.K], knobs[k.WIDTH] = plan.k, m.code_dim
    knobs[k.BY_NORM] = m.metric == "ip"
    knobs[k.LAYER_NORM] = m.transform == "layer_norm"
    rows = np.empty((q, plan.k), np.int64)
    scores = np.empty((q, plan.k), np.float32)
    records = 1 + (cut is not None) + len(stages)

    def work(start: int, stop: int) -> tuple[Any, int]:
        trace = np.zeros((records, 4), np.int64)
        visited = snapshot.borrow_scratch()
        out = rows[start:stop], scores[start:stop], trace
        began = time.perf_counter_ns()
        k.search_many(
            queries[start:stop], snapshot.graph, snapshot.axes, snapshot.vectors,
            arrays, knobs, snapshot.segment.segment.code_unit, visited, out,
        )  # fmt: skip
        spent = time.perf_counter_ns() - began
        snapshot.return_scratch(visited)
        return trace, spent

    parts = _share(snapshot, q, plan.threads, work)
    return rows, scores, _trace(snapshot, plan, cut, stages, parts, q)


def _stages(plan: Plan) -> tuple[list[Stage], Stage | None]:
    """Split a cascade into the stages that score, and the cut by the walk's order.

    A stage that passes on all it receives is not run, unless it is the last.
    """
    if plan.cascade is None:
        return [], None
    stages = list(plan.cascade)
    cut = stages.pop(0) if stages[0].space == "codes" else None
    count, kept = (cut.keep if cut else plan.shortlist), []
    for i, stage in enumerate(stages):
        if stage.keep < count or i == len(stages) - 1:
            kept.append(stage)
            count = min(count, stage.keep)
    return kept, cut


def _plan_arrays(manifest: Manifest, stages: list[Stage]) -> tuple[Any, Any, Any]:
    offset = int(manifest.projection == "pca")  # the code's own norms come first
    column = {dim: i + offset for i, dim in enumerate(manifest.norm_dims)}
    return (
        np.array([s.dim for s in stages], np.int64),
        np.array([s.keep for s in stages], np.int64),
        np.array([column.get(s.dim, -1) for s in stages], np.int64),
    )


def _trace(
    snapshot: Snapshot,
    plan: Plan,
    cut: Stage | None,
    stages: list[Stage],
    parts: list[tuple[Any, int]],
    queries: int,
) -> Trace:
    m, s = snapshot.manifest, snapshot.segment
    total = sum(part for part, _ in parts)
    spent_us = sum(spent for _, spent in parts) / 1e3
    ticks = max(1, int(total[:, k.TICKS].sum()))
    size = s.blocks[0].itemsize
    named = [("walk" if s.neighbours.shape[1] else "scan", m.code_dim)]
    named += [("cut", cut.dim)] if cut else []
    named += [("rerank", stage.dim) for stage in stages]
    records = []
    for (name, dim), record in zip(named, total.tolist(), strict=True):
        rows_in, kept, dims_read = record[:3]
        read = dims_read * size + rows_in * 4
        if name in ("walk", "scan"):
            read = rows_in * s.codes.shape[1]
        if name == "cut":
            read = 0
        share = record[k.TICKS] / ticks * spent_us
        records.append(TraceStage(name, dim, rows_in, kept, dims_read, read, share))
    return Trace(tuple(records), queries, spent_us)


def _scan(
    snapshot: Snapshot, queries: Floats, plan: Plan
) -> tuple[Rows, Floats, Trace]:
    """Score every row, at full width or at the codes' width."""
    m, q = snapshot.manifest, len(queries)
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
        _share(snapshot, q, plan.threads, per_query)
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
    step = max(1, min(SCAN_ROWS, (256 << 20) // (4 * len(ready))))
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
        factors[i] = k.prepare(
            queries[i], ready[i], m.metric == "ip", m.transform == "layer_norm"
        )
    column, stop = norms.shape[1] - 1, m.full_dim
    if mode == "prefix":
        if m.projection == "pca":
            axes = snapshot.axes[:, : m.code_dim]
            short = _unit(ready @ axes)
            ready, column = np.ascontiguousarray(short @ axes.T), 0
        else:
            stop, column = m.code_dim, m.norm_dims.index(m.code_dim)
            ready = ready.copy()
            ready[:, :stop] = _unit(ready[:, :stop])
    full = norms.shape[1] - 1

    def weights(first: int, last: int) -> Floats:
        below = norms[first:last, column]
        out = np.divide(1, below, out=np.zeros_like(below), where=below > 0)
        return out * norms[first:last, full] if m.metric == "ip" else out

    return ready, factors, stop, weights


def _unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def check_cascade(cascade: Cascade, manifest: Manifest, k: int, shortlist: int) -> None:
    """Raise unless `cascade` fits the index and can give `k` answers."""
    for stage in cascade:
        if stage.dim > manifest.full_dim:
            raise CascadeError(f"{stage!r}: this index holds {manifest.full_dim} dims")
        if stage.space == "codes" and stage.dim != manifest.code_dim:
            raise CascadeError(f"{stage!r}: the codes have {manifest.code_dim} dims")
    if cascade[-1].space == "codes":
        raise CascadeError("the last stage must score dims of the embedding")
    if min(cascade.keeps) < k:
        raise CascadeError(f"{cascade!r} keeps {min(cascade.keeps)} rows; k is {k}")
    if shortlist < k:
        raise CascadeError(f"a shortlist of {shortlist} cannot hold k = {k} rows")
