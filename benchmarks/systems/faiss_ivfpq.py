"""faiss `IndexIVFPQFastScan` with refinement: lists, 4-bit codes in registers, rerank.

4 √n lists; principal axes (a quarter of the dims), rotated, and a 4-bit code for each
two of them, the width that fast scan is made for (and ScaNN's). faiss's axes are
centred, so distances are L2, which ranks normalised vectors as inner product does. On
3,000 × 512 OPQ found no more and trained four times as long, codes without axes found
less. Used by `benchmarks.peers`.
"""

from __future__ import annotations

import math

import faiss
import numpy as np

from benchmarks.systems import BuildSettings, Run, grid
from benchmarks.systems.faiss_common import FaissIndex

FACTORS = {f"rerank-{times}": times for times in (2, 4, 8, 16, 32)}
NPROBE = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
LEAST_DIMS = 64
TRAINING_ROWS_A_LIST = 64  # faiss asks for 39 to 256; 256 take four times as long


class FaissIvfPqFastScan(FaissIndex):
    """The knob is nprobe, a run for each factor of the refinement."""

    key = name = "faiss-ivfpq-fs"
    runs = grid("rerank-8", (Run(run, "nprobe", sweep=NPROBE) for run in FACTORS))

    def __init__(self) -> None:
        super().__init__(index="PCAR,IVF,PQx4fs,RFlat")

    def empty(self, vectors: np.ndarray, settings: BuildSettings) -> faiss.Index:
        """Name the index for this many rows and dims."""
        n_rows, full_dim = vectors.shape
        dims = min(full_dim, max(LEAST_DIMS, full_dim // 4)) // 4 * 4
        lists = max(1, min(round(4 * math.sqrt(n_rows)), n_rows // 39))
        factory = f"PCAR{dims},IVF{lists},PQ{dims // 2}x4fs,RFlat"
        index = faiss.index_factory(full_dim, factory, faiss.METRIC_L2)
        clustering = faiss.extract_index_ivf(index.base_index).cp
        clustering.max_points_per_centroid = TRAINING_ROWS_A_LIST
        self._factory = factory
        return index

    def chosen(self, index: faiss.Index) -> dict[str, object]:
        """Say the full name."""
        return {"index": self._factory}

    def set_effort(self, run: str, k: int, effort: int) -> None:
        """Set nprobe on the lists, and how many rows are refined."""
        lists = faiss.extract_index_ivf(faiss.downcast_index(self._index.base_index))
        lists.nprobe = min(effort, lists.nlist)
        self._index.k_factor = FACTORS[run]
