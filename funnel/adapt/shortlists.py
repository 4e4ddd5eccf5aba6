"""What each shorter shortlist of a walk would hold, and each stage behind it.

One walk, its candidates scored at a few dims: then every number of rows to keep is an
array operation. Called by `tune.py`.

q = queries, c = candidates of a walk, best first by their codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from funnel.adapt.workload import Workload
from funnel.cascade import Cascade, Stage
from funnel.kernels.types import Floats, Rows
from funnel.plan import Plan

# Times k.
KEEPS = (
    1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6,
    2.8, 3, 3.2, 3.4, 3.6, 3.8, 4, 4.5, 5, 5.5, 6, 7, 8, 10, 12, 15, 20, 25,
)  # fmt: skip
WORTH = 1.5  # times fewer rows: a stage that spares less is not worth its overhead
TIMED = 4  # times k: shortlist of a timed walk
PRICED = 8  # times k: rows that tell what one takes


class Knobs(NamedTuple):
    """A setting of a search's knobs, and about what it takes.

    `stages` are those between the walk and full width: dim, rows kept.
    """

    shortlist: int
    ef: int
    slack: float | None
    stages: tuple[tuple[int, int], ...] = ()
    us: float = 0.0


@dataclass(frozen=True)
class Walked:
    """What walks found.

    Parameters
    ----------
    knobs : Knobs
        Of the walk, and what it took.
    good : (q, c) bool
        Whether a candidate is as good as one of the k best.
    prefixes : mapping of int to (q, c) float32
        Scores at longer prefixes, by dim.
    k, extra : int
        Answers, and rows beside them that are none.
    """

    knobs: Knobs
    good: npt.NDArray[np.bool_]
    prefixes: Mapping[int, Floats]
    k: int
    extra: int

    def losses(self, keep: int, dim: int = 0) -> npt.NDArray[np.float64]:
        """Return 1 − knn_recall@k of the first 1, 2, … `keep` candidates.

        With `dim`, of the first `keep` in the order of their scores there.
        """
        held = self.good[:, :keep]
        if dim:
            order = np.argsort(-self.prefixes[dim][:, :keep], axis=1)
            held = np.take_along_axis(held, order, axis=1)
        found = np.minimum(1, np.cumsum(held, axis=1) / self.k)
        lost: npt.NDArray[np.float64] = 1 - found.mean(axis=0)
        return lost


def between(work: Workload) -> list[int]:
    """Return the dims that a stage between codes and full width may have."""
    m = work.snapshot.manifest
    fits = [d for d in m.dims if m.code_dim < d <= m.full_dim // 2]
    return fits[:2]


def row_prices(work: Workload) -> dict[int, float]:
    """Return what it takes to rerank a row at each dim of a stage, µs."""
    dims = [*between(work), work.snapshot.manifest.full_dim]
    return {dim: _row_us(work, dim) for dim in dims}


def _row_us(work: Workload, dim: int) -> float:
    k, n = work.k + work.extra, work.snapshot.manifest.rows
    ef = min(PRICED * k, n)
    few, many = (
        work.timed(Plan("funnel", k, keep, ef, Cascade([Stage(dim, k)]), 1))
        for keep in (k, ef)
    )
    return max(0.0, many - few) / max(1, ef - k)


def walked(work: Workload, ef: int, slack: float | None, dims: list[int]) -> Walked:
    """Walk, and score what is found at `dims`, of which the last is the full width."""
    n, extra = work.snapshot.manifest.rows, work.extra
    longest = min(ef, round(KEEPS[-1] * work.k) + extra, n)
    rank = work.k + extra  # of searches for k, not of this one for all it finds
    plan = Plan("prefix_ann", longest, longest, ef, None, 1, slack, rank)
    short = min(longest, TIMED * work.k + extra)  # slack keeps a whole shortlist
    us = work.timed(replace(plan, k=short, shortlist=short), repeats=2)
    rows, _ = work.run(plan)
    scores = {}
    for dim in dims:
        again = replace(plan, mode="funnel", cascade=Cascade([Stage(dim, longest)]))
        scores[dim] = _in_order(rows, *work.run(again))
    good = (scores.pop(dims[-1]) >= work.enough[:, None]) & (rows >= 0)
    if work.own is not None:
        good &= rows != work.own[:, None]
    return Walked(Knobs(longest, ef, slack, us=us), good, scores, work.k, extra)


def _in_order(rows: Rows, others: Rows, scores: Floats) -> Floats:
    """Return the scores of `others` in the order that `rows` has them, (q, c)."""
    out = np.empty(scores.shape, np.float32)
    here, there = np.argsort(rows, axis=1), np.argsort(others, axis=1)
    np.put_along_axis(out, here, np.take_along_axis(scores, there, axis=1), axis=1)
    return out


def replays(
    found: Walked, prices: Mapping[int, float]
) -> Iterator[tuple[float, Knobs]]:
    """Yield the loss and the setting of each shortlist, and each stage behind it.

    Parameters
    ----------
    prices : mapping of int to float
        Dim → µs to rerank a row, the full width last.
    """
    most, extra, full = found.knobs.shortlist, found.extra, list(prices)[-1]
    counts = dict.fromkeys(round(times * found.k) for times in KEEPS)
    keeps = [keep for keep in counts if keep + extra <= most]
    losses = found.losses(most).tolist()
    for keep in keeps:
        us = found.knobs.us + keep * prices[full]
        yield losses[keep - 1], found.knobs._replace(shortlist=keep + extra, us=us)
        for dim in found.prefixes:
            held = found.losses(keep, dim).tolist()
            for left in keeps:
                # What is left is read by lines elsewhere: as dear as from the start.
                spent = keep * prices[dim] + left * prices[full]
                if WORTH * left > keep or spent > keep * prices[full]:
                    break
                knobs = found.knobs._replace(
                    shortlist=keep + extra, stages=((dim, left + extra),),
                    us=found.knobs.us + spent,
                )  # fmt: skip
                yield held[left - 1], knobs
