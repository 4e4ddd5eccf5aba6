"""Choose how much effort a search is worth, by measuring on queries.

One deep walk a setting says which true neighbours each shorter list would hold; the few
settings that are fastest for what they find are then searched and timed as they are.
Half of the queries choose the settings, the other half how far one has to go: bounds
are those of `risk.py`. Called by `FunnelIndex.tune`, which stores what comes out.

q = queries, l = levels, c = candidates of a walk.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from funnel.adapt.goal import Goal, check_enough
from funnel.adapt.risk import least_level, least_sure_level, monotone
from funnel.adapt.shortlists import Knobs, replays, row_prices, walked
from funnel.adapt.tuning import Tuning
from funnel.adapt.workload import (
    REPEATS,
    Losses,
    Measure,
    Workload,
    dcg_losses,
    discounted,
)
from funnel.cascade import Cascade, Stage
from funnel.plan import Plan
from funnel.progress import Progress
from funnel.store.tuned import Level, Tuned

HALVES = 0  # the seed that draws them
WALKED = 500  # queries at most that settings are chosen by
TIMED = 1_000  # that they are timed by: a few would find their rows in the caches
EXACT_QUERIES = 100  # that tell what a scan takes
Z95 = 1.96
EFS = (1, 1.4, 2, 2.8, 4, 5.6, 8, 11, 16, 22, 32, 64)  # times k
SLACKS = (
    0.03, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.22, 0.25, 0.28, 0.33, 0.4,
)  # fmt: skip
LOOSE_EF = 40  # times k: the longest list of a walk that ends by slack
STEPS = (
    1.0, 0.7, 0.5, 0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.06, 0.055, 0.0525, 0.05,
    0.0475, 0.045, 0.0425, 0.04, 0.035, 0.03, 0.025, 0.02, 0.015,
    0.0125, 0.01, 0.008, 0.006, 0.005, 0.004, 0.003, 0.002, 0.001, 0.0005, 0.0,
)  # fmt: skip


def plan_of(knobs: Knobs, k: int, full_dim: int) -> Plan:
    """Return the plan of a setting: what its stages leave is reranked at full width."""
    cascade = Cascade([*knobs.stages, Stage(full_dim, k)])
    return Plan("funnel", k, knobs.shortlist, knobs.ef, cascade, 1, knobs.slack)


def candidates(
    work: Workload, prices: Mapping[int, float], progress: Progress
) -> list[Knobs]:
    """Return settings that no other beats, by what walks on some queries found.

    A walk's own order, and the scores of what it found at a longer prefix, say what
    each shorter shortlist and each stage between would hold: none is searched.

    Parameters
    ----------
    prices : mapping of int to float
        Dim → µs to rerank a row, the full width last.
    """
    found: list[tuple[float, Knobs]] = []
    settings = list(_walks(work))
    with progress.step("walking", len(settings)) as advance:
        for ef, slack in settings:
            found += list(replays(walked(work, ef, slack, list(prices)), prices))
            advance(1)
    return front(found)


def front(found: list[tuple[float, Knobs]]) -> list[Knobs]:
    """Return the cheapest settings for each step of loss, cheapest first.

    One that ends by slack and one that does not: what they take is estimated here, and
    measured later.
    """
    chosen: dict[Knobs, None] = {}
    for step, by_slack in itertools.product(STEPS, (False, True)):
        good = [
            knobs
            for loss, knobs in found
            if loss <= step and (knobs.slack is not None) == by_slack
        ]
        if good:
            chosen[min(good, key=lambda knobs: knobs.us)] = None
    return sorted(chosen, key=lambda knobs: knobs.us)


def _walks(work: Workload) -> Iterator[tuple[int, float | None]]:
    """Yield lengths of the walk's list, and slacks."""
    n = max(s.nodes for s in work.snapshot.manifest.segments)
    k = work.k + work.extra
    efs = dict.fromkeys(max(k, min(n, round(times * k))) for times in EFS)
    yield from zip(efs, itertools.repeat(None))
    if work.snapshot.manifest.metric == "cosine":
        yield from itertools.product([max(k, min(n, LOOSE_EF * k))], SLACKS)


def measured(
    work: Workload, settings: list[Knobs], measure: Measure, half: slice,
    progress: Progress,
) -> tuple[list[Knobs], Losses]:  # fmt: skip
    """Search each setting as it is; return those worth their time, and their losses.

    Returns
    -------
    settings : list of Knobs
        By time; those that lose less of `half` than all that are faster.
    losses : (q, l) float64
        Of all queries.
    """
    k, full_dim = work.k + work.extra, work.snapshot.manifest.full_dim
    plans = [plan_of(knobs, k, full_dim) for knobs in settings]
    timing, rounds = work.part(slice(0, TIMED)), []
    with progress.step("searching", (1 + REPEATS) * len(plans)) as advance:
        losses = [_counted(measure(*work.run(plan)), advance) for plan in plans]
        for _ in range(REPEATS):  # in turn: what disturbs one of them disturbs all
            rounds += [[_counted(timing.timed(one, 1), advance) for one in plans]]
    spent = np.min(rounds, axis=0).tolist()
    found = [
        (knobs._replace(us=us), lost)
        for knobs, us, lost in zip(settings, spent, losses, strict=True)
    ]
    found.sort(key=lambda one: one[0].us)
    kept: list[tuple[Knobs, Losses]] = []
    for knobs, losses in found:
        if not kept or losses[half].mean() < kept[-1][1][half].mean():
            kept.append((knobs, losses))
    return [knobs for knobs, _ in kept], np.stack([one for _, one in kept], axis=1)


def _counted(found: Any, advance: Callable[[int], object]) -> Any:
    """Return what was found, one step further."""
    advance(1)
    return found


def tune(
    work: Workload, goal: Goal, gains: list[dict[int, float]] | None,
    progress: Progress,
) -> Tuning:  # fmt: skip
    """Choose a level on one half of the queries, and say how sure it is on the other.

    Parameters
    ----------
    gains : list of dict, an entry a query, or None
        Row → relevance. Of queries that exact search answers with nothing relevant, no
        share of ndcg can be told: a target of it leaves them out.
    """
    if gains is not None and goal.measure == "ndcg":
        best = discounted(work.truth.tolist(), gains, work.k)
        judged = np.flatnonzero(best > 0)
        check_enough(len(judged))
        work, gains = work.part(judged), [gains[i] for i in judged.tolist()]
    # Queries may come in an order: both halves are to be like all of them.
    order = np.random.default_rng(HALVES).permutation(len(work.queries))
    work = work.part(order)
    if gains is not None:
        gains = [gains[i] for i in order.tolist()]
    measures: dict[str, Measure] = {"knn_recall": work.recall_loss}
    if gains is not None:
        measures["ndcg"] = dcg_losses(work.truth, gains, work.k)
    half = len(work.queries) // 2
    first, second = slice(0, half), slice(half, None)
    prices = row_prices(work.part(slice(0, TIMED)))
    some = work.part(slice(0, min(half, WALKED)))
    settings = candidates(some, prices, progress)
    settings, losses = measured(work, settings, measures[goal.measure], first, progress)
    held_out = monotone(losses[second])
    k, full_dim = work.k + work.extra, work.snapshot.manifest.full_dim
    plan = Plan("exact", k, k, k, None, 1)
    exact_us = work.part(slice(0, EXACT_QUERIES)).timed(plan, repeats=1)
    levels = _levels(settings, held_out.mean(axis=0).tolist(), work.extra, exact_us)
    walks = len(levels) - 1
    chosen = _chosen(levels, held_out[:, :walks], goal)
    if chosen < walks:
        plan = plan_of(settings[chosen], k, full_dim)
    found = work.run(plan)
    seen = {name: _quality(of(*found)[second]) for name, of in measures.items()}
    quality, interval = seen.pop(goal.measure)
    tuned = Tuned(work.k, goal.measure, len(held_out), chosen, tuple(levels))
    reached = chosen < walks
    if goal.budget_ms is not None:
        reached = levels[chosen].us <= 1e3 * goal.budget_ms
    return Tuning(
        tuned, goal.target, goal.confidence, reached, quality, interval,
        exact_us, work.snapshot.manifest.rows, work.own is not None, seen,
    )  # fmt: skip


def _levels(
    settings: list[Knobs], losses: list[float], extra: int, exact_us: float
) -> list[Level]:
    """Return what an index stores of settings by time: those faster than a scan."""
    levels = []
    for one, loss in zip(settings, losses, strict=True):
        stages = tuple((dim, keep - extra) for dim, keep in one.stages)
        shortlist = one.shortlist - extra
        if one.us < exact_us:
            levels.append(
                Level(shortlist, one.ef, one.slack, False, loss, one.us, stages)
            )
    return [*levels, Level(0, 0, None, True, 0.0, exact_us)]


def _quality(losses: Losses) -> tuple[float, tuple[float, float]]:
    """Return 1 − the mean loss, and its 95 % interval; without NaN, of no query."""
    losses = losses[~np.isnan(losses)]
    if not len(losses):
        return np.nan, (np.nan, np.nan)
    mean, error = 1 - float(losses.mean()), Z95 * float(losses.std())
    error /= len(losses) ** 0.5
    return mean, (mean - error, mean + error)


def _chosen(levels: list[Level], losses: Losses, goal: Goal) -> int:
    """Return the first level that is sure enough; the exact scan if none is."""
    if goal.target is None:
        budget_us = 1e3 * (goal.budget_ms or 0)
        within = [i for i, one in enumerate(levels) if one.us <= budget_us]
        return max(within, key=lambda i: -levels[i].loss, default=0)
    allowed = 1 - goal.target
    if goal.confidence is None:
        found = least_level(losses, allowed)
    else:
        found = least_sure_level(losses, allowed, goal.confidence)
    return len(levels) - 1 if found is None else found
