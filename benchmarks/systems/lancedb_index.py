"""LanceDB: a table on disk with IVF_HNSW_SQ or IVF_PQ, its best rows refined.

Dot product over normalised vectors. HNSW_SQ has its own defaults (m 20, ef_construction
300) and one partition, as its documents say up to a million rows; IVF_PQ √n partitions
and eight dims a sub-vector. A user gets a table back; the row numbers are read from
its Arrow column. Used by `benchmarks.peers`.
"""

from __future__ import annotations

import math
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa

from benchmarks.systems import BuildSettings, Run, Search, Uncounted, grid

TABLE, BATCH_ROWS = "peer", 8192
FACTORS = {f"refine-{times}": times for times in (1, 2, 4, 8, 16, 32)}
NPROBES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
DIMS_A_SUB_VECTOR = 8


class LanceDb(Uncounted):
    """The knob is ef, or nprobes, a run for each refine factor."""

    def __init__(self, kind: str) -> None:
        self.key = self.name = "lancedb-" + kind.lower().replace("_", "-")
        self.params: dict[str, object] = {"index": kind}
        self._graph = kind == "IVF_HNSW_SQ"
        runs = (
            Run(run, "ef_search", least=times)
            if self._graph
            else Run(run, "nprobes", sweep=NPROBES)
            for run, times in FACTORS.items()
        )
        self.runs = grid("refine-4", runs)

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Write the table, then the index."""
        n_rows, full_dim = vectors.shape
        schema = pa.schema(
            [("row", pa.int64()), ("vector", pa.list_(pa.float32(), full_dim))]
        )

        def batches():
            for start in range(0, n_rows, BATCH_ROWS):
                part = vectors[start : start + BATCH_ROWS]
                rows = pa.array(np.arange(start, start + len(part)))
                flat = pa.array(part.ravel())
                lists = pa.FixedSizeListArray.from_arrays(flat, full_dim)
                yield pa.record_batch([rows, lists], schema=schema)

        table = lancedb.connect(path).create_table(TABLE, batches(), schema=schema)
        partitions = 1 if self._graph else max(1, round(math.sqrt(n_rows)))
        chosen = {"num_partitions": partitions}
        if not self._graph:
            chosen["num_sub_vectors"] = full_dim // DIMS_A_SUB_VECTOR
        kind = self.params["index"]
        table.create_index(metric="dot", index_type=kind, **chosen)
        return chosen

    def open(self, path: Path, threads: int) -> None:
        """Open the table; its threads are set by the environment."""
        self._table = lancedb.connect(path).open_table(TABLE)

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Return a search that asks for the row numbers alone."""
        table, refine = self._table, FACTORS[run]

        def asked(query: np.ndarray) -> pa.Table:
            made = table.search(query, vector_column_name="vector").metric("dot")
            made = made.ef(effort).nprobes(1) if self._graph else made.nprobes(effort)
            return (
                made.refine_factor(refine)
                .limit(k)
                .select(["row", "_distance"])
                .to_arrow()
            )

        def search(queries: np.ndarray) -> np.ndarray:
            out = np.full((len(queries), k), -1, dtype=np.int64)
            if len(queries) == 1:
                rows = asked(queries[0])["row"].to_numpy()
                out[0, : len(rows)] = rows
                return out
            found = asked(queries)
            return _by_query(found, out)

        return search


def _by_query(found: pa.Table, out: np.ndarray) -> np.ndarray:
    """Fill `out` from a table whose rows name their query, best first."""
    at = found["query_index"].to_numpy()
    order = np.argsort(at, kind="stable")
    at, rows = at[order], found["row"].to_numpy()[order]
    place = np.arange(len(at)) - np.searchsorted(at, at)
    out[at, place] = rows
    return out


def hnsw_sq() -> LanceDb:
    """Return the graph over int8 codes."""
    return LanceDb("IVF_HNSW_SQ")


def ivf_pq() -> LanceDb:
    """Return its default index."""
    return LanceDb("IVF_PQ")
