"""Say what a search did, and at which step it lost a row.

Called by `FunnelIndex.explain` and `.why_not`; the search itself is replayed by
`replay.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from funnel.adapt.explanation import Explanation, ShownStep, WhyNot, words_of
from funnel.adapt.floor import bytes_per_us, floor_us
from funnel.adapt.pages import rerank_pages, scan_pages, walk_pages
from funnel.adapt.replay import (
    Step,
    prefix_scores,
    replayed,
    run,
    scanned,
    uncut,
    walked,
)
from funnel.errors import FunnelError
from funnel.kernels.types import Floats
from funnel.plan import Plan
from funnel.results import Trace, TraceStage
from funnel.search import search
from funnel.selection import Selection
from funnel.snapshot import Snapshot

DEEPEST = 20_000  # ranks by codes that are looked for
DEEPER = 4  # times as many answers, until a scan's is found
TIGHTEST, LOOSEST = 0.01, 100  # slacks that are tried, each twice the one before
HALVINGS = 8  # of what lies between the last that was too little and the first enough
TRIES = 16  # numbers of answers
Ranks = dict[int, tuple[int, float]]


class Asked(NamedTuple):
    """A search that is to be explained.

    Parameters
    ----------
    snapshot : Snapshot
    queries : (q, d) float32
        Checked and transformed; one, where one is explained.
    plan : Plan
    selection : Selection
        Rows that may be answers.
    filter_us : float or None
        What it took to select them; None without a filter.
    origin : str
        Where the plan came from.
    again : callable
        Some of the search's arguments → the plan if they were others.
    """

    snapshot: Snapshot
    queries: Floats
    plan: Plan
    selection: Selection
    filter_us: float | None
    origin: str
    again: Callable[[Mapping[str, Any]], Plan]

    def replayed(self, plan: Plan | None = None) -> list[Step]:
        """Return the steps of the search, or of one by another plan."""
        return replayed(self.snapshot, self.queries, plan or self.plan, self.selection)

    def reaches(self, row: int, change: Mapping[str, Any]) -> bool:
        """Tell whether the walk hands a row on, where some arguments are others."""
        try:
            plan = uncut(self.again(change))
        except FunnelError:  # of others that were given
            return False
        plan = replace(plan, k=min(plan.k, self.selection.rows))
        if plan.mode == "exact":
            return True
        rows, _ = walked(self.snapshot, self.queries, plan, self.selection)
        return row in rows


def explain(asked: Asked) -> Explanation:
    """Return what a search for one query did, step by step."""
    snapshot, query, plan, selection = asked[:4]
    steps = asked.replayed()
    began = time.perf_counter_ns()
    trace = search(snapshot, query, plan, True, selection).trace
    call_us = (time.perf_counter_ns() - began) / 1e3
    trace = trace or Trace((), 1, 0.0)
    stages = trace.stages[-1:] if len(steps) == 1 else trace.stages  # or blind
    shown, read = [], 0
    if asked.filter_us is not None:
        passed = (snapshot.manifest.rows, selection.rows)
        shown.append(ShownStep("filter", 0, *passed, time_us=asked.filter_us))
    for one, step in zip(stages, _matching(stages, steps), strict=True):
        pages = _pages(asked, one, step, read)
        read = one.dim if one.name == "rerank" else 0
        shown.append(_shown(asked, one, step, pages))
    return Explanation(
        tuple(shown), plan.k, asked.origin, words_of(plan), trace.kernel_us, call_us,
        floor_us(trace.bytes_read), bytes_per_us() / 1e3,
    )  # fmt: skip


def _shown(asked: Asked, one: TraceStage, step: Step, pages: int) -> ShownStep:
    """Return a step as it is shown: traced, and with the scores of its replay."""
    k = min(asked.plan.k, asked.selection.rows)
    away, some = None, len(step.rows) > 0
    if asked.snapshot.manifest.metric == "cosine" and some:
        away = step.times_kth(step.threshold, k)
    return ShownStep(
        one.name, one.dim, one.rows_in, one.rows_kept,
        None if away is None else away - 1,
        asked.plan.slack if one.name == "walk" else None,
        step.score_at(k) if some else None, step.threshold if some else None,
        one.bytes_read, pages, one.time_us, floor_us(one.bytes_read),
    )  # fmt: skip


def _pages(asked: Asked, one: TraceStage, step: Step, read: int) -> int:
    """Return the pages that a step touches; `read` dims were read before."""
    snapshot, query, plan, selection = asked[:4]
    if one.name == "rerank":
        rows = step.rows
        if plan.certified:  # those that it scored
            rows, _ = run(snapshot, query, plan, selection, len(rows))
        return rerank_pages(snapshot, rows, read, one.dim)
    if one.name == "cut":
        return 0
    if step.name == "scan":
        return scan_pages(snapshot, one.dim, selection)
    return walk_pages(snapshot, query, plan, selection)


def _matching(stages: tuple[TraceStage, ...], steps: list[Step]) -> list[Step]:
    """Return the replayed step of each traced one: some are not run."""
    found, left = [], list(steps)
    for one in stages:
        by_codes = one.name in ("walk", "scan")
        while len(left) > 1 and (
            left[0].dim != one.dim or (not by_codes and left[0].name != one.name)
        ):
            left.pop(0)
        found.append(left.pop(0) if len(left) > 1 else left[0])
    return found


def why_not(asked: Asked, row: int, identifier: object) -> WhyNot:
    """Return where a search lost a row, its rank at every dim, and what would keep it.

    Parameters
    ----------
    row : int
        A live row.
    """
    steps = asked.replayed()
    at = _ranks(asked, row, steps)
    if row not in asked.selection:
        return WhyNot(identifier, "filter", "left out by the filter", at=at)
    for step in steps:
        if row not in step.kept:
            return replace(_missed(asked, row, identifier, step), at=at)
    rank, score = steps[-1].rank_of(row), steps[-1].threshold
    verdict = f"it is a hit: rank {rank} of {asked.plan.k}"
    own = steps[-1].score_at(rank or 1)
    return WhyNot(identifier, None, verdict, rank, own, score, at=at)


def _missed(asked: Asked, row: int, identifier: object, step: Step) -> WhyNot:
    """Say why a step did not let a row go on."""
    if step.name == "scan":
        step = _deeper(asked, row, step)
    rank = step.rank_of(row)
    if rank is not None:
        return _lost(asked, identifier, step, rank)
    if step.name != "scan":
        return _unreached(asked, row, identifier, step)
    verdict = (
        f"lost by the scan at {step.dim} dims: not among the {len(step.rows):,} best"
    )
    return WhyNot(identifier, "scan", verdict, threshold=step.threshold)


def _deeper(asked: Asked, row: int, step: Step) -> Step:
    """Return a scan of more answers, until a row is one or they are `DEEPEST`."""
    mode = "prefix" if asked.plan.mode == "prefix" else "exact"
    most = min(asked.selection.rows, DEEPEST)
    while row not in step.rows and len(step.rows) < most:
        plan = replace(asked.plan, mode=mode, k=min(DEEPER * len(step.rows), most))
        found = scanned(asked.snapshot, asked.queries, plan, asked.selection)
        step = replace(step, rows=found[0], scores=found[1])
    return step


def _lost(asked: Asked, identifier: object, step: Step, rank: int) -> WhyNot:
    """Say of a row that a step scored and lost what would have kept it."""
    score, threshold, plan = step.score_at(rank), step.threshold, asked.plan
    change: dict[str, float] = {"keep": rank, "dim": step.dim}
    if step.keep == plan.k or step.name == "scan":
        change = {"k": rank}
        if step.name != "scan":
            change = _more_answers(asked, int(step.rows[rank - 1]), rank)
    margins, said = _margins(asked, step, score)
    verdict = (
        f"lost by the {step.name} at {step.dim} dims: rank {rank:,} where it keeps "
        f"{step.keep:,}, {said}"
    )
    return WhyNot(
        identifier, step.name, verdict, rank, score, threshold, *margins, change
    )


def _margins(
    asked: Asked, step: Step, score: float
) -> tuple[tuple[float | None, float | None], str]:
    """Return how far a row and the last kept one are, in k-th best, and in words.

    Distances are 1 − cosine: inner products have none.
    """
    short = f"{step.threshold - score:.4g} below the last of them"
    if asked.snapshot.manifest.metric != "cosine":
        return (None, None), short
    k = min(asked.plan.k, asked.selection.rows)
    own, kept = step.times_kth(score, k), step.times_kth(step.threshold, k)
    if own is None or kept is None:
        return (None, None), short
    return (own, kept), f"margin {own:.4g} of {kept:.4g}, {short}"


def _unreached(asked: Asked, row: int, identifier: object, step: Step) -> WhyNot:
    """Say of a row that a walk did not hand on whether it met it."""
    plan, deep = asked.plan, min(asked.selection.rows, DEEPEST)
    listed = min(plan.shortlist, asked.selection.rows)
    all_copies = replace(uncut(plan), k=deep, shortlist=deep, ef=deep, slack=None)
    rows, scores = walked(asked.snapshot, asked.queries, all_copies, asked.selection)
    found = np.flatnonzero(rows == row)
    lost = f"lost by the walk at {step.dim} dims: "
    if not len(found):
        verdict = f"{lost}not among the {deep:,} rows that are nearest by their codes"
        return WhyNot(identifier, "walk", verdict, threshold=step.threshold)
    rank, score = int(found[0]) + 1, float(scores[found[0]])
    margins, _ = _margins(asked, step, score)
    if plan.cascade is None:
        change = _more_answers(asked, row, rank)
    else:
        change = _longer_walk(asked, row, max(rank, listed))
    verdict = (
        f"{lost}{rank - 1:,} rows are nearer by their codes, and its shortlist is "
        f"{listed:,}"
    )
    if rank <= listed:
        verdict = (
            f"never reached by the walk, though only {rank - 1:,} rows are nearer by "
            f"their codes: {_ended(plan, bool(change))}"
        )
    if None not in margins:
        verdict += f"; margin {margins[0]:.4g} of {margins[1]:.4g}"
    return WhyNot(
        identifier, "walk", verdict, rank, score, step.threshold, *margins, change
    )


def _ended(plan: Plan, known: bool) -> str:
    """Say why a walk did not reach a row near by its codes.

    Parameters
    ----------
    known : bool
        Something is known to reach it.
    """
    if not known:
        return f"{plan.k:,} rows that equal it were enough"
    if plan.slack is not None:
        return f"it ended at slack {plan.slack:g}, or its list of {plan.ef:,} did"
    return f"its list of {plan.ef:,} ended before"


def _longer_walk(asked: Asked, row: int, listed: int) -> dict[str, float]:
    """Return the arguments that reach a row: a shortlist, more slack, a longer list."""
    plan, most = asked.plan, asked.snapshot.manifest.rows
    change: dict[str, float] = {"shortlist": listed} if listed > plan.shortlist else {}
    if change and asked.reaches(row, change):
        return change
    slack, ef = plan.slack, max(plan.ef, listed)
    while slack is not None and slack < LOOSEST:
        before, slack = slack, max(TIGHTEST, 2 * slack)
        if asked.reaches(row, change | {"slack": slack}):
            return _least(asked, row, change, "slack", before, slack)
    change |= {} if slack is None else {"slack": slack}
    while ef < most:
        before, ef = ef, min(2 * ef, most)
        if asked.reaches(row, change | {"ef_search": ef}):
            return _least(asked, row, change, "ef_search", before, ef)
    return {}


def _least(
    asked: Asked, row: int, change: dict[str, float], name: str, low: float, high: float
) -> dict[str, float]:
    """Return the least value of an argument that reaches a row, by halving.

    Between one that does not, and one that does; what is returned was tried.
    """
    whole = name == "ef_search"
    for _ in range(HALVINGS):
        middle = (low + high) // 2 if whole else round((low + high) / 2, 4)
        if middle in (low, high):
            break
        if asked.reaches(row, change | {name: middle}):
            high = middle
        else:
            low = middle
    return change | {name: high}


def _more_answers(asked: Asked, row: int, rank: int) -> dict[str, float]:
    """Return how many answers to ask for, so that a row is one.

    More than its rank, where more answers lengthen the lists that lead to them.
    """
    k, limited = rank, asked.plan.mode == "prefix_ann"
    for _ in range(TRIES):
        change: dict[str, float] = {"k": k}
        try:
            plan = asked.again(change)
        except FunnelError:  # of a shortlist or a cascade that was given
            if not limited:
                break
            change["shortlist"] = k
            plan = asked.again(change)
        last = asked.replayed(plan)[-1]
        if row in last.kept:
            return change
        k = max(k + 1, last.rank_of(row) or 2 * k)
    return {"k": rank}


def _ranks(asked: Asked, row: int, steps: list[Step]) -> Ranks:
    """Return the rank and the score of a row at each of the index's dims.

    Among what the search retrieved, and the row itself.
    """
    snapshot, query = asked.snapshot, asked.queries[0]
    rows = np.union1d(steps[0].received if steps else [], [row]).astype(np.int64)
    place, found = int(np.searchsorted(rows, row)), {}
    for dim in snapshot.manifest.dims:
        scores = prefix_scores(snapshot, query, rows, dim)
        better = int((scores > scores[place]).sum())
        found[dim] = better + 1, float(scores[place])
    return found
