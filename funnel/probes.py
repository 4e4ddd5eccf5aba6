"""Queries and their exact neighbours in a sample: what projections are judged by.

Arrays and numbers only; cosine throughout: rows and queries come with unit norm. Called
by `projection.py`, `nested.py` and `adapt/measures.py`, which so agree to the last row.

n = rows of the sample, q = queries, d = dims, w = width of a prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
import numpy.typing as npt

from funnel.kernels.types import Floats, Rows
from funnel.vectors import unit

PROBES = 256  # sample rows that act as queries
PROBES_TOGETHER = 64  # bounds memory
TARGET = 0.99  # share of the exact top 10 that a shortlist must hold
TOP = 10

Ranks = npt.NDArray[np.int64]


class Probes:
    """Queries and their exact neighbours among the rows.

    Parameters
    ----------
    rows : (n, d) float32, unit norm
    queries : (q, d) float32, unit norm
    own : (q,) int64 or None
        The rows that the queries are: no answers to themselves.
    """

    def __init__(self, rows: Floats, queries: Floats, own: Rows | None) -> None:
        self.rows, self.queries, self.own = rows, queries, own
        n, count = len(rows), len(queries)
        starts = range(0, count, PROBES_TOGETHER)
        self._parts = [slice(i, min(i + PROBES_TOGETHER, count)) for i in starts]
        self._tops = [
            np.argpartition(exact, n - TOP, axis=1)[:, n - TOP :]
            for exact in (self._scores(rows, queries) if n > 2 * TOP else ())
        ]

    @classmethod
    def of_sample(cls, rows: Floats, seed: int) -> Self:
        """Return probes that are rows of the sample."""
        draw = np.random.default_rng(seed).choice
        own = draw(len(rows), min(PROBES, len(rows)), replace=False)
        return cls(rows, rows[own], own)

    def _scores(self, rows: Floats, queries: Floats) -> Iterator[Floats]:
        """Score all rows against some queries at a time, which bounds memory."""
        for part in self._parts:
            scores: Floats = queries[part] @ rows.T
            if self.own is not None:
                scores[np.arange(len(scores)), self.own[part]] = -np.inf
            yield scores

    def ranks(self, rows: Floats, queries: Floats) -> Ranks:
        """Return where a projection ranks the exact top 10 of each query.

        Parameters
        ----------
        rows : (n, w) float32
            The sample, projected and cut.
        queries : (q, w) float32
            Not read where they are rows of the sample.

        Returns
        -------
        (q, 10) int64
            From 1; equal scores count as before it. (0, 10) for too few rows.
        """
        rows = np.array(rows, np.float32, order="C")
        unit(rows, out=rows)
        if self.own is None:
            queries = unit(np.ascontiguousarray(queries))
        else:
            queries = rows[self.own]
        found = [np.empty((0, TOP), np.int64)]
        for scores, top in zip(self._scores(rows, queries), self._tops, strict=False):
            wanted = np.take_along_axis(scores, top, axis=1)
            found += [
                ranks_of(*pair)[None] for pair in zip(scores, wanted, strict=True)
            ]
        return np.concatenate(found)

    def rows_needed(self, short: Floats, widths: Iterable[int]) -> dict[int, int]:
        """Return, for each width, the rows that hold `TARGET` of the exact top 10.

        Parameters
        ----------
        short : (n, ≥ widths) float32
            The sample, projected. The queries are rows of it.
        widths : iterable of int
        """
        ranks = {width: self.ranks(short[:, :width], short[:0]) for width in widths}
        return {width: rows_needed(found, len(short)) for width, found in ranks.items()}


def ranks_of(scores: Floats, wanted: Floats) -> Ranks:
    """Return how many scores are at least as good as each of those wanted."""
    near = np.sort(scores[scores >= wanted.min()])
    ranks: Ranks = len(near) - np.searchsorted(near, wanted)
    return ranks


def rows_needed(ranks: Ranks, rows: int) -> int:
    """Return the shortlist that holds `TARGET` of ranks; all rows if there are none."""
    if not ranks.size:
        return rows
    return int(np.quantile(ranks, TARGET, method="higher"))
