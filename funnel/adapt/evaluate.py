"""Measure how good and how fast a search is, on queries.

Called by `FunnelIndex.evaluate`. Chooses nothing (`tune.py`).

q = queries, k = answers, d = full dims.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from funnel.adapt.evaluation import Evaluation, Relevance
from funnel.adapt.explain import Asked
from funnel.adapt.explanation import words_of
from funnel.adapt.goal import Judgements
from funnel.adapt.replay import prefix_scores
from funnel.adapt.tune import Z95
from funnel.adapt.workload import REPEATS, Losses, discounted, workload_of
from funnel.kernels.types import Floats, Rows
from funnel.plan import Plan
from funnel.search import search
from funnel.snapshot import Snapshot

CALLS = 1_000  # single ones that are timed, at most


def evaluate(
    asked: Asked,
    judgements: Sequence[Judgements] | None,
    call: Callable[[Floats], object],
) -> Evaluation:
    """Return how good and how fast a search is.

    Parameters
    ----------
    asked : Asked
        At least one query; some rows may be answers.
    judgements : sequence of dict, an entry a query, or None
        Row → relevance; see `goal.judgements_of`.
    call : callable
        The search as users call it, of (q, d) or (d,) queries.
    """
    snapshot, queries, plan, selection = asked[:4]
    k = min(plan.k, selection.rows)
    work = workload_of(snapshot, queries, k, 0, plan.threads, selection)
    rows, scores, trace, whole = search(snapshot, queries, plan, True, selection)
    if not whole or _ends_short(plan, snapshot.manifest.full_dim):
        scores = _full_scores(snapshot, queries, rows)
    recalls = 1 - work.recall_loss(rows, scores)
    judged = [] if judgements is None else _judged(judgements)
    found, exact = (
        _relevance(some, judgements, judged, k) for some in (rows, work.truth)
    )
    single = _single_us(queries, call)
    assert trace is not None, "a trace was asked for"
    scored = sum(one.rows_in for one in trace if one.name != "cut")
    return Evaluation(
        len(queries), plan.k, words_of(plan), asked.origin, float(recalls.mean()),
        _interval(recalls), len(judged), found, exact, _batch_us(queries, call),
        (float(np.median(single)), float(np.percentile(single, 99))), len(single),
        plan.threads, scored / len(queries), trace.bytes_read / len(queries),
    )  # fmt: skip


def _ends_short(plan: Plan, full_dim: int) -> bool:
    """Tell whether a search ends with scores of codes, or of a prefix."""
    if plan.mode == "exact":
        return False
    return plan.cascade is None or plan.cascade[-1].dim < full_dim


def _full_scores(snapshot: Snapshot, queries: Floats, rows: Rows) -> Floats:
    """Return the scores of answers, (q, k), at full width; −inf where there is none."""
    scores, full = np.full(rows.shape, -np.inf), snapshot.manifest.full_dim
    for query, some, own in zip(queries, rows, scores, strict=True):
        own[some >= 0] = prefix_scores(snapshot, query, some[some >= 0], full)
    return scores.astype(np.float32)


def _interval(shares: Losses) -> tuple[float, float]:
    """Return the 95 % interval of a mean of shares, by the normal approximation."""
    if len(shares) < 2:
        return 0.0, 1.0
    mean, far = shares.mean(), Z95 * shares.std(ddof=1) / len(shares) ** 0.5
    return float(max(0.0, mean - far)), float(min(1.0, mean + far))


def _batch_us(queries: Floats, call: Callable[[Floats], object]) -> float:
    """Return the fastest of some searches for all queries, in µs a query."""
    return min(_us(queries, call) for _ in range(REPEATS)) / len(queries)


def _single_us(queries: Floats, call: Callable[[Floats], object]) -> list[float]:
    """Return the µs of single calls, after one that is not counted."""
    call(queries[0])
    return [_us(one, call) for one in queries[:CALLS]]


def _us(queries: Floats, call: Callable[[Floats], object]) -> float:
    began = time.perf_counter_ns()
    call(queries)
    return (time.perf_counter_ns() - began) / 1e3


def _judged(judgements: Sequence[Judgements]) -> list[int]:
    """Return the queries that have a relevant id; trec_eval leaves others out too."""
    return [i for i, one in enumerate(judgements) if one.ideal]


def _relevance(
    rows: Rows, judgements: Sequence[Judgements] | None, judged: list[int], k: int
) -> Relevance | None:
    """Return how well answers, (q, ≥ k), meet the judgements; None without any."""
    if judgements is None or not judged:
        return None
    some = [judgements[i] for i in judged]
    answers = [rows[i, :k].tolist() for i in judged]
    gains = [one.gains for one in some]
    ideal = [
        discounted([list(range(len(one.ideal)))], [dict(enumerate(one.ideal))], k)[0]
        for one in some
    ]
    ndcg = discounted(answers, gains, k) / np.array(ideal)
    right = [
        [row in held for row in answer]
        for answer, held in zip(answers, gains, strict=True)
    ]
    recall = [sum(hits) / len(one.ideal) for hits, one in zip(right, some, strict=True)]
    first = [1 / (1 + hits.index(True)) if any(hits) else 0.0 for hits in right]
    return Relevance(*(float(np.mean(one)) for one in (ndcg, recall, first)))
