"""Exact scores of a shortlist in NumPy, as a user writes it by hand.

For peers without a rerank of their own. The vectors stay a mapped file; a few queries
at a time are gathered and scored by BLAS, on as many threads as the search has.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

FILE = "vectors.npy"
BLOCK_BYTES = 4 << 20  # gathered rows that still fit in the cache


def save_vectors(vectors: np.ndarray, path: Path) -> None:
    """Keep the vectors beside the index."""
    np.save(path / FILE, vectors)


class Reranker:
    """Scores rows of the saved vectors of `path`, with `threads` threads."""

    def __init__(self, path: Path, threads: int) -> None:
        self._vectors = np.load(path / FILE, mmap_mode="r")
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def best(self, queries: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
        """Return the `k` best of rows (q, c) by their exact scores, (q, k)."""
        row_bytes = rows.shape[1] * self._vectors.shape[1] * 4
        step = max(1, BLOCK_BYTES // row_bytes)
        parts = [slice(at, at + step) for at in range(0, len(queries), step)]

        def block(part: slice) -> np.ndarray:
            return self._block(queries[part], rows[part], k)

        if self._pool is None or len(parts) == 1:
            return np.concatenate([block(part) for part in parts])
        return np.concatenate(list(self._pool.map(block, parts)))

    def _block(self, queries: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
        scores = np.matmul(self._vectors[rows], queries[:, :, None])[:, :, 0]
        if k < rows.shape[1]:
            kept = np.argpartition(scores, -k, axis=1)[:, -k:]
            rows = np.take_along_axis(rows, kept, axis=1)
            scores = np.take_along_axis(scores, kept, axis=1)
        return np.take_along_axis(rows, np.argsort(-scores, axis=1), axis=1)
