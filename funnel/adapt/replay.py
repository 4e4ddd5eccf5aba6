"""One search again, step by step, in plain NumPy: who was scored, kept and lost.

For explanations: it keeps every candidate's score, which kernels do not. Called by
`explain.py`.

c = candidates, d = full dims.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from funnel.cascade import Stage
from funnel.kernels.types import TINY, Floats, Rows
from funnel.plan import Plan
from funnel.search import search
from funnel.snapshot import Snapshot

Scores = npt.NDArray[np.float64]


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

    @property
    def threshold(self) -> float:
        """The score of the last row that goes on."""
        kept = self.scores[: self.keep]
        return float(kept[-1]) if len(kept) else -np.inf

    def rank_of(self, row: int) -> int | None:
        """Return the rank of a row, from 1; None if it was not scored here."""
        found = np.flatnonzero(self.rows == row)
        return int(found[0]) + 1 if len(found) else None


def replayed(snapshot: Snapshot, query: Floats, plan: Plan) -> list[Step]:
    """Return the steps of a search.

    Parameters
    ----------
    query : (1, d) float32
        Checked and transformed.
    """
    if plan.mode in ("exact", "prefix"):
        dim = _width(snapshot, plan.mode)
        return [Step("scan", dim, plan.k, *ranked(snapshot, query, plan))]
    m, stages = snapshot.manifest, list(plan.cascade or ())
    listed = min(plan.shortlist, m.rows)
    rank = plan.rank or plan.k  # of the search, not of the walk for all it hands on
    walk = replace(plan, mode="prefix_ann", k=listed, cascade=None, rank=rank)
    rows, scores = ranked(snapshot, query, walk)
    steps = [Step("walk", m.code_dim, listed, rows, scores)]
    if not stages:
        return [replace(steps[0], keep=plan.k)]
    if stages[0].space == "codes":
        cut = stages.pop(0)
        steps.append(Step("cut", cut.dim, min(cut.keep, listed), rows, scores))
    for stage in stages:
        steps.append(_rescored(snapshot, query[0], steps[-1], stage))
    return steps


def ranked(snapshot: Snapshot, query: Floats, plan: Plan) -> tuple[Rows, Scores]:
    """Search; return the rows that were found and their scores, best first."""
    rows, scores = search(snapshot, query, plan, False, snapshot.everything)[:2]
    found = rows[0] >= 0
    return rows[0][found], scores[0][found].astype(np.float64)


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


def _width(snapshot: Snapshot, mode: str) -> int:
    m = snapshot.manifest
    return m.full_dim if mode == "exact" else m.code_dim
