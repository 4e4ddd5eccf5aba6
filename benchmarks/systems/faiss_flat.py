"""faiss `IndexFlatIP`: the exact scan that every other system is measured against.

Inner product over normalised vectors, float32, full width. Used by `benchmarks.run`.
"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from benchmarks.systems import BuildSettings, Run, Search, Work


class FaissFlat:
    """One matrix in memory; a batch is one matrix product (BLAS)."""

    key = name = "faiss-flat"
    runs = (Run("exact"),)

    def __init__(self) -> None:
        self.params: dict[str, object] = {"index": "IndexFlatIP"}
        self._index: faiss.Index | None = None

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Copy the rows into an index and save it."""
        faiss.omp_set_num_threads(settings.threads)
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        faiss.write_index(index, str(path / "index.faiss"))
        return {}

    def open(self, path: Path, threads: int) -> None:
        """Read the index into memory."""
        faiss.omp_set_num_threads(threads)
        self._index = faiss.read_index(str(path / "index.faiss"))

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Return the scan; there is no effort to set."""
        index = self._index
        return lambda queries: index.search(queries, k)[1]

    def work(self, run: str, k: int, effort: int, queries: np.ndarray) -> Work:
        """Every dim of every row."""
        dims_read = self._index.ntotal * self._index.d
        return Work(dims_read / 1e6, dims_read * 4)
