"""NGT: a neighbourhood graph and tree (ANNG), and the same optimised (ONNG).

*Normalized Cosine* over normalised vectors. ANNG with its defaults; ONNG as the
documents say: a graph of 100 edges, cut to 10 outgoing and 120 incoming ones, all of
them walked; its search for other parameters, which took 100 s for 3,000 rows, is left
out. Python's
package cannot build NGT's quantised graph (QG): that takes the command `qbg`, which the
wheel does not bring. Used by `benchmarks.peers`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import ngtpy
import numpy as np

from benchmarks.systems import BuildSettings, Run, Search, Uncounted

EPSILONS = (-10, -5, 0, 2, 4, 6, 8, 10, 12, 15, 20, 25, 30, 40)
DISTANCE = "Normalized Cosine"


class Ngt(Uncounted):
    """The knob is epsilon; a batch is shared among OpenMP's threads."""

    runs = (Run("full", "epsilon_percent", sweep=EPSILONS),)

    def __init__(self, graph: str, **params: object) -> None:
        self.key = self.name = f"ngt-{graph}"
        self.params = params

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Link the graph, for ONNG optimise it, and save."""
        saved, optimised = str(path / "anng"), "outgoing" in self.params
        edges = self.params["edges"]
        given = {"distance_type": DISTANCE, "edge_size_for_creation": edges}
        given["edge_size_for_search"] = 0 if optimised else 40
        ngtpy.create(saved, vectors.shape[1], **given)
        index = ngtpy.Index(saved, log_disabled=True)
        index.batch_insert(vectors, num_threads=settings.threads)
        index.save()
        index.close()
        if optimised:
            optimizer = ngtpy.Optimizer(log_disabled=True)
            optimizer.set(self.params["outgoing"], self.params["incoming"])
            optimizer.set_processing_modes(True, False, False, False)
            optimizer.execute(saved, str(path / "onng"))
            shutil.rmtree(saved)
        return {}

    def open(self, path: Path, threads: int) -> None:
        """Read the index into memory; OMP_NUM_THREADS has set the threads."""
        saved = next(path.iterdir())
        self._index = ngtpy.Index(str(saved), read_only=True, log_disabled=True)

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Set epsilon on the index."""
        index = self._index
        index.set(num_of_search_objects=k, epsilon=effort / 100)

        def search(queries: np.ndarray) -> np.ndarray:
            found = ngtpy.BatchResults()
            index.batch_search(queries, found, k, with_distance=False)
            return found.get_ids()

        return search


def anng() -> Ngt:
    """Return the graph as it is built."""
    return Ngt("anng", edges=10)


def onng() -> Ngt:
    """Return the graph with its edges optimised."""
    return Ngt("onng", edges=100, outgoing=10, incoming=120)


def qg() -> Ngt:
    """Say why there is no quantised graph."""
    raise ImportError(
        "NGT's quantised graph is built by the command qbg, which the wheel lacks"
    )
