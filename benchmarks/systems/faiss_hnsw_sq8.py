"""faiss `HNSW16_SQ8,RFlat`: a graph over int8 codes at full width, refined exactly.

The strongest peer that the core install has. Inner product over normalised vectors;
the walk's best 2 k rows are scored again in float32. Used by `benchmarks.run`.
"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from benchmarks.systems import BuildSettings, Run, Search, Work

FACTORY, EF_CONSTRUCTION, K_FACTOR = "HNSW16_SQ8,RFlat", 200, 2


class FaissHnswSq8:
    """The knob is efSearch; `k_factor` 4 found no more than 2 did, 1 found less."""

    key = name = "faiss-hnsw-sq8"
    runs = (Run("rerank", "ef_search", K_FACTOR),)

    def __init__(self) -> None:
        self.params: dict[str, object] = {
            "index": FACTORY,
            "ef_construction": EF_CONSTRUCTION,
            "k_factor": K_FACTOR,
        }
        self._index: faiss.Index | None = None

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Train the codes, link the graph (the same ef_construction as all), save."""
        faiss.omp_set_num_threads(settings.threads)
        metric = faiss.METRIC_INNER_PRODUCT
        index = faiss.index_factory(vectors.shape[1], FACTORY, metric)
        graph = faiss.downcast_index(index.base_index)
        graph.hnsw.efConstruction = EF_CONSTRUCTION
        index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, str(path / "index.faiss"))
        return {}

    def open(self, path: Path, threads: int) -> None:
        """Read graph, codes and vectors into memory."""
        faiss.omp_set_num_threads(threads)
        self._index = faiss.read_index(str(path / "index.faiss"))
        self._index.k_factor = K_FACTOR
        self._graph = faiss.downcast_index(self._index.base_index)

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Set efSearch on the graph."""
        self._graph.hnsw.efSearch = effort
        index = self._index
        return lambda queries: index.search(queries, k)[1]

    def work(self, run: str, k: int, effort: int, queries: np.ndarray) -> Work:
        """Rows that faiss says it scored (1 byte a dim), and the refined ones."""
        stats = faiss.cvar.hnsw_stats
        stats.reset()
        self.prepare(run, k, effort)(queries)
        walked = stats.ndis * self._index.d / len(queries)
        refined = K_FACTOR * k * self._index.d
        return Work((walked + refined) / 1e6, walked + refined * 4)
