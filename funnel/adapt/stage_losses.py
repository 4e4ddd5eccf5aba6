"""How much each step of a search loses, over a set of queries.

After each step, what a full-width ranking of the rows that are left would still find.
Called by `FunnelIndex.loss_by_stage`.

q = queries, s = steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from funnel.adapt.replay import Step, prefix_scores, replayed
from funnel.adapt.tables import Shown, Table
from funnel.adapt.workload import Workload, discounted
from funnel.kernels.types import Floats
from funnel.plan import Plan
from funnel.snapshot import Snapshot

Gains = Sequence[dict[int, float]]
HEADER = ("after", "dim", "rows", "knn_recall", "lost here")
JUDGED = ("ndcg of exact", "lost here")


@dataclass(frozen=True)
class StageLoss:
    """What is left after a step, means over the queries.

    Parameters
    ----------
    name : str
    dim : int
    keep : int
    knn_recall : float
        Of what exact search finds, the share that is still there.
    lost : float
        The share that this step dropped.
    ndcg : float or None
        As a share of exact search's, with relevance judgements.
    ndcg_lost : float or None
    """

    name: str
    dim: int
    keep: int
    knn_recall: float
    lost: float
    ndcg: float | None = None
    ndcg_lost: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table's row."""
        shares = [self.knn_recall, self.lost, self.ndcg, self.ndcg_lost]
        said = [f"{share:.4f}" for share in shares if share is not None]
        return self.name, f"{self.dim:,}", f"{self.keep:,}", *said


@dataclass(frozen=True)
class StageLosses(Shown):
    """The steps of a search in order; prints as a table, shows as one in a notebook.

    Parameters
    ----------
    stages : tuple of StageLoss
    queries, k : int
        How many were searched, and their answers.
    """

    stages: tuple[StageLoss, ...]
    queries: int
    k: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    @property
    def headline(self) -> str:
        """Return how much was searched."""
        return f"{self.queries:,} queries, k = {self.k}"

    def sections(self) -> list[Table]:
        """Return the table of the steps."""
        judged = self.stages[0].ndcg is not None
        header = (*HEADER, *(JUDGED if judged else ()))
        rows = [one.cells() for one in self.stages]
        return [Table("", header, rows, left=1)]


def loss_by_stage(work: Workload, plan: Plan, gains: Gains | None) -> StageLosses:
    """Replay a search for each query and follow what exact search finds through it.

    Parameters
    ----------
    work : Workload
        Queries and their exact answers.
    plan : Plan
    gains : sequence of dict, an entry a query, or None
        Row → relevance.
    """
    left: list[list[tuple[float, float]]] = []
    steps: list[Step] = []
    for i in range(len(work.queries)):
        one = slice(i, i + 1)
        now = replayed(work.snapshot, work.queries[one], plan, work.selection)
        held = None if gains is None else gains[i]
        left.append(_left(work.snapshot, work.part(one), now, held))
        steps = max(steps, now, key=len)
    # A query that the projection says nothing of is scanned: it has one step.
    whole = [one + one[-1:] * (len(steps) - len(one)) for one in left]
    # Of queries that exact search answers with nothing relevant, no share of ndcg.
    means = _means(np.array(whole))  # (s, 2)
    drops = 0.0 - np.diff(means, axis=0, prepend=1.0)
    stages = [
        StageLoss(step.name, step.dim, step.keep, recall, lost)
        if gains is None
        else StageLoss(step.name, step.dim, step.keep, recall, lost, ndcg, ndcg_lost)
        for step, (recall, ndcg), (lost, ndcg_lost) in zip(
            steps, means.tolist(), drops.tolist(), strict=True
        )
    ]
    return StageLosses(tuple(stages), len(work.queries), work.k)


def _means(left: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the means over queries, (q, s, 2) → (s, 2), of those that are numbers."""
    known = ~np.isnan(left)
    sums, counts = np.where(known, left, 0.0).sum(axis=0), known.sum(axis=0)
    nothing = np.full(sums.shape, np.nan)
    means: npt.NDArray[np.float64] = np.divide(
        sums, counts, out=nothing, where=counts > 0
    )
    return means


def _left(
    snapshot: Snapshot, work: Workload, steps: list[Step],
    held: dict[int, float] | None,
) -> list[tuple[float, float]]:  # fmt: skip
    """Return, after each step, the shares of exact search's recall and DCG."""
    rows = steps[0].received
    scores = _full_scores(snapshot, work.queries[0], rows)
    best = rows[np.argsort(-scores, kind="stable")]
    good = rows[scores >= work.enough[0]]
    found = []
    for step in steps:
        kept = step.kept
        recall = min(1.0, np.isin(kept, good).sum() / work.k)
        ndcg = 1.0
        if held is not None:
            ranked = best[np.isin(best, kept)][: work.k]
            exact = discounted([work.truth[0].tolist()], [held], work.k)[0]
            ours = discounted([ranked.tolist()], [held], work.k)[0]
            ndcg = min(1.0, ours / exact) if exact > 0 else np.nan
        found.append((float(recall), float(ndcg)))
    return found


def _full_scores(
    snapshot: Snapshot, query: Floats, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    return prefix_scores(snapshot, query, rows, snapshot.manifest.full_dim)
