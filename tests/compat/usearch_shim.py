"""``usearch.index`` over `FunnelIndex`, as far as one can be said in the other.

Translates calls and nothing else; what has no counterpart raises `NotApplicableError`.
`plugin.py` puts it into ``sys.modules`` as ``usearch.index``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .engine import Engine, check_space
from .limits import NotApplicableError
from .usearch_types import (
    BatchMatches,
    Clustering,
    Match,
    Matches,
    MetricKind,
    ScalarKind,
    numbers_of,
)

__all__ = [
    "DEFAULT_CONNECTIVITY", "BatchMatches", "Clustering", "Index", "Match", "Matches",
    "MetricKind", "ScalarKind",
]  # fmt: skip

DEFAULT_CONNECTIVITY, DEFAULT_EXPANSION_ADD, DEFAULT_EXPANSION_SEARCH = 16, 128, 64


def packed_bytes(source: Any) -> bytes:
    """Return what a path or a buffer holds."""
    if isinstance(source, str | Path):
        return Path(source).read_bytes()
    return bytes(memoryview(source))  # a TypeError for what is neither


class Index:
    """An index of one vector a key.

    Parameters
    ----------
    ndim : int
    metric : MetricKind
    dtype : ScalarKind or dtype, optional
        By default float32.
    connectivity, expansion_add, expansion_search : int
        HNSW's M, ef_construction and ef.
    multi : bool
        Several vectors under one key: not applicable.
    """

    def __init__(
        self,
        *,
        ndim: int = 0,
        metric: MetricKind = MetricKind.Cos,
        dtype: Any = None,
        connectivity: int = DEFAULT_CONNECTIVITY,
        expansion_add: int = DEFAULT_EXPANSION_ADD,
        expansion_search: int = DEFAULT_EXPANSION_SEARCH,
        multi: bool = False,
    ) -> None:
        numbers = numbers_of(dtype or ScalarKind.F32)
        if numbers not in ("float32", "float16"):
            raise NotApplicableError(f"funnel does not store vectors as {numbers}")
        if multi:
            raise NotApplicableError("an id names one row: no second vector for a key")
        check_space(metric.value)
        self.ndim, self.metric, self.dtype = ndim, metric, ScalarKind(numbers)
        self.connectivity, self.expansion_add = connectivity, expansion_add
        self.expansion_search = expansion_search
        self.clear()

    def clear(self) -> None:
        """Go on with an empty index."""
        self._engine = Engine.create(
            self.metric.value,
            self.ndim,
            dtype=self.dtype.value,
            M=self.connectivity,
            ef_construction=self.expansion_add,
        )

    def reset(self) -> None:
        self.clear()

    # ---- change

    def add(
        self, keys: Any, vectors: Any, *, copy: bool = True, threads: int = 0
    ) -> Any:
        """Add rows; the threads that write them are for `funnel` to choose."""
        if not copy:
            raise NotApplicableError("funnel keeps its vectors itself, always")
        self._engine.add(vectors, np.atleast_1d(keys))
        return keys

    def remove(self, keys: Any) -> Any:
        """Remove rows; return how many there were of each key."""
        held = self.count(keys)
        self._engine.index.delete(np.atleast_1d(keys))
        return held

    __delitem__ = remove

    def rename(self, from_: Any, to: Any) -> Any:
        """Store rows under other keys, in one version: all of them or none."""
        held = self.count(from_)
        here = np.atleast_1d(held).astype(bool)
        old, new = np.atleast_1d(from_)[here], np.atleast_1d(to)[here]
        if len(old):
            rows = self._engine.vectors(old).copy()
            with self._engine.index.transaction() as index:
                index.delete(old)
                self._engine.add(rows, new)
        return held

    # ---- read

    def search(
        self, vectors: Any, count: int = 10, *, threads: int = 0, exact: bool = False
    ) -> Matches | BatchMatches:
        """Return the answers of a batch, or of one query on its own or in a batch."""
        mode = "exact" if exact else "funnel"
        hits, distances = self._engine.search(
            vectors, count, mode=mode, threads=threads or None, trace=True,
            ef_search=self.expansion_search,
        )  # fmt: skip
        scored = [s.rows_in for s in hits.trace if s.name != "cut"]
        keys, cost = hits.ids.astype(np.uint64), (scored[0], sum(scored))
        if len(keys) == 1:
            return Matches(keys[0], distances[0], *cost)
        return BatchMatches(keys, distances, *cost)

    def contains(self, keys: Any) -> Any:
        if np.ndim(keys) == 0:
            return int(keys) in self._engine.index
        return np.array([int(one) in self._engine.index for one in keys], bool)

    __contains__ = contains

    def count(self, keys: Any) -> Any:
        return np.asarray(self.contains(keys)).astype(int)[()]

    def get(self, keys: Any, dtype: Any = None) -> Any:
        """Return the vector of a key, or None; those of many keys, all held."""
        if np.ndim(keys) == 0 and not self.contains(keys):
            return None
        rows = self._engine.vectors(np.atleast_1d(keys))
        rows = rows.astype(numbers_of(dtype or self.dtype))
        return rows[0] if np.ndim(keys) == 0 else rows

    __getitem__ = get

    def __len__(self) -> int:
        return len(self._engine)

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        return self._engine.ids().astype(np.uint64) if len(self) else np.empty(0, "u8")

    @property
    def vectors(self) -> npt.NDArray[Any]:
        return self._engine.all_vectors()

    # ---- store

    def save(self, path: Any = None) -> bytearray | None:
        """Store in a file, or return the bytes that it would hold."""
        packed = self._engine.pack(ndim=self.ndim, dtype=self.dtype.value)
        if path is None:
            return bytearray(packed)
        Path(path).write_bytes(packed)
        return None

    def load(self, source: Any, mode: str = "rw") -> None:
        """Go on with what a file or a buffer holds."""
        self._engine, note = Engine.unpack(packed_bytes(source), mode)
        self.ndim, self.metric = note["ndim"], MetricKind(note["space"])
        self.dtype = ScalarKind(note["dtype"])

    def view(self, source: Any) -> None:
        """Do as `load`, read-only: unpacked too, for what is mapped is a directory."""
        self.load(source, "r")

    @staticmethod
    def restore(source: Any, view: bool = False) -> Index:
        _, note = Engine.unpack(packed_bytes(source), "r")
        index = Index(ndim=note["ndim"], metric=MetricKind(note["space"]))
        index.load(source, "r" if view else "rw")
        return index

    @staticmethod
    def metadata(source: Any) -> dict[str, Any]:
        return Engine.unpack(packed_bytes(source), "r")[1]

    def copy(self) -> Index:
        return Index.restore(self.save())

    # ---- what has no counterpart

    def cluster(self, **_: Any) -> Clustering:
        raise NotApplicableError("funnel does not cluster")

    @property
    def max_level(self) -> int:
        raise NotApplicableError("funnel gives no statistics of its graph's levels")
