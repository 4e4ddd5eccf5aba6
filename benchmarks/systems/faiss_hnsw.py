"""faiss's HNSW over float32, int8 codes, RaBitQ codes and Panorama's levels.

M 16 and ef_construction 200 for all, as for every other HNSW here. Vectors are
normalised, so that the kinds which only know L2 (RaBitQ, Panorama) rank as inner
product does. Used by `benchmarks.run` and `benchmarks.peers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import faiss
import numpy as np

from benchmarks.systems import BuildSettings, Run, Work, grid
from benchmarks.systems.faiss_common import FaissIndex

M, EF_CONSTRUCTION = 16, 200


class _Hnsw(FaissIndex):
    """A graph made by faiss's factory; the knob is efSearch.

    `FACTORY` is faiss's name of the index, `METRIC` what it links by; `FACTORS` the
    times k rows that each run scores again by the vectors, none for an index that
    holds them.
    """

    FACTORY: str
    METRIC = faiss.METRIC_INNER_PRODUCT
    FACTORS: ClassVar[Mapping[str, float]] = {}

    def __init__(self, **params: object) -> None:
        given = {"index": self.FACTORY, "ef_construction": EF_CONSTRUCTION}
        super().__init__(**given, **params)

    def empty(self, vectors: np.ndarray, settings: BuildSettings) -> faiss.Index:
        """Return what the factory makes, with our ef_construction."""
        index = faiss.index_factory(vectors.shape[1], self.FACTORY, self.METRIC)
        self._graph_of(index).hnsw.efConstruction = EF_CONSTRUCTION
        return index

    def _graph_of(self, index: faiss.Index) -> faiss.IndexHNSW:
        base = index.base_index if self.FACTORS else index
        return faiss.downcast_index(base)

    def set_effort(self, run: str, k: int, effort: int) -> None:
        """Set efSearch on the graph, and how many rows are refined."""
        self._graph_of(self._index).hnsw.efSearch = effort
        if self.FACTORS:
            self._index.k_factor = self.FACTORS[run]


def _refining(factors: Mapping[str, float]) -> tuple[Run, ...]:
    """Return a run a factor; the plain command takes the first."""
    runs = (Run(run, "ef_search", times) for run, times in factors.items())
    return grid(next(iter(factors)), runs)


class FaissHnsw(_Hnsw):
    """`IndexHNSWFlat`: graph and float32 vectors at full width."""

    key = name = "faiss-hnsw"
    FACTORY = f"HNSW{M},Flat"
    runs = (Run("full", "ef_search"),)


class FaissHnswSq8(_Hnsw):
    """`HNSW16_SQ8,RFlat`: int8 codes at full width, the best rows refined exactly.

    The strongest peer that the core install has. A factor of 4 found no more than 2
    did, 1 found less.
    """

    key = name = "faiss-hnsw-sq8"
    FACTORY = f"HNSW{M}_SQ8,RFlat"
    FACTORS: ClassVar = {"rerank": 2, "rerank-1": 1, "rerank-1.5": 1.5, "rerank-3": 3}
    runs = _refining(FACTORS)

    def __init__(self) -> None:
        super().__init__(k_factor=2)

    def work(self, run: str, k: int, effort: int, queries: np.ndarray) -> Work:
        """Rows that faiss says it scored (1 byte a dim), and the refined ones."""
        stats = faiss.cvar.hnsw_stats
        stats.reset()
        self.prepare(run, k, effort)(queries)
        walked = stats.ndis * self._index.d / len(queries)
        refined = self.FACTORS[run] * k * self._index.d
        return Work((walked + refined) / 1e6, walked + refined * 4)


class FaissHnswRabitq(_Hnsw):
    """`HNSW16_RaBitQ,RFlat`: one bit a dim, many more rows refined exactly.

    Two bits a dim cost a quarter more time for the same recall, a random rotation
    before the codes found nothing more (on 3,000 × 512).
    """

    key = name = "faiss-hnsw-rabitq"
    FACTORY, METRIC = f"HNSW{M}_RaBitQ,RFlat", faiss.METRIC_L2
    FACTORS: ClassVar = {f"rerank-{times}": times for times in (2, 4, 8, 16)}
    runs = _refining(FACTORS)


class FaissHnswPanorama(_Hnsw):
    """`IndexHNSWFlatPanorama`: sums of a few dims rule rows out before all are read.

    Eight levels, as in faiss's own examples. The embedding's own dims in their own
    order, which for Matryoshka vectors is the order of weight: a rotation to principal
    axes would cost a query full_dim² multiplications, as much as scoring as many rows.
    """

    key = name = "faiss-hnsw-panorama"
    FACTORY, METRIC = f"HNSW{M}_FlatPanorama8", faiss.METRIC_L2
    runs = (Run("full", "ef_search"),)
