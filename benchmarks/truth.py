"""The data as every system sees them, and the exact answers that they are judged by.

Normalises corpus and queries once, finds the exact neighbours at every prefix with one
pass of plain NumPy, and scores any returned row again from the vectors, so that no
system is believed. It does not compute metrics (`benchmarks.metrics` does). Called by
`benchmarks.run`.

n = rows, q = queries, c = candidates kept, d = dims.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BLOCK_ROWS = 4096
SPARE = 16  # candidates beyond k: float32 sums may swap neighbours, never 16 of them
SAME_SCORE = 1e-6  # rows this close to the k-th score are as good as the k-th


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Return float32 rows of length 1; a zero row stays zero."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


@dataclass(frozen=True)
class Workload:
    """A data set, with the queries normalised.

    `data` is what `benchmarks.datasets.load` returned; `dims` are the prefixes to be
    reported, full width last; `slug` names the data in the cache.
    """

    data: Any
    queries: np.ndarray
    dims: tuple[int, ...]
    slug: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dims of the corpus."""
        return self.data.corpus.shape

    def rows(self, which: np.ndarray) -> np.ndarray:
        """Normalised rows `which`, read from the corpus."""
        return normalise(self.data.corpus[which])

    def vectors(self) -> np.ndarray:
        """Return the whole corpus, normalised: a new float32 array in memory."""
        out = np.empty(self.shape, dtype=np.float32)
        for start in range(0, len(out), BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, len(out))
            out[start:stop] = normalise(self.data.corpus[start:stop])
        return out


@dataclass(frozen=True)
class Truth:
    """Exact neighbours at each prefix, and the k-th exact score at full width.

    `rows` maps a dim to int64 (q, k), best first; `kth_score` is float64 (q,).
    """

    rows: dict[int, np.ndarray]
    kth_score: np.ndarray

    @property
    def exact(self) -> np.ndarray:
        """The exact neighbours at full width, (q, k)."""
        return self.rows[max(self.rows)]


def make_workload(data: Any, dims: tuple[int, ...] | None) -> Workload:
    """Normalise the queries and name the data by their content.

    Parameters
    ----------
    data : benchmarks.datasets.Dataset
        The loaded set.
    dims : tuple of int or None
        Prefixes to report; those of the set if None. Full width is added.

    Returns
    -------
    Workload
        Ready to be searched.
    """
    n_rows, full_dim = data.corpus.shape
    widths = {dim for dim in dims or data.dims if dim < full_dim} | {full_dim}
    queries = normalise(data.queries)
    digest = hashlib.blake2b(queries.tobytes(), digest_size=4)
    sample = np.linspace(0, n_rows - 1, num=min(n_rows, 64), dtype=np.int64)
    digest.update(np.ascontiguousarray(data.corpus[sample]).tobytes())
    slug = f"{data.name}-{n_rows}x{full_dim}-{digest.hexdigest()}"
    return Workload(data, queries, tuple(sorted(widths)), slug)


def exact_neighbours(
    workload: Workload, k: int, advance: Callable[[int], None] = lambda rows: None
) -> Truth:
    """Find the best `k` rows of each query at every prefix, by scoring every row.

    Parameters
    ----------
    workload : Workload
        Data and dims.
    k : int
        Neighbours a query, at most n.
    advance : callable
        Told the rows done since the last call.

    Returns
    -------
    Truth
        At full width ordered by float64 scores; float32 at shorter prefixes.
    """
    queries, dims = workload.queries, workload.dims
    best = {dim: _Best(len(queries), min(k + SPARE, workload.shape[0])) for dim in dims}
    for start in range(0, workload.shape[0], BLOCK_ROWS):
        block = normalise(workload.data.corpus[start : start + BLOCK_ROWS])
        scores = np.zeros((len(queries), len(block)), dtype=np.float32)
        squares, done = np.zeros(len(block), dtype=np.float32), 0
        for dim in dims:
            new = block[:, done:dim]
            scores += queries[:, done:dim] @ new.T
            squares += np.einsum("nd,nd->n", new, new)
            norms = np.sqrt(squares)
            best[dim].merge(scores / np.where(norms > 0, norms, 1), start)
            done = dim
        advance(len(block))
    rows = {dim: found.rows[:, :k] for dim, found in best.items()}
    rows[dims[-1]], kth_score = _in_float64(workload, best[dims[-1]].rows, k)
    return Truth(rows, kth_score)


class _Best:
    """The best `keep` rows of each query so far, best first."""

    def __init__(self, n_queries: int, keep: int) -> None:
        self.rows = np.empty((n_queries, 0), dtype=np.int64)
        self.scores = np.empty((n_queries, 0), dtype=np.float32)
        self.keep = keep

    def merge(self, scores: np.ndarray, start: int) -> None:
        """Add the scores (q, b) of the rows from `start`."""
        width = min(self.keep, scores.shape[1])
        at = np.argpartition(scores, scores.shape[1] - width, axis=1)[:, -width:]
        new_scores = np.take_along_axis(scores, at, axis=1)
        scores = np.concatenate([self.scores, new_scores], axis=1)
        rows = np.concatenate([self.rows, at + start], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.keep]
        self.scores = np.take_along_axis(scores, order, axis=1)
        self.rows = np.take_along_axis(rows, order, axis=1)


def _in_float64(
    workload: Workload, rows: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Order candidates (q, c) by float64 scores; the best k, and the k-th score."""
    scores = pair_scores(workload, np.arange(len(rows)).repeat(rows.shape[1]), rows)
    scores = scores.reshape(rows.shape)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(scores, order, axis=1)
    return np.take_along_axis(rows, order, axis=1), kept[:, -1]


def pair_scores(
    workload: Workload, query_at: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Score pairs of a query and a row at full width, in float64, from the vectors."""
    rows, scores = rows.ravel(), np.empty(rows.size)
    for start in range(0, len(rows), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        x = workload.rows(rows[part]).astype(np.float64)
        scores[part] = np.einsum("pd,pd->p", workload.queries[query_at[part]], x)
    return scores


def load_or_find(
    workload: Workload, k: int, cache: Path, advance: Callable[[int], None]
) -> Truth:
    """Return `exact_neighbours`, kept in `cache` from one run to the next."""
    dims = "-".join(map(str, workload.dims))
    path = cache / workload.slug / f"exact-k{k}-dims{dims}.npz"
    if path.exists():
        with np.load(path) as kept:
            rows = {dim: kept[str(dim)] for dim in workload.dims}
            return Truth(rows, kept["kth_score"])
    truth = exact_neighbours(workload, k, advance)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {str(dim): rows for dim, rows in truth.rows.items()}
    np.savez(path, kth_score=truth.kth_score, **arrays)
    return truth
