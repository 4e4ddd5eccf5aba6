"""`FunnelIndex`: build, open, search. A façade: checks input, calls one thing, returns.

The work is in `build/`, `search.py`, `reading.py` and `store/`.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from funnel.build import build_index
from funnel.cascade import Cascade
from funnel.errors import ClosedError, InvalidTypeError, check_choice
from funnel.options import check_habits, check_search, prepare_build
from funnel.progress import Progress
from funnel.reading import find_rows, stream_rows, table_of
from funnel.results import Hits
from funnel.search import search
from funnel.snapshot import Snapshot
from funnel.store.commit import (
    check_free,
    new_index,
    newest_manifest,
    publish,
    reading,
    remove,
    resolve,
)
from funnel.store.manifest import Manifest
from funnel.store.verify import check_hashes
from funnel.threads import Threads
from funnel.vectors import check_queries


class FunnelIndex:
    """An index of Matryoshka embeddings on disk, searched as a funnel.

    Made by `FunnelIndex.build` or `FunnelIndex.open`; usable as a context manager, and
    from any number of threads.

    Examples
    --------
    >>> import numpy as np
    >>> from funnel import FunnelIndex
    >>> rng = np.random.default_rng(0)
    >>> embeddings = rng.standard_normal((500, 64)).astype("float32")
    >>> with FunnelIndex.build(embeddings) as index:
    ...     hits = index.search(embeddings[7], k=3)
    >>> int(hits.ids[0])
    7
    """

    def __init__(self, path: Path, manifest: Manifest, mode: str) -> None:
        self.path, self.mode, self._threads = path, mode, Threads()
        with reading(path):
            self._open: Snapshot | None = Snapshot(path, manifest, self._threads)
        self._manifest = manifest

    # ---- build and open

    @classmethod
    def build(
        cls,
        data: Any,
        *,
        ids: Any = None,
        metadata: Any = None,
        path: Any = None,
        dims: Iterable[int] | None = None,
        graph_dim: int | None = None,
        code_dim: int | None = None,
        projection: str = "auto",
        metric: str = "cosine",
        dtype: str = "float32",
        transform: str | None = None,
        M: int = 16,
        ef_construction: int = 200,
        builder: str = "auto",
        seed: int = 0,
        threads: int | None = None,
        progress: Any = False,
        on_bad_vectors: str = "error",
        overwrite: bool = False,
        vector_column: str | None = None,
        id_column: str | None = None,
        **habits: Any,
    ) -> FunnelIndex:
        """Build an index and return it open for reading and writing.

        Reads the data once, in batches, and never holds all of it: what stays in memory
        is a sample (at most 256 MB) and, a row, some 20 bytes and 8 M for its links;
        another `builder` than "numba" needs its own vectors twice besides.

        Parameters
        ----------
        data : (n, full_dim) array-like, Arrow data, path or glob, or iterator of these
            Anything with ``__array__``, ``__dlpack__`` or ``__arrow_c_stream__``; a
            ``.npy``, ``.parquet`` or ``.arrow`` file, a directory or a glob of them; an
            iterator of arrays or Arrow batches.
        ids : (n,) int64 or str, optional
            Distinct; by default a table's id column, or 0 … n−1.
        metadata : Arrow table, mapping of columns, or data frame, optional
            n rows, kept beside the vectors. A table given as `data` brings its own.
        path : str or path, optional
            A directory that does not exist yet; by default a temporary one, which is
            removed with the handle.
        dims : increasing ints, optional
            The nested dims the model was trained at; by default 16, 32, … and
            full_dim, which is appended if missing.
        graph_dim, code_dim : int, optional
            Dims of the projection that the graph is built on, and that the walk
            scores; by default measured on a sample.
        projection : {"auto", "prefix", "pca"}
            What both are dims of: the embedding's own prefix, or its principal axes.
        metric : {"cosine", "ip"}
        dtype : {"float32", "float16"}
            As which vectors are stored.
        transform : {"layer_norm"}, optional
            Applied before storing, and to queries; what nomic-embed needs.
        M, ef_construction : int
            HNSW's links a node (2 M on the lowest level) and search width in building.
        builder : {"auto", "hnswlib", "faiss", "numba"}
            "auto" is "numba", which grows the graph over the codes with our own
            kernels; with a `graph_dim` of its own, hnswlib where it is installed, else
            faiss.
        seed, threads : int
            With "numba" the index is the same every time; with the others only with
            ``threads=1``.
        progress : bool, callable or tqdm class
        on_bad_vectors : {"error", "drop"}
            What to do with rows that hold NaN or infinity, or are zero under cosine.
        overwrite : bool
            Replace an index at `path`, once the new one is whole.
        vector_column, id_column : str, optional
            Of tables and Parquet files; by default found by type and usual names.
        **habits
            Names that other libraries use; refused with the name that we use.

        Returns
        -------
        FunnelIndex

        Raises
        ------
        FunnelError
            A subclass that says what was wrong; nothing is left at `path` then.
        """
        check_habits(habits, "build")
        target = None if path is None else resolve(path)
        if not isinstance(overwrite, bool):
            raise InvalidTypeError(f"overwrite must be a bool, not {overwrite!r}")
        if target is not None:
            check_free(target, overwrite=overwrite)
        reporter = Progress(progress)
        source, checked, options = prepare_build(
            data, ids=ids, metadata=metadata, dims=dims, graph_dim=graph_dim,
            code_dim=code_dim, projection=projection, metric=metric, dtype=dtype,
            transform=transform, M=M, ef_construction=ef_construction,
            builder=builder, seed=seed, threads=threads,
            on_bad_vectors=on_bad_vectors, vector_column=vector_column,
            id_column=id_column,
        )  # fmt: skip
        with new_index(target, overwrite=overwrite) as folder:
            manifest = build_index(
                folder, source.batches, source.rows, checked, options, reporter
            )
            publish(folder, manifest)
        index = cls(target or folder, manifest, "rw")
        if target is None:
            weakref.finalize(index, remove, folder, os.getpid())
        return index

    @classmethod
    def open(cls, path: Any) -> FunnelIndex:
        """Open an index for reading: maps files, copies nothing, takes milliseconds.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        IndexNotFoundError, NotAnIndexError, FormatVersionError, CorruptIndexError
        """
        folder = resolve(path)
        return cls(folder, newest_manifest(folder), "r")

    def close(self) -> None:
        """Let go of the files; a second call does nothing."""
        self._open = None
        self._threads.close()

    def __enter__(self) -> FunnelIndex:
        self._snapshot()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _snapshot(self) -> Snapshot:
        if self._open is None:
            raise ClosedError(f"the index at {self.path} was closed: open it again")
        return self._open

    # ---- search

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        shortlist: int | None = None,
        cascade: Cascade | None = None,
        ef_search: int | None = None,
        slack: float | None = None,
        mode: str = "funnel",
        threads: int | None = None,
        trace: bool = False,
        **habits: Any,
    ) -> Hits:
        """Return the `k` best rows of each query.

        Parameters
        ----------
        queries : (q, full_dim) or (full_dim,) array-like
            Full embeddings: the index truncates them itself.
        k : int, default 10
            Answers a query; all rows where there are fewer.
        shortlist : int, optional
            Rows that the walk hands to the cascade; by default max(200, 2 k).
        cascade : Cascade, optional
            How the shortlist is reranked; by default what suits the projection.
        ef_search : int, optional
            Length of the walk's list; by default `shortlist`.
        slack : float, optional
            End a walk early: once the next candidate is more than ``1 + slack`` times
            as far from the query as the walk's (2 k)-th best. Distances are 1 − cosine
            of the codes. Easy queries end sooner than hard ones: with a long list, the
            same recall for fewer rows (arXiv:2505.15636). By default it never does.
        mode : {"funnel", "rerank", "prefix_ann", "prefix", "exact"}
            "funnel": walk, then the cascade. "rerank": walk, then full width at once
            (the MRL paper's adaptive retrieval). "prefix_ann": walk alone. "prefix":
            every row at `code_dim`. "exact": every row at full width.
        threads : int, optional
            Threads that share a batch; by default all CPUs.
        trace : bool
            Return what each step read and took.
        **habits
            Names that other libraries use; refused with the name that we use.

        Returns
        -------
        Hits
            ``ids`` and ``scores`` of shape (q, min(k, n)), or 1-D for a 1-D query;
            best first, higher scores are better. Under "cosine" a score is the cosine,
            under "ip" the inner product; of codes, its approximation.

        Raises
        ------
        DimensionError, NonFiniteError, ZeroVectorError, CascadeError, …
            Naming what came and what was needed.
        """
        check_habits(habits, "search")
        snapshot = self._snapshot()
        plan = snapshot.remember(
            check_search, k, shortlist, cascade, ef_search, mode, threads, slack
        )
        rows_in, single = check_queries(
            queries, self.full_dim, self.metric, self._manifest.transform
        )
        rows, scores, cost = search(snapshot, rows_in, plan, trace)
        ids = snapshot.ids(rows)
        if single:
            ids, scores = ids[0], scores[0]
        return Hits(ids, scores, cost if trace else None)

    def warmup(self) -> float:
        """Compile, or load from the cache, all that a search needs; return seconds."""
        began = time.perf_counter()
        query = np.ones((1, self.full_dim), np.float32)
        for mode in ("funnel", "exact"):
            self.search(query, k=1, mode=mode, threads=1)
        return time.perf_counter() - began

    # ---- read

    def __len__(self) -> int:
        return self._manifest.rows

    def __contains__(self, identifier: object) -> bool:
        return self._snapshot().row_of(identifier) >= 0

    def get(self, ids: Any, vectors: bool = False) -> pa.Table:
        """Return rows by id, in the order asked.

        Parameters
        ----------
        ids : sequence of int or str
        vectors : bool
            Return the stored vectors too: as given, or transformed if the index
            transforms.

        Returns
        -------
        pyarrow.Table
            Columns ``id``, the metadata, and ``vector``.

        Raises
        ------
        UnknownIdError
            Naming the first id that the index does not hold.
        """
        snapshot = self._snapshot()
        return table_of(snapshot, find_rows(snapshot, ids, self.path), vectors)

    def to_arrow(self, vectors: bool = False) -> pa.Table:
        """Return all rows: ``id``, the metadata, and, if asked, ``vector``."""
        return stream_rows(self._snapshot, vectors).read_all()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Stream all rows to Arrow-speaking libraries, vectors included."""
        stream = stream_rows(self._snapshot, vectors=True)
        return stream.__arrow_c_stream__(requested_schema)

    def verify(self, level: str = "full") -> None:
        """Check the files against the manifest.

        Parameters
        ----------
        level : {"size", "full"}
            "size" compares sizes, as opening does; "full" hashes every byte.

        Raises
        ------
        CorruptIndexError
            Naming the first file that is not what was written.
        """
        check_choice("level", level, ("size", "full"))
        self._snapshot()
        manifest = newest_manifest(self.path)
        if level == "full":
            check_hashes(self.path, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by path: the copy is another handle, open for reading."""
        return FunnelIndex.open, (str(self.path),)

    # ---- what it is

    @property
    def full_dim(self) -> int:
        """Dims of a full embedding."""
        return self._manifest.full_dim

    @property
    def dims(self) -> tuple[int, ...]:
        """Nested dims, full_dim last."""
        return self._manifest.dims

    @property
    def graph_dim(self) -> int:
        """Dims that the graph was built on."""
        return self._manifest.graph_dim

    @property
    def code_dim(self) -> int:
        """Dims whose codes the walk scores."""
        return self._manifest.code_dim

    @property
    def projection(self) -> str:
        """What `graph_dim` and `code_dim` are dims of: "prefix" or "pca"."""
        return self._manifest.projection

    @property
    def metric(self) -> str:
        """How vectors are compared: "cosine" or "ip"."""
        return self._manifest.metric

    @property
    def info(self) -> dict[str, Any]:
        """How the index was built: choices and their reasons, counts, versions."""
        m, s = self._manifest, self._manifest.segments[0]
        return {
            "rows": m.rows, "nodes": s.nodes, "dims": m.dims, "metric": m.metric,
            "dtype": m.dtype, "transform": m.transform, "id_kind": m.id_kind,
            "projection": m.projection, "graph_dim": m.graph_dim,
            "code_dim": m.code_dim, "graph": dict(s.graph), "writer": dict(m.writer),
            "disk_bytes": sum(f.size for f in m.all_files()), **m.notes,
        }  # fmt: skip

    def __repr__(self) -> str:
        if self._open is None:
            return f"FunnelIndex({str(self.path)!r}, closed)"
        m = self._manifest
        return (
            f"FunnelIndex({str(self.path)!r}, rows={m.rows:,}, dims={m.dims}, "
            f"{m.projection} {m.graph_dim}/{m.code_dim}, {m.metric}, {m.dtype}, "
            f"mode={self.mode!r})"
        )
