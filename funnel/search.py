"""One search over one snapshot: lay out the plan's arrays and run the kernels.

Queries come checked from `handle.py`; the arithmetic is in `kernels/`.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from funnel.cascade import Stage
from funnel.exact import scan
from funnel.kernels import knobs as k
from funnel.kernels.clock import ticks_per_us
from funnel.kernels.codes import code_width
from funnel.kernels.funnel import search_many
from funnel.kernels.types import Floats, Rows
from funnel.plan import Plan
from funnel.results import Trace, TraceStage
from funnel.selection import Selection
from funnel.snapshot import Snapshot
from funnel.store.manifest import Manifest

LONGEST = 2.0**62  # ticks
Scales = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """A plan as the arrays that kernels take.

    Parameters
    ----------
    steps : tuple of (name, dim)
        The records of the trace, in order.
    stages : three int64 arrays, an entry a stage that scores
        Dim, keep, and the column of its norms (−1 if they are not stored).
    knobs : (15,) int64
        See `kernels/knobs.py`.
    scales : (1 + segments,) float64
        See `kernels/funnel.py`.
    """

    steps: tuple[tuple[str, int], ...]
    stages: tuple[Rows, Rows, Rows]
    knobs: Rows
    scales: Scales


Part: TypeAlias = tuple[Rows, int, tuple[int, int]]
"""The trace, the ns and what `search_many` returned, of some queries."""


class Found(NamedTuple):
    """Rows and scores, each (q, k), best first, what they cost, and whether all of it.

    `whole` is False where a query's budget ended before its last stage.
    """

    rows: Rows
    scores: Floats
    trace: Trace | None
    whole: bool = True


def search(
    snapshot: Snapshot,
    queries: Floats,
    plan: Plan,
    traced: bool,
    selection: Selection,
) -> Found:
    """Return what a search finds.

    Queries that the projection says nothing of are scanned exactly.
    """
    few = selection.rows < plan.k
    if few:
        plan = replace(plan, k=selection.rows)
    if plan.k == 0:
        nothing = np.empty((len(queries), 0))
        empty = Trace((), len(queries), 0.0)
        return Found(nothing.astype(np.int64), nothing.astype(np.float32), empty)
    if plan.mode in ("exact", "prefix"):
        return Found(*scan(snapshot, queries, plan, selection))
    q = len(queries)
    layout: Layout = (
        lay_out(snapshot.manifest, plan) if few else snapshot.remember(lay_out, plan)
    )
    rows = np.empty((q, plan.k), np.int64)
    scores = np.empty((q, plan.k), np.float32)

    def work(start: int, stop: int) -> Part:
        trace = np.zeros((len(layout.steps), 4), np.int64)
        visited = snapshot.borrow_scratch()
        began = time.perf_counter_ns()
        missing = search_many(
            queries[start:stop],
            snapshot.coded_axes,
            (selection.table, snapshot.starts, snapshot.like),
            layout.stages,
            layout.knobs,
            layout.scales,
            visited,
            (rows[start:stop], scores[start:stop], trace),
        )
        spent = time.perf_counter_ns() - began
        snapshot.return_scratch(visited)
        return trace, spent, missing

    parts = snapshot.threads.share(q, plan.threads, work)
    cost = _trace(snapshot, layout, parts, q) if traced else None
    if any(blind for _, _, (blind, _) in parts):
        cost = _scan_blind(snapshot, queries, plan, selection, rows, scores, cost)
    return Found(rows, scores, cost, not any(short for _, _, (_, short) in parts))


def _scan_blind(
    snapshot: Snapshot,
    queries: Floats,
    plan: Plan,
    selection: Selection,
    rows: Rows,
    scores: Floats,
    cost: Trace | None,
) -> Trace | None:
    """Answer blind queries exactly, one by one, as single queries would be."""
    exact = replace(plan, mode="exact", cascade=None)
    costs = []
    for i in np.flatnonzero(rows[:, 0] == k.BLIND):
        one = slice(i, i + 1)
        rows[one], scores[one], more = scan(snapshot, queries[one], exact, selection)
        costs.append(more)
    if cost is None:
        return None
    steps = [trace.stages[0] for trace in costs]
    sums = {
        name: sum(getattr(step, name) for step in steps)
        for name in ("rows_in", "rows_kept", "dims_read", "bytes_read", "time_us")
    }
    scanned = replace(steps[0], **sums)
    spent_us = cost.kernel_us + sum(trace.kernel_us for trace in costs)
    return Trace((*cost.stages, scanned), cost.queries, spent_us)


def lay_out(manifest: Manifest, plan: Plan) -> Layout:
    """Return the arrays of a plan.

    A stage that passes on all it receives is not run, unless it is the last.
    """
    stages = list(plan.cascade or ())
    assert not plan.certified or len(stages) == 1, "bounds are of the full width"
    steps = [("walk", manifest.walk_dim)]
    count = plan.shortlist
    if stages and stages[0].space == "codes":
        cut = stages.pop(0)
        count = min(count, cut.keep)
        steps.append(("cut", cut.dim))
    knobs = np.zeros(k.KNOBS, np.int64)
    knobs[k.EF], knobs[k.SHORTLIST], knobs[k.CUT] = plan.ef, plan.shortlist, count
    knobs[k.K], knobs[k.WIDTH] = plan.k, manifest.code_dim
    knobs[k.BY_NORM] = manifest.metric == "ip"
    # Measured: neither half nor twice as far down as the k-th is as good.
    knobs[k.RANK] = min(plan.rank or plan.k, plan.ef)
    knobs[k.FEWEST] = knobs[k.RANK]
    knobs[k.CERTIFIED] = plan.certified
    knobs[k.MAX_BYTES] = -1 if plan.max_bytes is None else plan.max_bytes
    knobs[k.MAX_TICKS] = -1
    if plan.budget_us is not None:
        knobs[k.MAX_TICKS] = int(min(plan.budget_us * ticks_per_us(), LONGEST))
    knobs[k.CODE_BYTES] = code_width(manifest.walk_dim)
    knobs[k.TAIL_BYTES] = manifest.tail_width
    offset = int(manifest.projection == "pca")  # the code's own norms come first
    knobs[k.COLUMNS] = len(manifest.norm_dims) + offset
    slack = -1 if plan.slack is None else plan.slack
    scales = np.array([slack, *(s.code_unit for s in manifest.segments)], np.float64)
    run: list[Stage] = []
    for stage in stages:
        if stage.keep < count or stage is stages[-1]:
            run.append(stage)
            count = min(count, stage.keep)
    column = {dim: i + offset for i, dim in enumerate(manifest.norm_dims)}
    knobs[k.CODE_COLUMN] = 0 if offset else column.get(manifest.code_dim, -1)
    arrays = (
        np.array([s.dim for s in run], np.int64),
        np.array([s.keep for s in run], np.int64),
        np.array([column.get(s.dim, -1) for s in run], np.int64),
    )
    return Layout((*steps, *(("rerank", s.dim) for s in run)), arrays, knobs, scales)


def _trace(
    snapshot: Snapshot, layout: Layout, parts: list[Part], queries: int
) -> Trace:
    m = snapshot.manifest
    width, tailed = code_width(m.walk_dim), m.tail_width > 0
    number_bytes = snapshot.like.itemsize
    counts = functools.reduce(np.add, [trace for trace, _, _ in parts]).tolist()
    spent_us = sum(spent for _, spent, _ in parts) / 1e3
    ticks = max(1, sum(record[k.TICKS] for record in counts))
    records = []
    for (name, dim), record in zip(layout.steps, counts, strict=True):
        rows_in, kept, dims_read = record[:3]
        read = 0
        if name == "rerank":  # the dims, and a norm
            read = dims_read * number_bytes + rows_in * 4
        elif name == "walk":
            # A head that has a tail is whole lines: a byte a dim, as the tail's are.
            read = dims_read if tailed else rows_in * width
            name = name if snapshot.has_graphs else "scan"
        share = record[k.TICKS] / ticks * spent_us
        records.append(TraceStage(name, dim, rows_in, kept, dims_read, read, share))
    return Trace(tuple(records), queries, spent_us)
