"""What both shims need of a `FunnelIndex`: distances, and all of it in one file.

An index in a temporary directory of its own, which goes when the engine does. Does not
know anybody's API; called by `hnswlib_shim.py` and `usearch_shim.py`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
import weakref
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from funnel import FunnelIndex
from funnel.results import Hits

from .limits import NotApplicableError

L2_VARIABLE = "FUNNEL_COMPAT_L2"
INDEX, NOTE = "index", "note.json"


def l2_as_ip() -> bool:
    """Tell whether squared distances are to be had as products over one more dim."""
    return os.environ.get(L2_VARIABLE) == "ip"


def check_space(space: str) -> str:
    """Return a space's name, if `funnel` can rank by it."""
    if space in ("cosine", "ip") or (space == "l2" and l2_as_ip()):
        return space
    if space == "l2":
        raise NotApplicableError("squared Euclidean distance is not a metric of funnel")
    raise NotApplicableError(f"{space} is not a metric of funnel")


def longer_rows(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (x, −|x|²/2) of rows x: with (q, 1), the farther the less."""
    halves = -0.5 * np.square(rows, dtype=np.float64).sum(axis=1, keepdims=True)
    return np.concatenate([rows, halves], axis=1)


def _remove(index: FunnelIndex, folder: Path) -> None:
    index.close()
    shutil.rmtree(folder, ignore_errors=True)


class Engine:
    """A `FunnelIndex` that is asked for distances: smaller is nearer.

    Parameters
    ----------
    index : FunnelIndex
    space : {"cosine", "ip", "l2"}
    folder : Path
        That holds the index and nothing else; removed with the engine.
    """

    def __init__(self, index: FunnelIndex, space: str, folder: Path) -> None:
        self.index, self.space = index, space
        self.dim = index.full_dim - (space == "l2")
        weakref.finalize(self, _remove, index, folder)

    @classmethod
    def create(cls, space: str, dim: int, **options: Any) -> Self:
        """Return an engine without rows; `options` are those of `FunnelIndex.create`.

        Nothing here outlives a process: changes need not reach the disk.
        """
        metric = "ip" if check_space(space) == "l2" else space
        folder = Path(tempfile.mkdtemp(prefix="funnel-compat-"))
        index = FunnelIndex.create(
            folder / INDEX,
            dim + (space == "l2"),
            metric=metric,
            durability="fast",
            **options,
        )
        return cls(index, space, folder)

    @classmethod
    def unpack(cls, packed: bytes, mode: str = "rw") -> tuple[Self, dict[str, Any]]:
        """Return the engine that `pack` made bytes of, and the note beside it."""
        folder = Path(tempfile.mkdtemp(prefix="funnel-compat-"))
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        note = json.loads((folder / NOTE).read_text())
        index = FunnelIndex.open(folder / INDEX, mode, durability="fast")
        return cls(index, check_space(note["space"]), folder), note

    def pack(self, **note: Any) -> bytes:
        """Return a backup of the index as one tar archive: it is a directory itself."""
        buffer = io.BytesIO()
        with (
            tempfile.TemporaryDirectory() as folder,
            tarfile.open(fileobj=buffer, mode="w") as archive,
        ):
            self.index.backup(Path(folder) / INDEX)
            text = json.dumps({"space": self.space, **note})
            (Path(folder) / NOTE).write_text(text)
            for name in (INDEX, NOTE):
                archive.add(Path(folder) / name, name)
        return buffer.getvalue()

    def __len__(self) -> int:
        return len(self.index)

    def add(self, rows: Any, ids: Any = None, *, upsert: bool = False) -> None:
        """Add (n, dim) rows, or one; `upsert` replaces those that are there."""
        rows = np.atleast_2d(rows)
        if self.space == "l2":
            rows = longer_rows(rows)
        (self.index.upsert if upsert else self.index.add)(rows, ids=ids)

    def search(self, queries: Any, k: int, **how: Any) -> tuple[Hits, Any]:
        """Return the hits of (q, dim) queries, and their (q, k) distances."""
        queries = np.atleast_2d(queries)
        if self.space != "l2":
            hits = self.index.search(queries, k, **how)
            return hits, 1 - hits.scores
        ones = np.ones((len(queries), 1), queries.dtype)
        hits = self.index.search(np.concatenate([queries, ones], axis=1), k, **how)
        squares = np.square(queries, dtype=np.float64).sum(axis=1, keepdims=True)
        return hits, np.maximum(squares - 2 * hits.scores, 0).astype(np.float32)

    def vectors(self, ids: Any) -> npt.NDArray[Any]:
        """Return the stored rows (n, dim) of ids, in the order asked."""
        column = self.index.get(ids, vectors=True).column("vector").combine_chunks()
        rows = column.flatten().to_numpy(zero_copy_only=False)
        return rows.reshape(len(column), -1)[:, : self.dim]

    def all_vectors(self) -> npt.NDArray[Any]:
        """Return all stored rows (n, dim), in the order of `ids`."""
        return self.index.vectors()[:, : self.dim]

    def ids(self) -> npt.NDArray[np.int64]:
        """Return all ids."""
        return self.index.to_arrow().column("id").to_numpy()
