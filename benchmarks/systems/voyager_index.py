"""Voyager: Spotify's HNSW, over float32 or 8-bit floats (E4M3), at full width.

Inner product over normalised vectors, M 16 and ef_construction 200. E4M3 keeps three
bits of a number's fraction, so its best rows are scored again in NumPy, too. Used by
`benchmarks.peers`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from voyager import Index, Space, StorageDataType

from benchmarks.systems import BuildSettings, Run, Search, Uncounted, grid
from benchmarks.systems.rerank import Reranker, save_vectors

M, EF_CONSTRUCTION = 16, 200
FULL = Run("full", "ef_search")
FACTORS = {f"rerank-{times}": times for times in (2, 4)}
RERANKED = tuple(Run(name, "ef_search", times) for name, times in FACTORS.items())
STORED = {"Float32": StorageDataType.Float32, "E4M3": StorageDataType.E4M3}


class Voyager(Uncounted):
    """The knob is query_ef."""

    def __init__(self, stored: str, runs: tuple[Run, ...] = (FULL,)) -> None:
        self.key = self.name = {"Float32": "voyager-f32", "E4M3": "voyager-e4m3"}[
            stored
        ]
        self.params: dict[str, object] = {
            "storage": stored,
            "M": M,
            "ef_construction": EF_CONSTRUCTION,
        }
        self.runs = runs

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Link the graph and save it; the vectors too where they are reranked."""
        index = Index(
            Space.InnerProduct,
            vectors.shape[1],
            M=M,
            ef_construction=EF_CONSTRUCTION,
            random_seed=settings.seed + 1,
            max_elements=len(vectors),
            storage_data_type=STORED[str(self.params["storage"])],
        )
        index.add_items(vectors, num_threads=settings.threads)
        index.save(str(path / "index.voy"))
        if len(self.runs) > 1:
            save_vectors(vectors, path)
        return {}

    def open(self, path: Path, threads: int) -> None:
        """Read the index into memory."""
        self._index, self._threads = Index.load(str(path / "index.voy")), threads
        self._rerank = Reranker(path, threads) if len(self.runs) > 1 else None

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Bind query_ef; a batch gets Voyager's own threads."""
        index, threads, rerank = self._index, self._threads, self._rerank

        def walk(queries: np.ndarray, count: int) -> np.ndarray:
            return index.query(queries, count, threads, max(effort, count))[0]

        if run == "full":
            return lambda queries: walk(queries, k)
        count = k * FACTORS[run]
        return lambda queries: rerank.best(
            queries, walk(queries, count).astype(np.int64), k
        )


def in_float32() -> Voyager:
    """Keep vectors as they are."""
    return Voyager("Float32")


def in_e4m3() -> Voyager:
    """Keep a quarter of the bytes; search alone and with a rerank."""
    return Voyager("E4M3", grid("rerank-2", (FULL, *RERANKED)))
