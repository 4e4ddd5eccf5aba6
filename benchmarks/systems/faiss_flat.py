"""faiss `IndexFlatIP`: the exact scan that every other system is measured against.

Inner product over normalised vectors, float32, full width. Used by `benchmarks.run`.
"""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.systems import BuildSettings, Run, Work
from benchmarks.systems.faiss_common import FaissIndex


class FaissFlat(FaissIndex):
    """One matrix in memory; a batch is one matrix product (BLAS)."""

    key = name = "faiss-flat"
    runs = (Run("exact"),)

    def __init__(self) -> None:
        super().__init__(index="IndexFlatIP")

    def empty(self, vectors: np.ndarray, settings: BuildSettings) -> faiss.Index:
        """Return an empty matrix."""
        return faiss.IndexFlatIP(vectors.shape[1])

    def work(self, run: str, k: int, effort: int, queries: np.ndarray) -> Work:
        """Every dim of every row."""
        dims_read = self._index.ntotal * self._index.d
        return Work(dims_read / 1e6, dims_read * 4)
