"""An open index, as far as it reads: search, rows, what it is.

A façade: checks input, calls one thing, returns. The work is in `search.py`,
`reading.py` and `store/`; what writes is in `changing.py`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from funnel.adapt.uncertainty import uncertainty_of
from funnel.cascade import Cascade
from funnel.errors import (
    ClosedError,
    ConflictError,
    FunnelError,
    check_choice,
    check_number,
    check_whole,
)
from funnel.filters import is_mask, selection_of
from funnel.options import check_habits
from funnel.planning import check_search
from funnel.reading import find_rows, prefix_of, stream_rows, table_of
from funnel.results import Hits
from funnel.search import search
from funnel.snapshot import Snapshot
from funnel.store.commit import kept_versions, manifest_of, read_marker
from funnel.store.disk import reading
from funnel.store.manifest import Manifest
from funnel.store.segment import SegmentFiles
from funnel.store.verify import check_hashes
from funnel.threads import Threads
from funnel.vectors import check_queries

REFRESH_S = 1.0  # a handle looks for newer versions as often


class Handle:
    """One version of an index, open, and newer ones as they come."""

    def __init__(self, path: Path, manifest: Manifest, mode: str) -> None:
        self.path, self.mode, self._threads = path, mode, Threads()
        self._looked = time.monotonic()
        self.follows = True  # newer versions, as they come
        self._showing = threading.Lock()
        with reading(path):
            self._open: Snapshot | None = Snapshot(path, manifest, self._threads)
        self._manifest = manifest  # outlives `close`

    def close(self) -> None:
        """Let go of the files; a second call does nothing."""
        with self._showing:
            self._open = None
        self._threads.close()

    def __enter__(self) -> Self:
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
        """Return the version to read: once a second, after a look for a newer one."""
        if self.follows and time.monotonic() - self._looked > REFRESH_S:
            with contextlib.suppress(FunnelError, OSError):  # the old one will do
                self.refresh()
        return self._shown()

    def _shown(self) -> Snapshot:
        """Return the version that is open."""
        snapshot = self._open
        if snapshot is None:
            raise ClosedError(f"the index at {self.path} was closed: open it again")
        return snapshot

    def refresh(self) -> bool:
        """Look for a newer version and open it; return whether there was one.

        A handle that follows the newest version also does so by itself, once a second.

        Raises
        ------
        ConflictError
            If another index has taken this one's place.
        """
        self._looked = time.monotonic()
        now = self._shown().manifest
        with reading(self.path):
            if read_marker(self.path) != now.uuid:
                raise ConflictError(
                    f"another index has taken the place of {self.path}: open it again"
                )
            newest = kept_versions(self.path)[-1:]
            if not newest or newest[0] <= now.version:
                return False
            self._show(manifest_of(self.path, newest[0]))
        return True

    def _show(
        self, manifest: Manifest, segments: Iterable[SegmentFiles] | None = None
    ) -> None:
        """Open a version in place of an older one, unless the handle was closed.

        `segments` are open already; by default those of the version that is shown.
        """
        before = self._shown()
        held = before.segments if segments is None else segments
        known = {segment.segment.id: segment for segment in held}
        with reading(self.path):
            snapshot = Snapshot(self.path, manifest, self._threads, known)
        with self._showing:
            if self._shown().manifest.version < manifest.version:
                self._open, self._manifest = snapshot, manifest

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
        effort: float | None = None,
        target: float | None = None,
        policy: str | None = None,
        budget_ms: float | None = None,
        max_bytes: int | None = None,
        mode: str = "funnel",
        filter: Any = None,
        min_score: float | None = None,
        threads: int | None = None,
        trace: bool = False,
        uncertainty: bool = False,
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
            Rows that the walk hands to the cascade; by default what `tune` chose, or
            max(200, 2 k).
        cascade : Cascade, optional
            How the shortlist is reranked; by default what suits the projection.
        ef_search : int, optional
            Length of the walk's list; by default `shortlist`.
        slack : float, optional
            End a walk early: once the next candidate is more than ``1 + slack`` times
            as far from the query as the walk's k-th best. Distances are 1 − cosine
            of the codes. Easy queries end sooner than hard ones: with a long list, the
            same recall for fewer rows (arXiv:2505.15636). By default it never does.
        effort, target : float, optional
            Of an index that was tuned (`FunnelIndex.tune`): one dial for all knobs,
            from 0, the cheapest level, to 1, an exact scan; or the cheapest level that
            reaches a target of the measure that was tuned for, on average, whatever
            confidence `tune` was asked for. By default the level that `tune` chose.
        policy : {"fixed", "adaptive", "certified"}, optional
            How rows are dropped. "fixed": counts, those given or the defaults.
            "adaptive": as tuned (the default of a tuned index). "certified": the whole
            shortlist is reranked best first until bounds prove that no row left can be
            an answer (Cauchy–Schwarz on what lies outside the projection): the same
            answers as ``mode="rerank"`` with the same shortlist, for fewer rows.
        budget_ms, max_bytes : float, int, optional
            Of each query: after the walk no stage begins once so many milliseconds have
            passed, or if it might read more bytes in all; ``hits.complete`` tells. For
            a scan that `tune` chose, the dearest walk is taken. A query that the
            projection says nothing of is scanned whatever that takes.
        mode : {"funnel", "rerank", "prefix_ann", "prefix", "exact"}
            "funnel": walk, then the cascade. "rerank": walk, then full width at once
            (the MRL paper's adaptive retrieval). "prefix_ann": walk alone. "prefix":
            every row at `code_dim`. "exact": every row at full width.
        filter : dict, Arrow expression, mask or list of ids, optional
            Which rows may be answers. A dict as MongoDB has it, of metadata columns and
            ``id``: ``{"lang": "en", "year": {"$gte": 2020}}``, with $eq $ne $gt $gte
            $lt $lte $in $nin $exists $contains $and $or $not. A mask has a bool for
            each row, in the order of `to_arrow`. What passes is kept for later.
        min_score : float, optional
            Leave out answers that score less.
        threads : int, optional
            Threads that share a batch; by default all CPUs.
        trace : bool
            Return what each step read and took.
        uncertainty : bool
            Return how much the rank of each hit moves over the last dims: of a hit, the
            mean distance of its rank among the hits by each of the two nested dims
            below the full width from its final rank, over the largest there can be
            (k − 1). 0: the last dims agree on its place. Takes some µs a hit.
        **habits
            Names that other libraries use; refused with the name that we use.

        Returns
        -------
        Hits
            ``ids`` and ``scores`` of shape (q, min(k, matches)), or 1-D for a 1-D
            query; best first, higher scores are better. Under "cosine" a score is the
            cosine, under "ip" the inner product; of codes, its approximation. Where
            `min_score` leaves fewer, ids are −1 (None of text) and scores −inf behind
            the first ``counts``.

        Raises
        ------
        DimensionError, NonFiniteError, ZeroVectorError, CascadeError, …
            Naming what came and what was needed.
        InvalidArgumentError
            If `effort`, `target` or ``policy="adaptive"`` is asked of an index that was
            not tuned, knobs exclude each other, `slack` is asked under "ip", or a
            budget of a scan.

        References
        ----------
        Kusupati et al. 2022, arXiv:2205.13147, section 4.3.1 (adaptive and funnel
        retrieval); Malkov & Yashunin 2018, arXiv:1603.09320, algorithm 2 (the walk).
        """
        check_habits(habits, "search")
        # A mask is of the rows that the handle shows, not of a version to come.
        masked = filter is not None and is_mask(filter)
        snapshot = self._shown() if masked else self._snapshot()
        plan = snapshot.remember(
            check_search,
            k,
            shortlist,
            cascade,
            ef_search,
            mode,
            threads,
            slack,
            effort,
            target,
            policy,
            budget_ms,
            max_bytes,
        )
        m, began = snapshot.manifest, time.perf_counter()
        selection = snapshot.everything
        if filter is not None:
            selection = selection_of(snapshot, filter)
        filter_us = (time.perf_counter() - began) * 1e6
        rows_in, single = check_queries(queries, m.full_dim, m.metric, m.transform)
        rows, scores, cost, whole = search(snapshot, rows_in, plan, trace, selection)
        if min_score is not None:
            few = scores < check_number("min_score", min_score)
            rows, scores = np.where(few, -1, rows), np.where(few, -np.inf, scores)
        if cost is not None and filter is not None:
            cost = cost.after_filter(m.rows, selection.rows, filter_us)
        ids = snapshot.ids(rows)
        unsure = uncertainty_of(snapshot, rows_in, rows) if uncertainty else None
        if single:
            ids, scores = ids[0], scores[0]
            unsure = None if unsure is None else unsure[0]
        return Hits(ids, scores, cost if trace else None, m.version, unsure, whole)

    def similar(self, identifier: Any, k: int = 10, **how: Any) -> Hits:
        """Return the `k` rows that are most like a stored one, without that one.

        Parameters
        ----------
        identifier : int or str
            Id of the stored row.
        k : int
        **how
            As in `search`.

        Raises
        ------
        UnknownIdError
        """
        snapshot = self._snapshot()
        row = find_rows(snapshot, [identifier], self.path)
        stored = snapshot.vectors(row)[0].astype(np.float32)
        for name in {"shortlist", "cascade"} & how.keys():
            how[name] = _one_more(how[name])
        hits = self.search(stored, check_whole("k", k) + 1, **how)
        others = np.array([one != identifier for one in hits.ids.tolist()], bool)
        others[k:] &= not others[:k].all()
        unsure = hits.uncertainty
        return replace(
            hits,
            ids=hits.ids[others],
            scores=hits.scores[others],
            uncertainty=None if unsure is None else unsure[others],
        )

    def warmup(self) -> float:
        """Compile, or load from the cache, all that a search needs; return seconds."""
        began = time.perf_counter()
        query = np.ones((1, self.full_dim), np.float32)
        for mode in ("funnel", "exact"):
            self.search(query, k=1, mode=mode, threads=1)
        return time.perf_counter() - began

    # ---- read

    def vectors(self, dim: int | None = None) -> npt.NDArray[Any]:
        """Return the first `dim` dims of all rows, as they are stored.

        A view of the map, nothing copied, where the rows are of one segment, none is
        deleted and `dim` is within one column block; else a copy.

        Parameters
        ----------
        dim : int, optional
            By default all.

        Returns
        -------
        (n, dim) ndarray, float32 or float16
            In the order of `to_arrow`; not normalised.
        """
        snapshot = self._snapshot()
        full = snapshot.manifest.full_dim
        width = full if dim is None else check_whole("dim", dim, 1, full)
        return prefix_of(snapshot, width)

    def to_batches(self, vectors: bool = True) -> pa.RecordBatchReader:
        """Return a reader of all rows of this version, a batch at a time."""
        return stream_rows(self._snapshot, vectors)

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
        version = self._snapshot().manifest.version
        manifest = manifest_of(self.path, version)
        if level == "full":
            check_hashes(self.path, manifest)

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
        """Dims that codes hold."""
        return self._manifest.code_dim

    @property
    def walk_dim(self) -> int:
        """Dims of a code that the walk scores; the rest ranks what it found."""
        return self._manifest.walk_dim

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
        m = self._manifest
        graph = m.segments[0].graph if m.segments else {}
        return {
            "version": m.version, "rows": m.rows, "segments": len(m.segments),
            "deleted": sum(s.rows for s in m.segments) - m.rows,
            "nodes": sum(s.nodes for s in m.segments), "dims": m.dims,
            "metric": m.metric,
            "dtype": m.dtype, "transform": m.transform, "id_kind": m.id_kind,
            "projection": m.projection, "graph_dim": m.graph_dim,
            "code_dim": m.code_dim, "walk_dim": m.walk_dim, "graph": dict(graph),
            "writer": dict(m.writer),
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


def _one_more(keeps: Any) -> Any:
    """Return a shortlist or a cascade that keeps one row more."""
    if isinstance(keeps, Cascade):
        return Cascade([(stage.dim, stage.keep + 1) for stage in keeps])
    return keeps + 1 if isinstance(keeps, int) else keeps
