"""The two-stage recipe of today: HNSW over a prefix, its shortlist scored in NumPy.

What users of pgvector, Supabase or Milvus write by hand for Matryoshka embeddings: a
graph over an eighth of the dims (one of those that the model was trained at),
renormalised, then the full vectors. Used by `benchmarks.peers`.
"""

from __future__ import annotations

import json
from pathlib import Path

import hnswlib
import numpy as np

from benchmarks.systems import BuildSettings, Run, Search, Uncounted, grid
from benchmarks.systems.rerank import Reranker, save_vectors
from benchmarks.truth import normalise

M, EF_CONSTRUCTION = 16, 200
SHARE, LEAST_DIM = 1 / 8, 64
WIDER = {"rerank": 1, "rerank-ef2": 2}


class TwoStage(Uncounted):
    """The knob is the shortlist; a run walks with ef equal to it, or twice it."""

    key = name = "two-stage"
    runs = grid("rerank", (Run(run, "shortlist") for run in WIDER))

    def __init__(self) -> None:
        self.params: dict[str, object] = {"M": M, "ef_construction": EF_CONSTRUCTION}

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Link the graph over the prefix; keep it beside the vectors."""
        dim = prefix_dim(settings.dims, vectors.shape[1])
        index = hnswlib.Index("ip", dim)
        index.init_index(
            len(vectors),
            M=M,
            ef_construction=EF_CONSTRUCTION,
            random_seed=settings.seed,
        )
        index.add_items(normalise(vectors[:, :dim]), num_threads=settings.threads)
        index.save_index(str(path / "index.hnsw"))
        save_vectors(vectors, path)
        (path / "shape.json").write_text(json.dumps({"dim": dim}))
        return {"prefix_dim": dim}

    def open(self, path: Path, threads: int) -> None:
        """Read the graph into memory and map the vectors."""
        self._dim = json.loads((path / "shape.json").read_text())["dim"]
        self._index = hnswlib.Index("ip", self._dim)
        self._index.load_index(str(path / "index.hnsw"))
        self._rerank, self._threads = Reranker(path, threads), threads

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Set ef on the graph; a query pays for the cut of its own prefix."""
        index, dim, rerank = self._index, self._dim, self._rerank
        shortlist = min(max(effort, k), index.element_count)
        index.set_ef(shortlist * WIDER[run])

        def search(queries: np.ndarray) -> np.ndarray:
            short = normalise(queries[:, :dim])
            rows = index.knn_query(short, shortlist, num_threads=self._threads)[0]
            return rerank.best(queries, rows.astype(np.int64), k)

        return search


def prefix_dim(dims: tuple[int, ...], full_dim: int) -> int:
    """Return the nested dim that is nearest to an eighth of the width, from 64 on."""
    wanted = max(LEAST_DIM, full_dim * SHARE)
    return min((*dims, full_dim), key=lambda dim: abs(dim - wanted))
