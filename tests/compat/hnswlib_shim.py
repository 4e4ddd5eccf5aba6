"""hnswlib's Python API over `FunnelIndex`, as far as one can be said in the other.

Translates calls and nothing else; what has no counterpart raises `NotApplicableError`.
`plugin.py` puts it into ``sys.modules`` as ``hnswlib``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .engine import Engine, check_space
from .limits import NotApplicableError

Labels = npt.NDArray[np.uint64]
KEPT = ("M", "ef_construction", "max_elements")


class BFIndex:
    """An index that scores every row.

    Parameters
    ----------
    space : {"cosine", "ip", "l2"}
    dim : int
    """

    mode = "exact"

    def __init__(self, space: str, dim: int) -> None:
        self.space, self.dim = check_space(space), dim
        self.num_threads = -1
        self.max_elements = 0
        self._engine: Engine | None = None
        self._marked: dict[int, None] = {}  # deleted together, when somebody looks

    def _live(self) -> Engine:
        """Return the engine, in which everything that was asked has been done."""
        if self._engine is None:
            raise RuntimeError("call init_index() or load_index() first")
        if self._marked:
            self._engine.index.delete(list(self._marked))
            self._marked.clear()
        return self._engine

    def _start(self, max_elements: int, **options: Any) -> None:
        if self._engine is not None:
            raise RuntimeError("the index was initiated before")
        self._engine = Engine.create(self.space, self.dim, **options)
        self.max_elements = max_elements

    def init_index(self, max_elements: int) -> None:
        self._start(max_elements)

    def _threads(self, num_threads: int) -> int | None:
        """Return threads for `funnel`; zero and less mean all CPUs."""
        wanted = self.num_threads if num_threads < 0 else num_threads
        return wanted if wanted > 0 else None

    def set_num_threads(self, num_threads: int) -> None:
        self.num_threads = num_threads

    def add_items(self, data: Any, ids: Any = None) -> None:
        """Add rows, or replace those whose labels are there: what `upsert` does."""
        rows = np.atleast_2d(data)
        labels = None if ids is None else np.atleast_1d(ids)
        self._live().add(rows, labels, upsert=labels is not None)

    def _how(self) -> dict[str, Any]:
        return {}

    def knn_query(
        self,
        data: Any,
        k: int = 1,
        num_threads: int = -1,
        filter: Callable[[int], bool] | None = None,
    ) -> tuple[Labels, npt.NDArray[np.float32]]:
        """Return labels and distances, (q, k), of rows whose labels pass a filter."""
        engine, how = self._live(), self._how()
        if filter is not None:
            how["filter"] = [one for one in engine.ids().tolist() if filter(one)]
        hits, distances = engine.search(
            data, k, mode=self.mode, threads=self._threads(num_threads), **how
        )
        fewest = int(np.min(hits.counts, initial=k))
        if fewest < k:
            raise RuntimeError(f"{fewest} rows match; k = {k} needs more")
        return hits.ids.astype(np.uint64), distances

    def delete_vector(self, label: int) -> None:
        held = self._engine is not None and int(label) in self._engine.index
        if not held or int(label) in self._marked:
            raise RuntimeError(f"no label {label}")
        self._marked[int(label)] = None

    def save_index(self, path: str) -> None:
        Path(path).write_bytes(self._packed())

    def load_index(self, path: str, max_elements: int = 0) -> None:
        self._unpack(Path(path).read_bytes())
        self.max_elements = max_elements or self.max_elements

    def _packed(self) -> bytes:
        known = {name: getattr(self, name) for name in KEPT if hasattr(self, name)}
        return self._live().pack(**known)

    def _unpack(self, packed: bytes) -> None:
        engine, note = Engine.unpack(packed)
        if (engine.space, engine.dim) != (self.space, self.dim):
            raise RuntimeError(f"a file of {engine.dim} dims, {engine.space}")
        self._engine = engine
        self.__dict__.update({name: note[name] for name in KEPT if name in note})

    def get_max_elements(self) -> int:
        return self.max_elements

    def get_current_count(self) -> int:
        return 0 if self._engine is None else len(self._live())


class Index(BFIndex):
    """An index that walks a graph.

    Parameters
    ----------
    space : {"cosine", "ip", "l2"}
    dim : int
    """

    mode = "funnel"

    def __init__(self, space: str, dim: int) -> None:
        super().__init__(space, dim)
        self.M, self.ef_construction, self.ef = 16, 200, 10
        self._may_replace = False

    def init_index(
        self,
        max_elements: int,
        M: int = 16,
        ef_construction: int = 200,
        random_seed: int = 100,
        allow_replace_deleted: bool = False,
    ) -> None:
        """Start; `max_elements` is kept as a number: `funnel` has no capacity."""
        self._start(max_elements, M=M, ef_construction=ef_construction,
                    seed=random_seed)  # fmt: skip
        self.M, self.ef_construction = M, ef_construction
        self._may_replace = allow_replace_deleted

    def set_ef(self, ef: int) -> None:
        self.ef = ef

    def _how(self) -> dict[str, Any]:
        return {"ef_search": self.ef}

    def add_items(
        self,
        data: Any,
        ids: Any = None,
        num_threads: int = -1,
        replace_deleted: bool = False,
    ) -> None:
        """Add rows; the room of deleted ones is always given back, at a compaction."""
        if replace_deleted and not self._may_replace:
            raise RuntimeError("replacing deleted rows was not allowed at the start")
        super().add_items(data, ids)

    def load_index(
        self, path: str, max_elements: int = 0, allow_replace_deleted: bool = False
    ) -> None:
        super().load_index(path, max_elements)
        self._may_replace = allow_replace_deleted

    def mark_deleted(self, label: int) -> None:
        self.delete_vector(label)

    def unmark_deleted(self, label: int) -> None:
        raise NotApplicableError("a deleted row is gone: funnel has no undo for one")

    def resize_index(self, new_size: int) -> None:
        if new_size < self.get_current_count():
            raise RuntimeError(f"the index holds more than {new_size} rows")
        self.max_elements = new_size

    def get_ids_list(self) -> list[int]:
        return self._live().ids().tolist()

    def get_items(self, ids: Any = None, return_type: str = "numpy") -> Any:
        """Return stored rows by label, or all; a label is the first of its row."""
        if ids is None:
            rows = self._live().all_vectors()
        elif np.ndim(ids) == 0:
            raise ValueError("get_items() takes a sequence of labels")
        else:
            labels = np.asarray(ids)
            rows = self._live().vectors(labels.reshape(len(labels), -1)[:, 0])
        return rows.tolist() if return_type == "list" else np.asarray(rows)

    @property
    def element_count(self) -> int:
        return self.get_current_count()

    def __getstate__(self) -> dict[str, Any]:
        packed = None if self._engine is None else self._packed()
        return self.__dict__ | {"_engine": packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_engine": None})
        if state["_engine"] is not None:
            self._unpack(state["_engine"])
