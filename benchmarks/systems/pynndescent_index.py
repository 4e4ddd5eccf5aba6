"""PyNNDescent: a neighbour graph by NN-descent, walked from a tree, in Numba.

Its recommended settings: 30 neighbours and defaults; `compressed`, so that it saves
what a search needs. Once over float32, once over int8 codes with an exact rerank.
`prepare` is called on opening, outside every clock. Batches are shared among Numba's
threads, over codes not: version 0.7.0 does not compile that. Used by
`benchmarks.peers`.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numba
import numpy as np
from pynndescent import NNDescent

from benchmarks.systems import BuildSettings, Run, Search, Uncounted, grid

EPSILONS = (0, 2, 4, 6, 8, 10, 12, 15, 18, 21, 25, 30, 35, 40, 50)
WIDTHS = {f"width-{times:g}": times for times in (1.66, 3, 6)}
KNOB = "epsilon_percent"


class PyNNDescent(Uncounted):
    """The knob is epsilon; over codes a run for each number of candidates."""

    def __init__(self, quantization: str | None = None) -> None:
        self.key = self.name = "pynndescent" + (
            f"-{quantization}" if quantization else ""
        )
        self.params: dict[str, object] = {
            "n_neighbors": 30,
            "quantization": quantization,
        }
        names = tuple(WIDTHS) if quantization else ("full",)
        self.runs = grid(names[0], (Run(name, KNOB, sweep=EPSILONS) for name in names))

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Descend, prepare, save."""
        numba.set_num_threads(min(settings.threads, numba.config.NUMBA_NUM_THREADS))
        index = NNDescent(
            vectors,
            metric="dot",
            random_state=settings.seed,
            n_jobs=settings.threads,
            compressed=True,
            **self.params,
        )
        index.prepare()
        with (path / "index.pickle").open("wb") as file:
            pickle.dump(index, file, protocol=5)
        return {}

    def open(self, path: Path, threads: int) -> None:
        """Read the index into memory; a batch uses Numba's threads."""
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        with (path / "index.pickle").open("rb") as file:
            self._index = self._batch = pickle.load(file)
        self._index.prepare()
        if threads > 1 and self.params["quantization"] is None:
            self._batch = copy.copy(self._index)  # the arrays are shared
            self._batch.parallel_batch_queries = True
            del self._batch._search_function  # was made for one thread
            self._batch.prepare()

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Bind epsilon; only the rows are asked for, as they are all that we need."""
        index, batch = self._index, self._batch
        given = {"epsilon": effort / 100, "pre_normalized": True}
        if run in WIDTHS:
            given["candidate_width"] = round(k * WIDTHS[run])

        def search(queries: np.ndarray) -> np.ndarray:
            asked = index if len(queries) == 1 else batch
            return asked.query(queries, k, return_distances=False, **given)

        return search


def in_float32() -> PyNNDescent:
    """Walk the vectors."""
    return PyNNDescent()


def in_int8() -> PyNNDescent:
    """Walk int8 codes, score the best by the vectors."""
    return PyNNDescent("int8")
