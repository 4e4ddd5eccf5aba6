"""What the faiss peers share: training, adding, one file on disk, batches by OpenMP.

An adapter says which index it is and how an effort is set. Used by the `faiss_…`
adapters and by `diy`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import faiss
import numpy as np

from benchmarks.systems import BuildSettings, Search, Uncounted

FILE = "index.faiss"


class FaissIndex(Uncounted, ABC):
    """One index of faiss; a batch is shared among OpenMP's threads."""

    def __init__(self, **params: object) -> None:
        self.params: dict[str, object] = params

    @abstractmethod
    def empty(self, vectors: np.ndarray, settings: BuildSettings) -> faiss.Index:
        """Return the index, untrained, for `vectors`."""

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Train, add and save; says what `chosen` says."""
        faiss.omp_set_num_threads(settings.threads)
        index = self.empty(vectors, settings)
        index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, str(path / FILE))
        return self.chosen(index)

    def chosen(self, index: faiss.Index) -> dict[str, object]:
        """Return what depended on the data, to be shown beside `params`."""
        return {}

    def open(self, path: Path, threads: int) -> None:
        """Read the index into memory."""
        faiss.omp_set_num_threads(threads)
        self._index = faiss.read_index(str(path / FILE))

    def set_effort(self, run: str, k: int, effort: int) -> None:
        """Set the knobs on the open index; a scan has none."""

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Set the effort and return faiss's own search."""
        self.set_effort(run, k, effort)
        index = self._index
        return lambda queries: index.search(queries, k)[1]


def refined(base: faiss.Index, full_dim: int) -> faiss.IndexRefine:
    """Return `base` with a rerank of its best rows by the vectors, inner product."""
    flat = faiss.IndexFlatIP(full_dim)
    index = faiss.IndexRefine(base, flat)
    index.own_fields = index.own_refine_index = True
    base.this.disown()
    flat.this.disown()
    return index
