"""`FunnelIndex`: build, create, open and change an index. A façade, as `handle.py` is.

Checks input, takes the writer's lock, calls one thing, publishes what it made.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from funnel.adapt.goal import check_enough, check_goal, gains_of
from funnel.adapt.tune import tune
from funnel.adapt.tuning import Tuning
from funnel.adapt.workload import workload_of
from funnel.build import build_index
from funnel.compaction import compact
from funnel.errors import (
    CorruptIndexError,
    InvalidArgumentError,
    ReadOnlyError,
    StorageError,
    UncertainCommitError,
    UnknownIdError,
    check_choice,
    check_flag,
    check_share,
    check_whole,
    typed_memory,
)
from funnel.explaining import Explaining
from funnel.filters import check_narrows, is_mask, selection_of
from funnel.merging import Merger, Writing
from funnel.options import (
    MAX_SEED,
    check_habits,
    check_options,
    check_threads,
    columns_of,
    prepare_build,
    prepare_rows,
)
from funnel.progress import Progress
from funnel.reading import id_column, rows_of, sliced_rows
from funnel.store.backup import copy_version
from funnel.store.commit import (
    check_free,
    is_published,
    kept_versions,
    manifest_of,
    new_index,
    newest_manifest,
    publish,
    read_marker,
    remove,
    resolve,
)
from funnel.store.garbage import collect
from funnel.store.ids import check_distinct, check_ids, keys_of
from funnel.store.lock import writer_lock
from funnel.store.manifest import Manifest
from funnel.threads import cpu_count, spare_cpus
from funnel.vectors import check_queries
from funnel.writing import Draft, empty_manifest

DURABILITIES = ("full", "fast")
KEPT_VERSIONS = 100
COLLECT_EVERY = 10  # versions: looking at all of them takes a while


class FunnelIndex(Explaining):
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

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        mode: str,
        durability: str = "full",
        lock_timeout: float = 10.0,
        auto_compact: bool = True,
    ) -> None:
        super().__init__(path, manifest, mode)
        self._durability, self._lock_timeout = durability, lock_timeout
        self._writing = threading.RLock()
        self._draft: Draft | None = None
        self._in_change = False
        self._uncertain = False
        self._merger = Merger() if auto_compact else None

    # ---- build and open

    @classmethod
    def build(
        cls,
        data: Any,
        *,
        ids: Any = None,
        metadata: Any = None,
        path: Any = None,
        dims: Iterable[int] | Literal["auto"] | None = None,
        graph_dim: int | Literal["auto"] | None = None,
        code_dim: int | Literal["auto"] | None = None,
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
        is a sample (at most 256 MB) and, a row, some 20 bytes, 8 M for its links and
        its code; another `builder` than "numba" needs its own vectors twice besides.

        Parameters
        ----------
        data : (n, full_dim) array-like, Arrow data, path or glob, or iterator of these
            Anything with ``__array__``, ``__dlpack__`` or ``__arrow_c_stream__``; a
            ``.npy``, ``.parquet`` or ``.arrow`` file, a directory or a glob of them; an
            iterator of arrays or Arrow batches. An array that changes meanwhile is
            stored as it was when its batch was checked.
        ids : (n,) int64 or str, optional
            Distinct; by default a table's id column, or 0 … n−1.
        metadata : Arrow table, mapping of columns, or data frame, optional
            n rows, kept beside the vectors. A table given as `data` brings its own.
        path : str or path, optional
            A directory that does not exist yet; by default a temporary one, which is
            removed with the handle.
        dims : increasing ints or "auto", optional
            The nested dims the model was trained at; by default 16, 32, … and
            full_dim, which is appended if missing. "auto" keeps of these only the
            prefixes that are worth a stage, measured on the first rows: those that
            hold 99 % of the exact top 10 in 1,000 rows, and in a third fewer than the
            one before. Each costs four bytes a row.
        graph_dim, code_dim : int or "auto", optional
            Dims of the projection that the graph is built on, and that codes hold; by
            default, and with "auto", measured on a sample: `funnel.diagnose` shows the
            figures, and chooses the same. Where graph_dim is a multiple of 64 below
            code_dim, a walk scores these dims alone, and the rest ranks what it found.
        projection : {"auto", "prefix", "pca"}
            What both are dims of: the embedding's own prefix, or its principal axes.
            "auto" measures both and takes the one that needs fewer rows of a shortlist.
        metric : {"cosine", "ip"}
        dtype : {"float32", "float16"}
            As which vectors are stored.
        transform : {"layer_norm"}, optional
            Applied before storing, and to queries; what nomic-embed needs.
        M, ef_construction : int
            HNSW's links a node (2 M on the lowest level) and search width in building.
        builder : {"auto", "hnswlib", "faiss", "numba"}
            "auto" is "numba", which links each code to its nearest with our own
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
        check_flag("overwrite", overwrite)
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
        with typed_memory(), new_index(target, overwrite=overwrite) as folder:
            manifest = build_index(
                folder, source.batches, source.rows, checked, options, reporter
            )
            publish(folder, manifest)
        index = cls(target or folder, manifest, "rw")
        if target is None:
            weakref.finalize(index, remove, folder, os.getpid())
        return index

    @classmethod
    def create(
        cls,
        path: Any,
        full_dim: int,
        *,
        dims: Iterable[int] | Literal["auto"] | None = None,
        graph_dim: int | Literal["auto"] | None = None,
        code_dim: int | Literal["auto"] | None = None,
        projection: str = "auto",
        metric: str = "cosine",
        dtype: str = "float32",
        transform: str | None = None,
        M: int = 16,
        ef_construction: int = 200,
        builder: str = "auto",
        seed: int = 0,
        durability: str = "full",
        lock_timeout: float = 10.0,
        auto_compact: bool = True,
    ) -> FunnelIndex:
        """Make an empty index and return it open for reading and writing.

        The first rows that are added decide the kind of ids and the projection, which
        `compact` chooses again.

        Parameters
        ----------
        path : str or path
            A directory that does not exist yet.
        full_dim : int
            Dims of a full embedding.
        dims, graph_dim, code_dim, projection, metric, dtype, transform
            As in `build`; without rows to measure, ``dims="auto"`` is the default.
        M, ef_construction, builder, seed
            As in `build`.
        durability, lock_timeout, auto_compact
            As in `open`.

        Examples
        --------
        >>> import tempfile, numpy as np
        >>> from funnel import FunnelIndex
        >>> folder = tempfile.mkdtemp()
        >>> with FunnelIndex.create(f"{folder}/notes.funnel", 64) as index:
        ...     rows = index.add(np.eye(64, dtype="float32"))
        ...     best = index.search(np.eye(64, dtype="float32")[3], k=1)
        >>> (rows, int(best.ids[0]))
        (64, 3)
        """
        check_choice("durability", durability, DURABILITIES)
        target, timeout = resolve(path), check_share("lock_timeout", lock_timeout)
        check_flag("auto_compact", auto_compact)
        options = check_options(
            check_whole("full_dim", full_dim), dims=dims, graph_dim=graph_dim,
            code_dim=code_dim, projection=projection, metric=metric, dtype=dtype,
            transform=transform, M=M, ef_construction=ef_construction,
            builder=builder, seed=seed, threads=None, on_bad_vectors="error",
        )  # fmt: skip
        manifest = empty_manifest(options)
        with new_index(target) as folder:
            publish(folder, manifest, durability=durability)
        return cls(target, manifest, "rw", durability, timeout, auto_compact)

    @classmethod
    def open(
        cls,
        path: Any,
        mode: str = "r",
        *,
        version: int | None = None,
        durability: str = "full",
        lock_timeout: float = 10.0,
        auto_compact: bool = True,
    ) -> FunnelIndex:
        """Open an index: maps files, copies nothing, takes milliseconds.

        Parameters
        ----------
        path : str or path
        mode : {"r", "rw"}
            A reader takes no lock and needs no right to write.
        version : int, optional
            An older version, to be read as it was; by default the newest, and newer
            ones as they come.
        durability : {"full", "fast"}
            "fast" leaves it to the system when changes reach the disk: a power cut may
            take the last ones or leave an index that does not open, a killed process
            takes none.
        lock_timeout : float
            Seconds that a change waits for another writer.
        auto_compact : bool
            Merge segments after changes, in a thread: past some 4,000 rows small ones
            get a graph, and all is made anew when it has tripled or a fifth is deleted.

        Raises
        ------
        IndexNotFoundError, NotAnIndexError, FormatVersionError, CorruptIndexError
            The third also where a newer version of funnel must do the writing.
        UnknownVersionError
            Naming the versions that are kept.
        """
        folder = resolve(path)
        check_choice("mode", mode, ("r", "rw"))
        check_choice("durability", durability, DURABILITIES)
        timeout = check_share("lock_timeout", lock_timeout)
        check_flag("auto_compact", auto_compact)
        while version is None:
            manifest = newest_manifest(folder)
            if mode == "rw":
                manifest.check_writer(folder)
            try:
                return cls(folder, manifest, mode, durability, timeout, auto_compact)
            except (CorruptIndexError, StorageError):
                # Its files may have been removed meanwhile, for a newer version.
                if kept_versions(folder)[-1:] == [manifest.version]:
                    raise
        if mode != "r":
            raise InvalidArgumentError("an older version is opened for reading only")
        manifest = manifest_of(folder, check_whole("version", version))
        index = cls(folder, manifest, mode, durability, timeout)
        index.follows = False
        return index

    # ---- change

    def add(
        self,
        data: Any,
        *,
        ids: Any = None,
        metadata: Any = None,
        progress: Any = False,
        on_bad_vectors: str = "error",
        vector_column: str | None = None,
        id_column: str | None = None,
    ) -> int:
        """Add rows and return how many: durable, and seen by this handle, at once.

        Costs a few files, whatever the size of the index: new rows are scanned until
        they are many or `compact` is called.

        Parameters
        ----------
        data, ids, metadata, vector_column, id_column
            As in `build`. Without ids, in an index without ids, rows get the next
            numbers. Metadata may bring new columns, which are null in older rows.
        progress : bool, callable or tqdm class
        on_bad_vectors : {"error", "drop"}

        Raises
        ------
        DuplicateIdError
            If an id is there already, or given twice.
        ReadOnlyError, LockedError, StorageError, …
            Nothing is changed then.
        """
        return self._insert(
            data, ids, metadata, progress, on_bad_vectors, vector_column, id_column,
            upsert=False,
        )  # fmt: skip

    def upsert(
        self,
        data: Any,
        *,
        ids: Any = None,
        metadata: Any = None,
        progress: Any = False,
        on_bad_vectors: str = "error",
        vector_column: str | None = None,
        id_column: str | None = None,
    ) -> int:
        """Do as `add`, but rows whose ids are there already replace those.

        The old row is gone and the new one there in one version: nobody sees both, or
        neither.
        """
        return self._insert(
            data, ids, metadata, progress, on_bad_vectors, vector_column, id_column,
            upsert=True,
        )  # fmt: skip

    def _insert(
        self, data: Any, ids: Any, metadata: Any, progress: Any, on_bad_vectors: str,
        vector_column: str | None, id_column: str | None, *, upsert: bool,
    ) -> int:  # fmt: skip
        self._check_writable()
        drop = check_choice("on_bad_vectors", on_bad_vectors, ("error", "drop"))
        reporter = Progress(progress)
        if isinstance(data, list | tuple) and not data:
            data = np.empty((0, self.full_dim), np.float32)
        source, checked = prepare_rows(data, ids, metadata, vector_column, id_column)
        with self._changing() as draft:
            return draft.add(
                source, checked, upsert=upsert, drop_bad=drop == "drop",
                progress=reporter,
            )  # fmt: skip

    def delete(self, ids: Any = None, *, filter: Any = None) -> int:
        """Delete rows and return how many there were; unknown ids are ignored.

        Their bytes stay on disk until `compact` is called and no reader has them open.

        Parameters
        ----------
        ids : sequence of int or str
            Or else
        filter : dict, Arrow expression or mask
            As in `search`, but a dict must say something of a column.

        Raises
        ------
        InvalidArgumentError
            If every row passes the dict whatever it holds, as ``{}``.
        """
        self._check_writable()
        if (ids is None) == (filter is None):
            raise InvalidArgumentError("delete() takes either ids or a filter")
        check_narrows(filter)
        if ids is None and is_mask(filter):  # of the rows as this handle shows them
            shown = self._shown()
            ids = id_column(shown, selection_of(shown, filter).listed())
        checked = None if ids is None else check_ids(ids)
        with self._changing() as draft:
            if checked is None:
                rows = selection_of(draft.snapshot, filter).listed()
            else:
                rows = rows_of(draft.snapshot, checked)
            return draft.delete(np.unique(rows[rows >= 0]))

    def update_metadata(self, ids: Any, metadata: Any) -> int:
        """Give rows other metadata and return how many; vectors are not touched.

        Rewrites the metadata files of the segments that hold them.

        Parameters
        ----------
        ids : sequence of int or str
            Distinct.
        metadata : Arrow table, mapping of columns, or data frame
            A row for each id. Columns that are not in it keep their values; new ones
            are null in all other rows.

        Raises
        ------
        UnknownIdError
            Naming the first id that the index does not hold; nothing is changed then.
        """
        self._check_writable()
        checked, table = check_ids(ids), columns_of(metadata)
        check_distinct(keys_of(checked), checked)
        if len(table) != len(checked):
            raise InvalidArgumentError(
                f"metadata has {len(table)} rows for {len(checked)} ids"
            )
        with self._changing() as draft:
            rows = rows_of(draft.snapshot, checked)
            if (rows < 0).any():
                one = checked[int(np.flatnonzero(rows < 0)[0])]
                raise UnknownIdError(f"no id {one!s} in {self.path}")
            return draft.update_metadata(rows, table)

    def slice(self, dim: int, path: Any, **how: Any) -> FunnelIndex:
        """Build a smaller index from the first `dim` dims of all rows, and return it.

        What a model would give for shorter embeddings, without embedding again.

        Parameters
        ----------
        dim : int
        path : str or path
            A directory that does not exist yet.
        **how
            As in `build`; by default the metric, dtype and nested dims of this index.
        """
        snapshot = self._snapshot()
        m, width = snapshot.manifest, check_whole("dim", dim, 1, self.full_dim)
        given = {
            "dims": [d for d in m.dims if d < width] or None, "metric": m.metric,
            "dtype": m.dtype,
        }  # fmt: skip
        return FunnelIndex.build(
            sliced_rows(snapshot, width), path=path, **(given | how)
        )

    def compact(
        self,
        *,
        keep_versions: int = 1,
        threads: int | None = None,
        progress: Any = False,
    ) -> None:
        """Make one segment of all rows: a new projection and a new graph.

        Takes as long as a build. Other writers wait, readers go on with their version.

        Parameters
        ----------
        keep_versions : int
            How many of the newest versions are kept; files that only older ones need
            are removed.
        threads : int, optional
            That build the graph; by default all CPUs but one, which readers have.
        progress : bool, callable or tqdm class
        """
        self._check_writable()
        keep = check_whole("keep_versions", keep_versions)
        building = spare_cpus() if threads is None else check_threads(threads)
        reporter = Progress(progress)
        with self._changing() as draft:
            if len(draft.manifest.segments) > 1 or len(draft.snapshot.deleted):
                draft.threads = building
                compact(draft, reporter)
        with self._writing:
            if self._draft is None:
                with self._alone():
                    collect(self.path, keep)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Self]:
        """Make several changes one: all or none of them, in one version.

        Other writers wait, other threads of this handle too. This handle's searches see
        the changes when the block ends. One that fails within the block has no effect:
        if the error is caught there, the others hold.

        Raises
        ------
        InvalidArgumentError
            Within another transaction of this handle.

        Examples
        --------
        >>> import numpy as np
        >>> from funnel import FunnelIndex
        >>> rows = np.eye(8, dtype="float32")
        >>> with FunnelIndex.build(rows[:4], ids=["a", "b", "c", "d"]) as index:
        ...     with index.transaction():
        ...         gone = index.delete(["a", "b"])
        ...         added = index.add(rows[4:6], ids=["e", "f"])
        ...     (gone, added, len(index))
        (2, 2, 4)
        """
        self._check_writable()
        with self._writing:
            if self._draft is not None:
                raise InvalidArgumentError(
                    "transaction() within another change: end that one first"
                )
            with self._next_version():
                yield self

    def tune(
        self,
        queries: Any = None,
        qrels: Any = None,
        *,
        target_knn_recall: float | None = None,
        target_ndcg: float | None = None,
        budget_ms: float | None = None,
        confidence: float | None = None,
        k: int = 10,
        seed: int = 0,
        progress: Any = False,
    ) -> Tuning:
        """Choose how much effort a search is worth, and search so from now on.

        Settings of all knobs are measured on half of the queries; the other half says
        which of them is sure of the target on queries like these. All are stored:
        ``search(effort=…)`` and ``search(target=…)`` choose among them. Is one change
        of the index. Takes seconds, most of them for the exact answers.

        Parameters
        ----------
        queries : (q, full_dim) array-like, optional
            Like those to come, and not to be judged by later. By default 2,000 rows of
            the index (1,000 of more than half a billion numbers), each of which is no
            answer to itself: they are nearer to it than most queries are.
        qrels : sequence of dict, optional
            Of each query, id → relevance: for `target_ndcg`, and for the report.
        target_knn_recall : float, optional
            Mean knn_recall@k, by default 0.99.
        target_ndcg : float, optional
            Mean ndcg@k, as a share of exact search's: of no query does more than 1
            count, and those that exact search answers with nothing relevant are left
            out.
        budget_ms : float, optional
            Instead of a target: milliseconds that a query may take, one thread, in a
            batch.
        confidence : float, optional
            By default the target holds on average over sets of queries (conformal risk
            control, arXiv:2208.02814). With 0.9, at most a tenth of sets lead to a
            level that misses it (learn then test, arXiv:2110.01052).
        k : int
            Answers a query, or all rows. A search for more takes lists as much longer.
        seed : int
            Draws rows where no queries are given.
        progress : bool, callable or tqdm class

        Returns
        -------
        Tuning
            What was chosen; prints as a table, ``plot()`` draws it.

        Raises
        ------
        InvalidArgumentError
            If there are fewer than 20 queries (for `target_ndcg`: that exact search
            answers with something relevant), more than one target, or no rows.
        DimensionError, NonFiniteError, ZeroVectorError
            If queries do not fit the index.
        InvalidTypeError
            If `qrels` is no sequence of dicts.
        ReadOnlyError, LockedError
            As for every change.

        References
        ----------
        Angelopoulos et al. 2022, arXiv:2208.02814, section 2 (risk control);
        Angelopoulos et al. 2021, arXiv:2110.01052, sections 2 and 3 (learn then test).
        """
        self._check_writable()
        snapshot, bar = self._snapshot(), Progress(progress)
        goal = check_goal(target_knn_recall, target_ndcg, budget_ms, confidence, qrels)
        seed = check_whole("seed", seed, 0, MAX_SEED)
        m, rows = snapshot.manifest, None
        if queries is not None:
            rows, _ = check_queries(queries, m.full_dim, m.metric, m.transform)
        check_enough(m.rows if rows is None else len(rows), m.rows)
        k = min(check_whole("k", k, 1, 2**31 - 1), m.rows - (rows is None))
        gains = None
        if qrels is not None:
            if rows is None:
                raise InvalidArgumentError("qrels are of queries: give those too")
            gains = gains_of(snapshot, qrels, len(rows))
        with bar.step("exact answers", None) as advance:
            work = workload_of(snapshot, rows, k, seed, cpu_count())
            advance(len(work.queries))
        found = tune(work, goal, gains, bar)
        with self._changing() as draft:
            plan = replace(draft.manifest, plan=found.tuned.to_json())
            draft.put(plan, draft.snapshot.deleted)
        return found

    def versions(self) -> list[int]:
        """Return the numbers of the versions that are kept, rising."""
        self._snapshot()
        return kept_versions(self.path)

    def backup(self, path: Any) -> None:
        """Copy the version that is open to a new index at `path`, durably.

        Raises
        ------
        IndexExistsError
            If something is there.
        """
        manifest, target = self._snapshot().manifest, resolve(path)
        manifest.check_writer(self.path)
        with new_index(target) as folder:
            copy_version(self.path, manifest, folder)

    def _check_writable(self) -> None:
        self._snapshot()
        if self.mode != "rw":
            raise ReadOnlyError(
                f"the index at {self.path} is open for reading: open it with mode='rw'"
            )
        if self._uncertain:
            raise UncertainCommitError(
                f"an earlier change of {self.path} may not be durable: open it again"
            )

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Draft]:
        """Yield the next version for one change: the transaction's, if there is one."""
        with self._writing:
            if self._in_change:  # by its data or its progress
                raise InvalidArgumentError(
                    "a change within another change: wait until that one has ended"
                )
            self._in_change = True
            try:
                with typed_memory():
                    if self._draft is not None:
                        yield self._draft
                    else:
                        with self._next_version() as draft:
                            yield draft
            finally:
                self._in_change = False

    @contextlib.contextmanager
    def _next_version(self) -> Iterator[Draft]:
        """Yield the next version to change; publish it when the block ends well."""
        with self._alone():
            draft = self._draft = Draft(self._shown(), self.path, cpu_count())
            try:
                yield draft
                if draft.changed:
                    self._publish(draft)
            except BaseException:
                # What is published is never taken back, whatever came after.
                if draft.finished and is_published(self.path, draft.manifest):
                    self._uncertain = True
                else:
                    draft.abandon()
                raise
            finally:
                self._draft = None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the writer's lock, and show the newest version, if it is ours to change.

        Also holds what keeps other threads of this handle waiting.
        """
        with self._writing:
            read_marker(self.path)  # a lock would make the directory anew
            with writer_lock(self.path, self._lock_timeout):
                self.refresh()
                self._shown().manifest.check_writer(self.path)
                yield

    def _publish(self, draft: Draft) -> None:
        """Make a draft the newest version, and show it."""
        known = draft.base.manifest.all_files()
        manifest = draft.finish()
        publish(self.path, manifest, known, durability=self._durability)
        draft.forget()
        self._show(manifest, draft.snapshot.segments)
        if manifest.version % COLLECT_EVERY == 0:
            with contextlib.suppress(StorageError):  # another time
                collect(self.path, KEPT_VERSIONS)
        if self._merger is not None:
            self._merger.look(Writing(self.path, self._shown, self._changing))

    def close(self) -> None:
        """Let go of the files; a second call does nothing.

        What is being merged is given up. Not within a transaction.
        """
        if self._writing.acquire(blocking=False):  # else another thread has it
            within = self._draft is not None
            self._writing.release()
            if within:
                raise InvalidArgumentError("close() within a transaction: end it first")
        if self._merger is not None:
            self._merger.stop()
        with self._writing:
            super().close()
        if self._merger is not None:
            self._merger.wait()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by path: the copy is another handle, open for reading."""
        version = None if self.follows else self._manifest.version
        return _reopen, (str(self.path), version)


def _reopen(path: str, version: int | None) -> FunnelIndex:
    """Open what a pickled handle showed."""
    return FunnelIndex.open(path, version=version)
