"""What the prefixes of a sample are worth: ranks, recall, energy, contrast, order.

Arrays and numbers only: reads nothing, decides nothing (`diagnose.py`). Cosine
throughout: rows and queries come with unit norm.

n = rows of the sample, q = queries, d = dims, w = width of a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from funnel.kernels.types import Floats, Rows
from funnel.probes import TOP, Probes, Ranks, rows_needed
from funnel.projection import principal_axes

SHORTLISTS = (10, 20, 50, 100, 200, 500, 1000)
COPY = 1e-6  # a cosine so close to 1 is a copy's: float32 cannot tell
ORDER_ROWS = 4_096  # enough to tell an order from chance
ORDER_DRAWS = 16
LEAST_SPREAD = 0.005  # of recall: 256 queries measure no finer


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


class Judge(Probes):
    """Judges prefixes by queries and their exact neighbours among the rows."""

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
