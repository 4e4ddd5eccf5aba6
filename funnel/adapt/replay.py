"""One search again, step by step, in plain NumPy: who was scored, kept and lost.

For explanations: it keeps every candidate's score, which kernels do not. Called by
`explain.py` and `stage_losses.py`.

c = candidates, d = full dims.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from funnel.cascade import Stage
from funnel.exact import scan
from funnel.kernels import funnel as f
from funnel.kernels.types import TINY, Floats, Rows
from funnel.plan import Plan
from funnel.search import lay_out
from funnel.selection import Selection
from funnel.snapshot import Snapshot

Scores = npt.NDArray[np.float64]
NO_DISTANCE = 1e-6  # what float32 leaves of a distance of none


@dataclass(frozen=True)
class Step:
    """A step of a search and all that it scored, best first.

    Parameters
    ----------
    name : {"walk", "cut", "rerank", "scan"}
    dim : int
        Dims scored: of the codes in a walk and its cut, else of the embedding.
    keep : int
        How many of the best go on.
    rows, scores : (c,) int64, (c,) float64
        By a walk those that it handed on, not all that it met.
    """

    name: str
    dim: int
    keep: int
    rows: Rows
    scores: Scores

    def score_at(self, rank: int) -> float:
        """Return the score of a rank, from 1, or of the last row that was scored."""
        best = self.scores[:rank]
        return float(best[-1]) if len(best) else -np.inf

    @property
    def threshold(self) -> float:
        """The score of the last row that goes on."""
        return self.score_at(self.keep)

    def times_kth(self, score: float, k: int) -> float | None:
        """Return how many times as far as the k-th best a score is, by 1 − cosine.

        None where the k-th best is no distance away.
        """
        away = 1 - self.score_at(k)
        return (1 - score) / away if away > NO_DISTANCE else None

    def rank_of(self, row: int) -> int | None:
        """Return the rank of a row, from 1; None if it was not scored here."""
        found = np.flatnonzero(self.rows == row)
        return int(found[0]) + 1 if len(found) else None


def replayed(
    snapshot: Snapshot, query: Floats, plan: Plan, selection: Selection
) -> list[Step]:
    """Return the steps of a search; none where no row may be an answer.

    Parameters
    ----------
    query : (1, d) float32
        Checked and transformed.
    """
    plan = replace(plan, k=min(plan.k, selection.rows))
    if plan.k == 0:
        return []
    m, stages = snapshot.manifest, list(plan.cascade or ())
    if plan.mode == "prefix":
        return [
            Step("scan", m.code_dim, plan.k, *scanned(snapshot, query, plan, selection))
        ]
    if plan.mode == "exact" or (stages and is_blind(snapshot, query)):
        found = scanned(snapshot, query, replace(plan, mode="exact"), selection)
        return [Step("scan", m.full_dim, plan.k, *found)]
    listed = min(plan.shortlist, selection.rows)
    rows, scores = walked(snapshot, query, plan, selection)
    steps = [Step("walk", m.code_dim, listed, rows, scores)]
    if not stages:
        return [replace(steps[0], keep=plan.k)]
    if stages[0].space == "codes":
        cut = stages.pop(0)
        steps.append(Step("cut", cut.dim, min(cut.keep, listed), rows, scores))
    for stage in stages:
        steps.append(_rescored(snapshot, query[0], steps[-1], stage))
    return steps


def is_blind(snapshot: Snapshot, query: Floats) -> bool:
    """Tell whether the projection says nothing of a query: it is scanned exactly."""
    m, wanted = snapshot.manifest, query[0].astype(np.float64)
    short = wanted[: m.code_dim]
    if m.projection == "pca":
        short = snapshot.axes[: m.code_dim] @ wanted
    return bool(np.linalg.norm(short) < f.LOOSE * np.linalg.norm(wanted))


def scanned(
    snapshot: Snapshot, query: Floats, plan: Plan, selection: Selection
) -> tuple[Rows, Scores]:
    """Scan; return the rows that were found and their scores, best first."""
    rows, scores, _ = scan(snapshot, query, plan, selection)
    return _found(rows[0], scores[0])


def walked(
    snapshot: Snapshot, query: Floats, plan: Plan, selection: Selection
) -> tuple[Rows, Scores]:
    """Walk as a search does; return its shortlist, by codes, best first.

    `k` stays that of the search: the end by slack hangs on it.
    """
    layout = lay_out(snapshot.manifest, replace(plan, cascade=None, certified=False))
    listed = min(plan.shortlist, selection.rows)
    rows, scores = np.empty((1, listed), np.int64), np.empty((1, listed), np.float32)
    memory = (selection.table, snapshot.starts, snapshot.like)
    visited = snapshot.borrow_scratch()
    f.search_many(
        query, snapshot.coded_axes, memory, layout.stages, layout.knobs,
        layout.scales, visited,
        (rows, scores, np.zeros((1, 4), np.int64), np.ones(1, np.bool_)),
    )  # fmt: skip
    snapshot.return_scratch(visited)
    return _found(rows[0], scores[0])


def _found(rows: Rows, scores: Floats) -> tuple[Rows, Scores]:
    found = rows >= 0
    return rows[found], scores[found].astype(np.float64)


def prefix_scores(snapshot: Snapshot, query: Floats, rows: Rows, dim: int) -> Scores:
    """Return the scores of rows by the first `dim` dims, renormalised.

    Under inner product times both full norms, as a rerank ranks; at full width that is
    the inner product.
    """
    stored = snapshot.vectors(rows).astype(np.float64)
    wanted = query.astype(np.float64)
    lengths = np.linalg.norm(stored[:, :dim], axis=1) * np.linalg.norm(wanted[:dim])
    products = stored[:, :dim] @ wanted[:dim]
    scores: Scores = np.divide(
        products, lengths, out=np.zeros(len(rows)), where=lengths > TINY
    )
    if snapshot.manifest.metric == "ip":
        scores *= np.linalg.norm(stored, axis=1) * np.linalg.norm(wanted)
    return scores


def _rescored(snapshot: Snapshot, query: Floats, before: Step, stage: Stage) -> Step:
    """Score what a step kept at a longer prefix, and sort."""
    rows = before.rows[: before.keep]
    scores = prefix_scores(snapshot, query, rows, stage.dim)
    order = np.argsort(-scores, kind="stable")
    return Step("rerank", stage.dim, stage.keep, rows[order], scores[order])
