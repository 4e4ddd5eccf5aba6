"""Changes of an index by its handle: what every change has in common, and each of them.

Checks input, takes the writer's lock, calls one thing, publishes what it made.
`FunnelIndex` (`index.py`) builds on this.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from funnel.compaction import compact
from funnel.errors import (
    InvalidArgumentError,
    ReadOnlyError,
    StorageError,
    UncertainCommitError,
    UnknownIdError,
    check_choice,
    check_whole,
    typed_memory,
)
from funnel.explaining import Explaining
from funnel.filters import check_narrows, is_mask, selection_of
from funnel.merging import Merger, Writing
from funnel.options import check_threads, columns_of, prepare_rows
from funnel.progress import Progress
from funnel.reading import id_column, rows_of
from funnel.store.commit import is_published, publish, read_marker
from funnel.store.garbage import collect
from funnel.store.ids import check_distinct, check_ids, keys_of
from funnel.store.lock import writer_lock
from funnel.store.manifest import Manifest
from funnel.threads import cpu_count, spare_cpus
from funnel.writing import Draft

KEPT_VERSIONS = 100
COLLECT_EVERY = 10  # versions: looking at all of them takes a while


class Changing(Explaining):
    """The half of a handle that changes the index."""

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
