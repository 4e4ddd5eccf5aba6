"""ScaNN: a tree of leaves, anisotropic 4-bit codes, a reordering by the vectors.

√n leaves, two dims a block and an anisotropic threshold of 0.2, as its documents say
for normalised vectors and inner product. Used by `benchmarks.peers`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import scann
from scann.scann_ops.py import scann_ops_pybind

from benchmarks.systems import BuildSettings, Run, Search, Uncounted, grid

REORDERED = (20, 40, 80, 160, 320, 640)
LEAVES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
TRAINING_ROWS = 250_000
LARGEST_BATCH = 256  # its own default
DIMS_A_BLOCK, THRESHOLD = 2, 0.2


class Scann(Uncounted):
    """The knob is leaves_to_search, a run for each number of reordered rows."""

    key = name = "scann"
    runs = grid(
        "reorder-80",
        (Run(f"reorder-{n}", "leaves_to_search", sweep=LEAVES) for n in REORDERED),
    )

    def __init__(self) -> None:
        self.params: dict[str, object] = {
            "dims_a_block": DIMS_A_BLOCK,
            "anisotropic_threshold": THRESHOLD,
        }

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Train tree and codes, save both with the vectors."""
        leaves = max(1, round(math.sqrt(len(vectors))))
        searcher = (
            scann_ops_pybind.builder(vectors, 10, "dot_product")
            .set_n_training_threads(settings.threads)
            .tree(leaves, LEAVES[0], training_sample_size=TRAINING_ROWS)
            .score_ah(DIMS_A_BLOCK, anisotropic_quantization_threshold=THRESHOLD)
            .reorder(REORDERED[0])
            .build()
        )
        searcher.serialize(str(path))
        return {"leaves": leaves}

    def open(self, path: Path, threads: int) -> None:
        """Read the index into memory."""
        self._searcher = scann_ops_pybind.load_searcher(str(path))
        self._searcher.set_num_threads(threads)
        self._threads = threads

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Bind leaves and reordered rows; several threads share a batch."""
        searcher, threads = self._searcher, self._threads
        given = (k, max(int(run.removeprefix("reorder-")), k), effort)

        def search(queries: np.ndarray) -> np.ndarray:
            if len(queries) == 1:
                return searcher.search(queries[0], *given)[0][None]
            if threads == 1:
                return searcher.search_batched(queries, *given)[0]
            share = min(LARGEST_BATCH, -(-len(queries) // threads))
            return searcher.search_batched_parallel(queries, *given, share)[0]

        return search


assert scann  # the package registers its operations on import
