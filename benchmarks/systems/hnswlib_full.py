"""hnswlib at full width: the graph library that most people use.

Inner product over normalised float32 vectors. hnswlib has no wheels: where it is not
installed, the report says so in one line. Used by `benchmarks.run`.
"""

from __future__ import annotations

import json
from pathlib import Path

import hnswlib
import numpy as np

from benchmarks.systems import BuildSettings, Run, Search, Work

M, EF_CONSTRUCTION = 16, 200


class HnswlibFull:
    """The knob is ef, which hnswlib keeps in the index (never below k)."""

    key = name = "hnswlib"
    runs = (Run("full", "ef_search"),)

    def __init__(self) -> None:
        self.params: dict[str, object] = {"M": M, "ef_construction": EF_CONSTRUCTION}
        self._index: hnswlib.Index | None = None

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Link the graph over all dims and save it with its vectors."""
        n_rows, full_dim = vectors.shape
        index = hnswlib.Index("ip", full_dim)
        index.init_index(
            n_rows, M=M, ef_construction=EF_CONSTRUCTION, random_seed=settings.seed
        )
        index.add_items(vectors, num_threads=settings.threads)
        index.save_index(str(path / "index.hnsw"))
        (path / "shape.json").write_text(json.dumps({"full_dim": full_dim}))
        return {}

    def open(self, path: Path, threads: int) -> None:
        """Read graph and vectors into memory; the file does not know its width."""
        full_dim = json.loads((path / "shape.json").read_text())["full_dim"]
        self._index = hnswlib.Index("ip", full_dim)
        self._index.load_index(str(path / "index.hnsw"))
        self._threads = threads

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Set ef on the index."""
        index, threads = self._index, self._threads
        index.set_ef(max(effort, k))
        return lambda queries: index.knn_query(queries, k, num_threads=threads)[0]

    def work(self, run: str, k: int, effort: int, queries: np.ndarray) -> Work:
        """Unknown: hnswlib does not count the rows that it scores."""
        return Work(None, None)
