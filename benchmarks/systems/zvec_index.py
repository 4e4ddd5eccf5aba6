"""zvec: Alibaba's embedded store; HNSW over float32, int8 codes or RaBitQ codes.

Inner product over normalised vectors, M 16 and ef_construction 200 (its own defaults,
50 and 500, build several times as long). Codes are refined by the vectors, as its
documents say. It has no batches: queries are called one by one, by as many Python
threads as the search has, on its fast path that returns numbers of rows. Used by
`benchmarks.peers`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import zvec

from benchmarks.systems import BuildSettings, Run, Search, Uncounted, grid

M, EF_CONSTRUCTION = 16, 200
INSERTED_ROWS = 500
FIELD = "embedding"
FACTORS = {f"refine-{times}": times for times in (2, 4, 8)}
REFINED = grid(
    "refine-2", (Run(name, "ef_search", times) for name, times in FACTORS.items())
)


class Zvec(Uncounted):
    """The knob is ef; over codes a run for each factor of the refinement."""

    def __init__(self, codes: str = "") -> None:
        self.key = self.name = f"zvec-{codes}" if codes else "zvec"
        self._codes = codes
        self.params: dict[str, object] = {
            "codes": codes or None,
            "M": M,
            "ef_construction": EF_CONSTRUCTION,
        }
        self.runs = REFINED if codes else (Run("full", "ef_search"),)

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Insert all rows, then have the graph built."""
        _start(1, settings.threads)
        schema = zvec.VectorSchema(
            FIELD, zvec.DataType.VECTOR_FP32, vectors.shape[1], self._index_param()
        )
        saved = str(path / "collection")
        made = zvec.CollectionSchema(name="peer", vectors=schema)
        collection = zvec.create_and_open(path=saved, schema=made)
        for start in range(0, len(vectors), INSERTED_ROWS):
            rows = vectors[start : start + INSERTED_ROWS]
            collection.insert(
                [
                    zvec.Doc(id=str(start + at), vectors={FIELD: row})
                    for at, row in enumerate(rows)
                ]
            )
        collection.optimize(zvec.OptimizeOption(concurrency=settings.threads))
        collection.flush()
        collection.close()
        return {}

    def _index_param(self) -> object:
        given = {"metric_type": zvec.MetricType.IP, "m": M}
        given["ef_construction"] = EF_CONSTRUCTION
        if self._codes == "rabitq":
            return zvec.HnswRabitqIndexParam(**given)
        if self._codes == "int8":
            given["quantize_type"] = zvec.QuantizeType.INT8
        return zvec.HnswIndexParam(**given)

    def open(self, path: Path, threads: int) -> None:
        """Map the collection, and find the row of each internal number."""
        _start(threads, threads)
        option = zvec.CollectionOption(read_only=True, enable_mmap=True)
        self._collection = zvec.open(str(path / "collection"), option)
        count = self._collection.stats.doc_count
        keys = self._collection.resolve_internal_ids(np.arange(count))
        self._rows = np.array([-1 if key is None else int(key) for key in keys])
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._threads = threads

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Make the query's parameters."""
        kind = (
            zvec.HnswRabitqQueryParam
            if self._codes == "rabitq"
            else zvec.HnswQueryParam
        )
        param = kind(ef=effort)
        if run in FACTORS:
            scale = float(FACTORS[run])
            param = kind(ef=effort, is_using_refiner=True, scale_factor=scale)
        collection, rows, pool = self._collection, self._rows, self._pool

        def one_by_one(queries: np.ndarray) -> np.ndarray:
            return np.stack(
                [
                    collection.query_internal_ids(
                        zvec.Query(FIELD, vector=query, param=param), topk=k
                    )
                    for query in queries
                ]
            )

        def search(queries: np.ndarray) -> np.ndarray:
            if pool is None or len(queries) == 1:
                return rows[one_by_one(queries)]
            parts = np.array_split(queries, min(self._threads, len(queries)))
            return rows[np.concatenate(list(pool.map(one_by_one, parts)))]

        return search


def _start(query_threads: int, build_threads: int) -> None:
    """Set zvec's threads; it can be told once a process."""
    with suppress(RuntimeError):
        zvec.init(
            log_level=zvec.LogLevel.ERROR,
            query_threads=query_threads,
            optimize_threads=build_threads,
        )


def in_float32() -> Zvec:
    """Walk the vectors."""
    return Zvec()


def in_int8() -> Zvec:
    """Walk int8 codes."""
    return Zvec("int8")


def in_rabitq() -> Zvec:
    """Walk RaBitQ codes of seven bits, its default."""
    return Zvec("rabitq")
