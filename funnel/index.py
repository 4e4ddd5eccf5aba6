"""`FunnelIndex`: build, create, open, tune and copy an index. A façade.

Searches are in `handle.py`, what explains them in `explaining.py`, changes of rows in
`changing.py`: each a part of the same class.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from funnel.adapt.goal import check_enough, check_goal, gains_of
from funnel.adapt.tune import tune
from funnel.adapt.tuning import Tuning
from funnel.adapt.workload import workload_of
from funnel.build import build_index
from funnel.changing import Changing
from funnel.errors import (
    CorruptIndexError,
    InvalidArgumentError,
    StorageError,
    check_choice,
    check_flag,
    check_share,
    check_whole,
    typed_memory,
)
from funnel.options import (
    MAX_SEED,
    check_habits,
    check_options,
    prepare_build,
)
from funnel.progress import Progress
from funnel.reading import sliced_rows
from funnel.store.backup import copy_version
from funnel.store.commit import kept_versions, manifest_of, newest_manifest, publish
from funnel.store.place import check_free, new_index, remove, resolve
from funnel.threads import cpu_count
from funnel.vectors import check_queries
from funnel.writing import empty_manifest

DURABILITIES = ("full", "fast")


class FunnelIndex(Changing):
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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by path: the copy is another handle, open for reading."""
        version = None if self.follows else self._manifest.version
        return _reopen, (str(self.path), version)


def _reopen(path: str, version: int | None) -> FunnelIndex:
    """Open what a pickled handle showed."""
    return FunnelIndex.open(path, version=version)
