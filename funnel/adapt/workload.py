"""Queries, their exact answers, and what a search loses of them.

Called by `tune.py`, `stage_losses.py` and `evaluate.py`. Chooses nothing.

q = queries, d = full dims, c = rows found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from funnel.kernels.types import Floats, Rows
from funnel.plan import Plan
from funnel.search import search
from funnel.selection import Selection
from funnel.snapshot import Snapshot

OWN_QUERIES = 2_000  # rows of the index, where no queries are given
LARGE, OF_LARGE = 1 << 29, 1_000  # numbers: exact answers of 2,000 take a minute there
REPEATS = 3  # of each timed search; the fastest counts
TIE = 1e-6  # of the product of norms: a score this near to the k-th is as good
Losses = npt.NDArray[np.float64]
Measure = Callable[[Rows, Floats], Losses]


@dataclass(frozen=True)
class Workload:
    """Queries to tune on, and their exact answers.

    Parameters
    ----------
    snapshot : Snapshot
    queries : (q, d) float32
        Checked and transformed.
    own : (q,) int64 or None
        The row that each query is, which is no answer to itself.
    k : int
    truth : (q, k) int64
        The rows of the exact answers.
    enough : (q,) float32
        The score from which on a row is as good as the k-th.
    selection : Selection
        Rows that may be answers.
    """

    snapshot: Snapshot
    queries: Floats
    own: Rows | None
    k: int
    truth: Rows
    enough: Floats
    selection: Selection

    @property
    def extra(self) -> int:
        """Answers to ask for beside k: a query's own row."""
        return int(self.own is not None)

    def part(self, some: slice | Rows) -> Workload:
        """Return the workload of some of the queries."""
        own = None if self.own is None else self.own[some]
        truth, enough = self.truth[some], self.enough[some]
        return replace(
            self, queries=self.queries[some], own=own, truth=truth, enough=enough
        )

    def run(self, plan: Plan) -> tuple[Rows, Floats]:
        """Search; return rows and scores, a query's own row put last."""
        found = search(self.snapshot, self.queries, plan, False, self.selection)
        rows, scores = found.rows, found.scores
        if self.own is None:
            return rows, scores
        order = np.argsort(rows == self.own[:, None], axis=1, kind="stable")
        return (
            np.take_along_axis(rows, order, axis=1),
            np.take_along_axis(scores, order, axis=1),
        )

    def timed(self, plan: Plan, repeats: int = REPEATS) -> float:
        """Return the fastest of some searches, in µs a query."""
        spent = []
        for _ in range(repeats):
            began = time.perf_counter_ns()
            search(self.snapshot, self.queries, plan, False, self.selection)
            spent.append((time.perf_counter_ns() - began) / 1e3 / len(self.queries))
        return min(spent)

    def recall_loss(self, rows: Rows, scores: Floats) -> Losses:
        """Return 1 − knn_recall@k of each query; ties with the k-th are as good."""
        good = (scores[:, : self.k] >= self.enough[:, None]) & (rows[:, : self.k] >= 0)
        losses: Losses = 1 - good.sum(axis=1) / self.k
        return np.maximum(losses, 0)


def workload_of(
    snapshot: Snapshot, queries: Floats | None, k: int, seed: int, threads: int,
    selection: Selection | None = None,
) -> Workload:  # fmt: skip
    """Return the workload of given queries, or of rows of the index itself.

    `k` is at most the number of the rows that may be answers, by default all.
    """
    own = None
    if queries is None:
        live = snapshot.live_rows()
        large = len(live) * snapshot.manifest.full_dim > LARGE
        count = min(OF_LARGE if large else OWN_QUERIES, len(live))
        own = np.random.default_rng(seed).choice(live, count, replace=False)
        queries = snapshot.vectors(own).astype(np.float32)
    extra = int(own is not None)
    plan = Plan("exact", k + extra, k + extra, k + extra, None, threads)
    none = np.empty((0, k), np.int64), np.empty(0, np.float32)
    may = snapshot.everything if selection is None else selection
    bare = Workload(snapshot, queries, own, k, *none, may)
    rows, scores = bare.run(plan)
    enough = scores[:, k - 1] - _tie(bare, rows[:, k - 1])
    return replace(bare, truth=rows[:, :k], enough=enough)


def _tie(work: Workload, kth: Rows) -> Floats | float:
    """Return how much rounding may take from the score of the k-th row, (q,)."""
    if work.snapshot.manifest.metric == "cosine":
        return TIE
    lengths = np.linalg.norm(work.snapshot.vectors(kth).astype(np.float32), axis=1)
    tie: Floats = TIE * lengths * np.linalg.norm(work.queries, axis=1)
    return tie


def dcg_losses(exact: Rows, gains: list[dict[int, float]], k: int) -> Measure:
    """Return what measures the share of exact search's DCG@k that is lost.

    The ideal DCG falls out of the ratio: it is that of ndcg@k too.

    Parameters
    ----------
    exact : (q, k) int64
        Rows that exact search finds, best first.
    gains : list of dict, an entry a query
        Row → relevance; rows that are not named have none.

    Returns
    -------
    callable
        Its losses are NaN for queries that exact search answers with nothing relevant.
    """
    best = discounted(exact.tolist(), gains, k)

    def losses(rows: Rows, _scores: Floats) -> Losses:
        found = discounted(rows.tolist(), gains, k)
        nothing = np.full(len(best), np.nan)
        share = np.divide(found, best, out=nothing, where=best > 0)
        lost: Losses = np.clip(1 - share, 0, 1)
        return lost

    return losses


def discounted(
    rows: list[list[int]], gains: Sequence[dict[int, float]], k: int
) -> Losses:
    """Return the DCG@k of each query's rows (Järvelin & Kekäläinen 2002)."""
    discounts = 1 / np.log2(np.arange(2, k + 2))
    found = [
        sum(held.get(row, 0.0) * d for row, d in zip(some[:k], discounts, strict=False))
        for some, held in zip(rows, gains, strict=True)
    ]
    return np.array(found, np.float64)
