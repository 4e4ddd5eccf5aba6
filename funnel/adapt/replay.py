"""One search again, step by step, in plain NumPy: who was scored, kept and lost.

For explanations: it keeps every candidate's score, which kernels do not. Called by
`explain.py` and `stage_losses.py`.

c = candidates, d = full dims.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from funnel.cascade import Cascade, Stage
from funnel.exact import scan
from funnel.kernels.funnel import search_many
from funnel.kernels.knobs import LOOSE, MAX_BYTES
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
    loose : int64
        Rows that go on beside the best: no code can rank them.
    """

    name: str
    dim: int
    keep: int
    rows: Rows
    scores: Scores
    loose: Rows = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def received(self) -> Rows:
        """All rows that came to this step."""
        return np.concatenate([self.rows, self.loose])

    @property
    def kept(self) -> Rows:
        """Rows that go on."""
        return np.concatenate([self.rows[: self.keep], self.loose])

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

    Stages that a search does not run, as they would pass on all, are no steps.

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
    steps = _walk_steps(snapshot, query, plan, selection)
    ran = set(lay_out(m, plan).stages[0].tolist())
    for stage in stages:
        if stage.space != "codes" and stage.dim in ran:
            steps.append(_rescored(snapshot, query[0], steps[-1], stage))
    return steps


def _walk_steps(
    snapshot: Snapshot, query: Floats, plan: Plan, selection: Selection
) -> list[Step]:
    """Return the steps before a rerank: a walk, and perhaps the cut of its list."""
    width, stages = snapshot.manifest.code_dim, list(plan.cascade or ())
    listed = min(plan.shortlist, selection.rows)
    rows, scores = walked(snapshot, query, plan, selection)
    if not stages:
        return [Step("walk", width, plan.k, rows, scores)]
    loose = loose_rows(snapshot, selection)
    coded = ~np.isin(rows, loose)
    rows, scores = rows[coded], scores[coded]
    if stages[0].space != "codes":
        return [Step("walk", width, listed, rows, scores, loose)]
    # What the cut drops; what goes on comes first, though several segments be walked
    # a little further where nothing is cut.
    more, their = walked(snapshot, query, uncut(plan), selection)
    dropped = ~np.isin(more, np.concatenate([rows, loose]))
    best = np.concatenate([rows, more[dropped]])[:listed]
    scores = np.concatenate([scores, their[dropped]])[:listed]
    return [
        Step("walk", width, listed, best, scores, loose),
        Step("cut", width, min(stages[0].keep, listed), best, scores, loose),
    ]


def uncut(plan: Plan) -> Plan:
    """Return a plan without the cut by codes: its whole shortlist is reranked."""
    stages = [stage for stage in plan.cascade or () if stage.space != "codes"]
    return replace(plan, cascade=Cascade(stages) if stages else None)


def is_blind(snapshot: Snapshot, query: Floats) -> bool:
    """Tell whether a walk would see nothing of a query: it is scanned exactly."""
    m, wanted = snapshot.manifest, query[0].astype(np.float64)
    short = wanted[: m.walk_dim]
    if m.projection == "pca":
        short = snapshot.axes[: m.walk_dim] @ wanted
    return bool(np.linalg.norm(short) <= LOOSE * np.linalg.norm(wanted))


def scanned(
    snapshot: Snapshot, query: Floats, plan: Plan, selection: Selection
) -> tuple[Rows, Scores]:
    """Scan; return the rows that were found and their scores, best first."""
    rows, scores, _ = scan(snapshot, query, plan, selection)
    return _found(rows[0], scores[0])


def walked(
    snapshot: Snapshot, query: Floats, plan: Plan, selection: Selection
) -> tuple[Rows, Scores]:
    """Walk as a search does; return what it would rerank, by codes, best first.

    The best rows, as many as the plan's cut leaves, and all loose ones, which score 0.
    """
    count = plan.shortlist + len(loose_rows(snapshot, selection))
    return run(snapshot, query, plan, selection, min(count, selection.rows), 0)


def run(
    snapshot: Snapshot, query: Floats, plan: Plan, selection: Selection, count: int,
    max_bytes: int = -1,
) -> tuple[Rows, Scores]:  # fmt: skip
    """Search one query; return the `count` best rows that come out of the last step.

    `k` stays that of the search: the end by slack hangs on it, and the end of a rerank
    by bounds. With no bytes allowed the first rerank is not run; −1 allows any.
    """
    layout = lay_out(snapshot.manifest, plan)
    knobs = layout.knobs.copy()
    knobs[MAX_BYTES] = max_bytes
    rows, scores = np.empty((1, count), np.int64), np.empty((1, count), np.float32)
    trace = np.zeros((len(layout.steps), 4), np.int64)
    memory = (selection.table, snapshot.starts, snapshot.like)
    visited = snapshot.borrow_scratch()
    search_many(
        query, snapshot.coded_axes, memory, layout.stages, knobs, layout.scales,
        visited, (rows, scores, trace),
    )  # fmt: skip
    snapshot.return_scratch(visited)
    return _found(rows[0], scores[0])


def loose_rows(snapshot: Snapshot, selection: Selection) -> Rows:
    """Return the rows that may be answers of which the projection says nothing."""
    found = [np.empty(0, np.int64)]
    for first, segment, flags in zip(
        snapshot.firsts[:-1], snapshot.segments, selection.flags, strict=True
    ):
        own = segment.loose[(segment.loose >= 0) & (segment.loose < segment.rows)]
        found.append(first + (own if flags is None else own[flags[own] > 0]))
    return np.concatenate(found)


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
    rows = before.kept
    scores = prefix_scores(snapshot, query, rows, stage.dim)
    order = np.argsort(-scores, kind="stable")
    return Step("rerank", stage.dim, stage.keep, rows[order], scores[order])
