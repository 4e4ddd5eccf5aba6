"""The best recipe that an expert puts together by hand, all of it inside faiss.

Uncentred principal axes (inner products are kept), the projection renormalised, HNSW
over its int8 codes, the best rows scored again by the vectors. How many axes is decided
on corpus rows: the queries are not looked at. Used by `benchmarks.peers`.
"""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.systems import BuildSettings, Run, grid
from benchmarks.systems.faiss_common import FaissIndex, refined
from benchmarks.truth import normalise

M, EF_CONSTRUCTION = 16, 200
DIMS = (64, 96, 128, 192, 256)
SAMPLE_ROWS, PROBES, NEIGHBOURS = 20_000, 200, 10
SHORT, ENOUGH = 40, 0.99
"""Axes are enough when their best 40 rows hold 99 % of the ten exact neighbours."""
REFINED_ROWS = (12, 16, 20, 30, 40, 60, 80, 120, 160, 240)


class Diy(FaissIndex):
    """The knob is efSearch, a run for each number of rows that are refined."""

    key = name = "diy"

    def __init__(self) -> None:
        super().__init__(
            index=f"axes,L2norm,HNSW{M}_SQ8,RFlat", ef_construction=EF_CONSTRUCTION
        )
        self.runs = grid(
            "rows-40",
            (Run(f"rows-{n}", "ef_search", n / NEIGHBOURS) for n in REFINED_ROWS),
        )

    def empty(self, vectors: np.ndarray, settings: BuildSettings) -> faiss.Index:
        """Find the axes and chain: project, renormalise, walk codes, refine."""
        full_dim = vectors.shape[1]
        axes = principal_axes(sample(vectors, SAMPLE_ROWS, settings.seed))
        dim = self._dim = enough_axes(vectors, axes, settings.seed)
        graph = faiss.IndexHNSWSQ(
            dim, faiss.ScalarQuantizer.QT_8bit, M, faiss.METRIC_INNER_PRODUCT
        )
        graph.hnsw.efConstruction = EF_CONSTRUCTION
        project = faiss.LinearTransform(full_dim, dim, False)
        faiss.copy_array_to_vector(axes[:dim].ravel(), project.A)
        project.is_trained = True
        chain = faiss.IndexPreTransform(graph)
        chain.prepend_transform(faiss.NormalizationTransform(dim, 2.0))
        chain.prepend_transform(project)
        return refined(chain, full_dim)

    def chosen(self, index: faiss.Index) -> dict[str, object]:
        """Say how many axes were enough."""
        return {"axes": self._dim}

    def set_effort(self, run: str, k: int, effort: int) -> None:
        """Set efSearch on the graph, and how many rows are refined."""
        chain = faiss.downcast_index(self._index.base_index)
        faiss.downcast_index(chain.index).hnsw.efSearch = effort
        self._index.k_factor = int(run.removeprefix("rows-")) / k


def sample(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return `count` rows, or all."""
    if count >= len(vectors):
        return vectors
    rng = np.random.default_rng(seed)
    return vectors[np.sort(rng.choice(len(vectors), count, replace=False))]


def principal_axes(rows: np.ndarray) -> np.ndarray:
    """Return the axes (d, d) of uncentred rows, heaviest first."""
    second_moment = (rows.T @ rows).astype(np.float64) / len(rows)
    return np.ascontiguousarray(np.linalg.eigh(second_moment)[1].T[::-1], np.float32)


def enough_axes(vectors: np.ndarray, axes: np.ndarray, seed: int) -> int:
    """Return the fewest `DIMS` whose short list holds the neighbours of held-out rows.

    Corpus rows stand for queries; the short list is exact, over a sample of the rest.
    """
    drawn = sample(vectors, SAMPLE_ROWS, seed + 1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(drawn))
    probes, rows = drawn[order[:PROBES]], drawn[order[PROBES:]]
    exact = _best(probes @ rows.T, NEIGHBOURS)
    widths = [dim for dim in DIMS if dim < axes.shape[1]] or [axes.shape[1]]
    for dim in widths:
        short = normalise(probes @ axes[:dim].T) @ normalise(rows @ axes[:dim].T).T
        found = (exact[:, :, None] == _best(short, SHORT)[:, None, :]).any(axis=2)
        if found.mean() >= ENOUGH:
            return dim
    return widths[-1]


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    count = min(count, scores.shape[1])
    return np.argpartition(-scores, count - 1, axis=1)[:, :count]
