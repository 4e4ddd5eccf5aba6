"""Say what a search did, and at which step it lost a row.

Called by `FunnelIndex.explain` and `.why_not`; the search itself is replayed by
`replay.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from funnel.adapt.explanation import Explanation, ShownStep, WhyNot
from funnel.adapt.replay import Step, prefix_scores, ranked, replayed
from funnel.kernels.types import Floats
from funnel.plan import Plan
from funnel.results import Trace
from funnel.search import search
from funnel.snapshot import Snapshot

DEEPEST = 20_000  # ranks by codes that are looked for


def explain(snapshot: Snapshot, query: Floats, plan: Plan, origin: str) -> Explanation:
    """Return what a search did, step by step.

    Parameters
    ----------
    query : (1, d) float32
    origin : str
        Where the plan came from.
    """
    steps = replayed(snapshot, query, plan)
    found = search(snapshot, query, plan, True, snapshot.everything)
    trace = found.trace or Trace((), 1, 0.0)
    shown = [
        ShownStep(
            one.name, one.dim, one.rows_in, one.rows_kept, step.threshold,
            one.bytes_read, one.time_us,
        )
        for one, step in zip(trace.stages, _matching(trace, steps), strict=True)
    ]  # fmt: skip
    return Explanation(tuple(shown), plan.k, origin, trace.kernel_us)


def _matching(trace: Trace, steps: list[Step]) -> list[Step]:
    """Return the replayed step of each traced one: some are not run."""
    found, left = [], list(steps)
    for one in trace.stages:
        by_codes = one.name in ("walk", "scan")
        while len(left) > 1 and (
            left[0].dim != one.dim or (not by_codes and left[0].name != one.name)
        ):
            left.pop(0)
        found.append(left.pop(0) if len(left) > 1 else left[0])
    return found


def why_not(
    snapshot: Snapshot, query: Floats, row: int, plan: Plan, identifier: object
) -> WhyNot:
    """Return where a search lost a row, its rank at every dim, and what would keep it.

    Parameters
    ----------
    query : (1, d) float32
    row : int
        A live row.
    """
    steps = replayed(snapshot, query, plan)
    at = _ranks(snapshot, query, row, steps)
    for step in steps:
        rank = step.rank_of(row)
        if rank is None or rank > step.keep:
            return _lost(snapshot, query, row, plan, identifier, step, rank, at)
    rank = steps[-1].rank_of(row)
    verdict = f"it is a hit: rank {rank} of {plan.k}"
    return WhyNot(identifier, None, rank, None, None, verdict, {}, at)


def _lost(
    snapshot: Snapshot, query: Floats, row: int, plan: Plan, identifier: object,
    step: Step, rank: int | None, at: dict[int, tuple[int, float]],
) -> WhyNot:  # fmt: skip
    """Say of a row that a step lost what would have kept it."""
    threshold = step.threshold
    if rank is None:
        return _unreached(snapshot, query, row, plan, identifier, step, at)
    score = float(step.scores[rank - 1])
    change = {"keep" if step.name != "scan" else "k": rank, "dim": step.dim}
    if step.keep == plan.k and step.name in ("rerank", "scan", "walk"):
        change = {"k": rank}
    verdict = (
        f"lost by the {step.name} at {step.dim} dims: rank {rank} of the {step.keep} "
        f"that it keeps, {threshold - score:.4g} below the last of them"
    )
    return WhyNot(identifier, step.name, rank, score, threshold, verdict, change, at)


def _unreached(
    snapshot: Snapshot, query: Floats, row: int, plan: Plan, identifier: object,
    step: Step, at: dict[int, tuple[int, float]],
) -> WhyNot:  # fmt: skip
    """Say of a row that a walk did not hand on whether it met it."""
    deep = min(snapshot.manifest.rows, DEEPEST)
    rows, scores = ranked(snapshot, query, _walk(plan, deep, deep))
    found = np.flatnonzero(rows == row)
    if not len(found):
        verdict = (
            f"lost by the walk at {step.dim} dims: not among the {deep:,} rows that "
            "are nearest by their codes"
        )
        return WhyNot(identifier, "walk", None, None, step.threshold, verdict, {}, at)
    rank, score = int(found[0]) + 1, float(scores[found[0]])
    verdict = (
        f"lost by the walk at {step.dim} dims: {rank - 1:,} rows are nearer by their "
        f"codes, and its shortlist is {step.keep}"
    )
    if rank <= step.keep:
        verdict = (
            f"never reached by the walk, though only {rank - 1:,} rows are nearer by "
            f"their codes: its list of {plan.ef} ended before"
        )
    change = _longer_walk(snapshot, query, row, plan, max(rank, step.keep))
    return WhyNot(identifier, "walk", rank, score, step.threshold, verdict, change, at)


def _longer_walk(
    snapshot: Snapshot, query: Floats, row: int, plan: Plan, listed: int
) -> dict[str, int]:
    """Return the shortlist and the list, doubled until it is, that reach a row."""
    n = snapshot.manifest.rows
    change = {"shortlist": listed} if listed > plan.shortlist else {}
    ef = max(plan.ef, listed)
    while row not in ranked(snapshot, query, _walk(plan, listed, ef))[0]:
        if ef == n:
            return {}
        ef = min(2 * ef, n)
        change["ef_search"] = ef
    return change


def _walk(plan: Plan, listed: int, ef: int) -> Plan:
    """Return the plan of a walk alone, with another list."""
    slack = plan.slack if ef == plan.ef else None
    return replace(
        plan, mode="prefix_ann", k=listed, shortlist=listed, ef=ef, cascade=None,
        slack=slack, rank=plan.rank or plan.k,
    )  # fmt: skip


def _ranks(
    snapshot: Snapshot, query: Floats, row: int, steps: list[Step]
) -> dict[int, tuple[int, float]]:
    """Return the rank and the score of a row at each of the index's dims.

    Among what the search retrieved, and the row itself.
    """
    rows = np.union1d(steps[0].rows, [row])
    place, found = int(np.searchsorted(rows, row)), {}
    for dim in snapshot.manifest.dims:
        scores = prefix_scores(snapshot, query[0], rows, dim)
        better = int((scores > scores[place]).sum())
        found[dim] = better + 1, float(scores[place])
    return found
