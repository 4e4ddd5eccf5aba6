"""One search, shown after each of its steps: what an interface can show at once.

The same walk and the same stages as `search.py` runs in one call, one by one; each
reads only the dims that no stage has read. Called by
`FunnelIndex.search_progressive`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from funnel.adapt.replay import is_blind, loose_rows, walked
from funnel.kernels.funnel import prepare
from funnel.kernels.knobs import BY_NORM
from funnel.kernels.stages import rerank_stage
from funnel.kernels.types import Floats, Rows
from funnel.plan import Plan
from funnel.search import lay_out, search
from funnel.selection import Selection
from funnel.snapshot import Snapshot


class Shown(NamedTuple):
    """The best rows so far, (1, k) both, best first, and whether they are final."""

    rows: Rows
    scores: Floats
    whole: bool


def progressive(
    snapshot: Snapshot, query: Floats, plan: Plan, selection: Selection
) -> Iterator[Shown]:
    """Yield the best rows after the walk, and after each stage.

    Parameters
    ----------
    query : (1, d) float32
        Checked and transformed.
    """
    plan = replace(plan, k=min(plan.k, selection.rows))
    scans = plan.mode in ("exact", "prefix") or plan.cascade is None
    if scans or not plan.k or is_blind(snapshot, query):
        found = search(snapshot, query, plan, False, selection)
        yield Shown(found.rows, found.scores, True)
        return
    rows, scores = walked(snapshot, query, plan, selection)
    best = scores[None, : plan.k].astype(np.float32)
    yield Shown(rows[None, : plan.k], best, not len(rows))
    if len(rows):
        yield from _stages(
            snapshot, query, plan, selection, _as_handed_on(snapshot, selection, rows)
        )


def _as_handed_on(snapshot: Snapshot, selection: Selection, rows: Rows) -> Rows:
    """Put rows in the order that a walk hands them on: rows that tie keep it.

    By segment, and loose ones last.
    """
    loose = np.isin(rows, loose_rows(snapshot, selection))
    owners = np.searchsorted(snapshot.firsts, rows, side="right")
    return rows[np.lexsort((owners, loose))]


def _stages(
    snapshot: Snapshot, query: Floats, plan: Plan, selection: Selection, rows: Rows
) -> Iterator[Shown]:
    """Rerank what a walk found stage by stage."""
    layout = lay_out(snapshot.manifest, replace(plan, certified=False))
    ready = np.empty(query.shape[1], np.float32)
    factor = prepare(query[0], ready, bool(layout.knobs[BY_NORM]))
    m, start, square = len(rows), 0, 0.0
    candidates: tuple[Any, ...] = (
        rows.copy(), *(np.zeros(m, np.float32) for _ in range(3)),
        np.empty(m, np.int64), np.empty(m, np.bool_),
    )  # fmt: skip
    memory = (selection.table, snapshot.starts, snapshot.like)
    stages = list(zip(*(part.tolist() for part in layout.stages), strict=True))
    counting = any(column < 0 for _, _, column in stages)
    for number, (dim, keep, column) in enumerate(stages):
        stage = (start, dim, keep, column)
        m, square = rerank_stage(
            ready, memory, stage, layout.knobs, candidates, m, counting, square,
            np.zeros(4, np.int64),
        )  # fmt: skip
        start = dim
        order = np.argsort(-candidates[1][:m], kind="stable")[: plan.k]
        scores = candidates[1][order][None] * factor
        yield Shown(candidates[0][order][None], scores, number == len(stages) - 1)
