"""One search over one snapshot: lay out the plan's arrays and run the kernels.

Queries come checked from `index.py`; the arithmetic is in `kernels/`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from funnel.cascade import Stage
from funnel.exact import scan
from funnel.kernels import funnel as k
from funnel.kernels.types import Floats, Rows
from funnel.plan import Plan
from funnel.results import Trace, TraceStage
from funnel.snapshot import Snapshot, share_queries
from funnel.store.manifest import Manifest


def search(
    snapshot: Snapshot, queries: Floats, plan: Plan
) -> tuple[Rows, Floats, Trace]:
    """Return rows and scores, each (q, k), best first, and what it cost."""
    if plan.mode in ("exact", "prefix"):
        return scan(snapshot, queries, plan)
    return _walk(snapshot, queries, plan)


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

    parts = share_queries(snapshot, q, plan.threads, work)
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
