"""usearch: HNSW at full width over float32, float16 or int8 vectors.

Inner product over normalised vectors, M 16 and ef_construction 200. usearch keeps no
exact copy: int8, whose own order is too coarse, has a second run whose best rows are
scored again in NumPy. Used by `benchmarks.peers`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from usearch.index import Index

from benchmarks.systems import BuildSettings, Run, Search, Uncounted, grid
from benchmarks.systems.rerank import Reranker, save_vectors

M, EF_CONSTRUCTION = 16, 200
FULL = Run("full", "ef_search")
FACTORS = {f"rerank-{times}": times for times in (2, 4)}
RERANKED = tuple(Run(name, "ef_search", times) for name, times in FACTORS.items())


class Usearch(Uncounted):
    """The knob is expansion_search."""

    def __init__(self, dtype: str, runs: tuple[Run, ...] = (FULL,)) -> None:
        self.key = self.name = f"usearch-{dtype}"
        self.params: dict[str, object] = {
            "dtype": dtype,
            "connectivity": M,
            "expansion_add": EF_CONSTRUCTION,
        }
        self.runs = runs

    def _empty(self, full_dim: int) -> Index:
        return Index(ndim=full_dim, metric="ip", **self.params)

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Link the graph and save it; the vectors too where they are reranked."""
        index = self._empty(vectors.shape[1])
        index.add(np.arange(len(vectors)), vectors, threads=settings.threads)
        index.save(str(path / "index.usearch"))
        if len(self.runs) > 1:
            save_vectors(vectors, path)
        return {}

    def open(self, path: Path, threads: int) -> None:
        """Read the index into memory."""
        self._index = Index.restore(str(path / "index.usearch"))
        self._threads = threads
        self._rerank = Reranker(path, threads) if len(self.runs) > 1 else None

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Set the expansion; a batch gets usearch's own threads."""
        index, threads, rerank = self._index, self._threads, self._rerank
        index.expansion_search = effort

        def walk(queries: np.ndarray, count: int) -> np.ndarray:
            keys = index.search(queries, count, threads=threads).keys
            return np.atleast_2d(keys).astype(np.int64)

        if run == "full":
            return lambda queries: walk(queries, k)
        count = k * FACTORS[run]
        return lambda queries: rerank.best(queries, walk(queries, count), k)


def in_float32() -> Usearch:
    """Keep vectors as they are."""
    return Usearch("f32")


def in_float16() -> Usearch:
    """Keep half the bytes: hardly another order."""
    return Usearch("f16")


def in_int8() -> Usearch:
    """Keep a quarter of the bytes; search alone and with a rerank."""
    return Usearch("i8", grid("rerank-2", (FULL, *RERANKED)))
