"""What the prefixes of a sample are worth: ranks, recall, energy, contrast, order.

Arrays and numbers only: reads nothing, decides nothing (`diagnose.py`). Cosine
throughout: rows and queries come with unit norm.

n = rows of the sample, q = queries, d = dims, w = width of a prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from funnel.kernels.types import Floats, Rows
from funnel.projection import PROBES, PROBES_TOGETHER, TARGET, TOP, principal_axes
from funnel.vectors import unit

SHORTLISTS = (10, 20, 50, 100, 200, 500, 1000)
COPY = 1e-6  # a cosine so close to 1 is a copy's: float32 cannot tell
ORDER_ROWS = 4_096  # enough to tell an order from chance
ORDER_DRAWS = 16
LEAST_SPREAD = 0.005  # of recall: 256 queries measure no finer

Ranks = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Figures:
    """What the prefixes of one space are worth.

    Parameters
    ----------
    space : {"prefix", "pca"}
        Dims of the embedding itself, or of its principal axes.
    dims : tuple of int
        The widths that were measured.
    energy : tuple of float
        For each width, the mean share of a row's squared norm that it holds.
    recall : tuple of tuple of float
        For each width, knn_recall@10 in its best 10, 20, … 1,000 rows (`SHORTLISTS`).
    needed : tuple of int
        For each width, the rows of a shortlist that hold 99 % of the exact top 10.
    """

    space: str
    dims: tuple[int, ...]
    energy: tuple[float, ...]
    recall: tuple[tuple[float, ...], ...]
    needed: tuple[int, ...]

    def rows_needed(self) -> dict[int, int]:
        """Return `needed` by width."""
        return dict(zip(self.dims, self.needed, strict=True))


@dataclass(frozen=True)
class Order:
    """Whether the first dims hold more than any others: what Matryoshka means.

    Parameters
    ----------
    gain : float
        knn_recall@10 of the own prefixes less that of as many random dims, mean of
        widths up to a quarter of all.
    spread : float
        Standard deviation of the random ones' recall from draw to draw.
    """

    gain: float
    spread: float

    @property
    def deviations(self) -> float:
        """Return the gain in standard deviations of chance."""
        return self.gain / max(self.spread, LEAST_SPREAD)


class Judge:
    """Queries and their exact neighbours among the rows, to judge prefixes by.

    The same rows in the same order, and the same sums, as `projection.Probes` has: a
    diagnosis and a build on equal samples agree to the last row.

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
    def of_sample(cls, rows: Floats, seed: int) -> Judge:
        """Return a judge whose queries are rows of the sample."""
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

        Returns
        -------
        (q, 10) int64
            From 1; equal scores count as before it. (0, 10) for too few rows.
        """
        rows = unit(np.ascontiguousarray(rows))
        queries = unit(np.ascontiguousarray(queries))
        if self.own is not None:
            queries = rows[self.own]
        found = [np.empty((0, TOP), np.int64)]
        for scores, top in zip(self._scores(rows, queries), self._tops, strict=False):
            wanted = np.take_along_axis(scores, top, axis=1)
            columns = [(scores >= wanted[:, [i]]).sum(axis=1) for i in range(TOP)]
            found.append(np.stack(columns, axis=1))
        return np.concatenate(found)

    def figures(
        self, space: str, rows: Floats, queries: Floats, dims: Sequence[int]
    ) -> Figures:
        """Return what prefixes of a projection are worth.

        Parameters
        ----------
        space : {"prefix", "pca"}
        rows : (n, ≥ dims) float32
            The sample, projected: not renormalised, so that its energy shows.
        queries : (q, ≥ dims) float32
        dims : sequence of int
        """
        energy, recall, needed = energies(rows, dims), [], []
        for width in dims:
            ranks = self.ranks(rows[:, :width], queries[:, :width])
            recall.append(tuple(recall_within(ranks, m) for m in SHORTLISTS))
            needed.append(rows_needed(ranks, len(rows)))
        return Figures(space, tuple(dims), energy, tuple(recall), tuple(needed))

    def contrast(self) -> float | None:
        """Return the relative contrast: mean distance over nearest distance.

        ``mean_q,x |q − x| / mean_q min_x |q − x|`` over rows that are not copies of the
        query; near 1, all rows are about equally far, and no index can help. None where
        there are only copies.

        References
        ----------
        Beyer et al. 1999, *When is "nearest neighbor" meaningful?*, section 3; He,
        Kumar and Chang 2012, *On the difficulty of nearest neighbor search*,
        arXiv:1206.6411, section 2, equation 2.
        """
        total, count, nearest = 0.0, 0, [np.empty(0)]
        for scores in self._scores(self.rows, self.queries):
            other = np.isfinite(scores) & (scores < 1 - COPY)
            far = np.sqrt(2 - 2 * scores, where=other, out=np.full_like(scores, np.inf))
            total, count = total + far[other].sum(dtype=float), count + other.sum()
            near = far.min(axis=1)
            nearest.append(near[np.isfinite(near)])
        least = np.concatenate(nearest)
        return float(total / count / least.mean()) if len(least) else None


def energies(rows: Floats, dims: Sequence[int]) -> tuple[float, ...]:
    """Return the mean share of squared norm that each prefix of (n, d) rows holds."""
    if not len(rows):
        return (0.0,) * len(dims)
    held = np.square(rows, dtype=np.float64).mean(axis=0).cumsum()
    return tuple(float(held[width - 1]) for width in dims)


def recall_within(ranks: Ranks, shortlist: int) -> float:
    """Return the share of ranks that a shortlist holds; 0 where there are none."""
    return float((ranks <= shortlist).mean()) if ranks.size else 0.0


def rows_needed(ranks: Ranks, rows: int) -> int:
    """Return the shortlist that holds 99 % of the ranks; all rows if there are none."""
    if not ranks.size:
        return rows
    return int(np.quantile(ranks, TARGET, method="higher"))


def order_of(rows: Floats, seed: int) -> Order:
    """Tell the order of the own dims from a random one.

    A permutation test: if the first dims were worth no more than others, own prefixes
    would recall as much as prefixes of shuffled dims do, give or take their spread.

    Parameters
    ----------
    rows : (n, d) float32, unit norm
        Distinct: copies of the query would hide its neighbours.
    seed : int
    """
    full_dim, rng = rows.shape[1], np.random.default_rng(seed)
    doubled = (16 << i for i in range(24))
    widths = [w for w in doubled if 4 * w <= full_dim] or [max(1, full_dim // 4)]
    judge = Judge.of_sample(rows, seed)

    def recall(dims: Rows) -> float:
        shares = []
        for width in widths:
            short = rows[:, dims[:width]]
            shares.append(recall_within(judge.ranks(short, short[:0]), TOP))
        return float(np.mean(shares))

    chance = [recall(rng.permutation(full_dim)) for _ in range(ORDER_DRAWS)]
    gain = recall(np.arange(full_dim)) - float(np.mean(chance))
    return Order(gain, float(np.std(chance, ddof=1)))


def structure_of(rows: Floats, seed: int) -> float:
    """Return how uneven energy is over directions, from 0 (isotropic) to 1.

    The energy that the principal axes of one half of the rows hold in the other half,
    above what as many random directions would: axes fitted on noise hold none.

    Parameters
    ----------
    rows : (n, d) float32, unit norm
    seed : int
    """
    n, full_dim = rows.shape
    width = min(64, full_dim // 4)
    if width == 0 or n < 2:
        return 0.0
    drawn = np.random.default_rng(seed).permutation(n)
    axes = principal_axes(rows[drawn[: n // 2]], width)
    held = energies(rows[drawn[n // 2 :]] @ axes.T, [width])[0]
    share = width / full_dim
    return float(max(0.0, (held - share) / (1 - share)))
