"""Pass 1: stream a source's rows to the vector blocks; keep a sample, hashes and ids.

Reads the source once. What is derived from the rows is pass 2's matter (`segment.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from funnel.build.nodes import row_hashes
from funnel.build.options import Options
from funnel.build.sample import Reservoir
from funnel.errors import InvalidArgumentError, InvalidTypeError
from funnel.kernels.types import Floats, Rows
from funnel.progress import Progress
from funnel.sources import Batch
from funnel.store.ids import Ids, check_distinct, check_ids, keys_of, write_lookup
from funnel.store.matrix import FileEntry, MatrixWriter, write_matrix
from funnel.store.tables import TableWriter
from funnel.vectors import (
    apply_transform,
    as_stored,
    bad_rows,
    check_rows,
    raise_bad_rows,
)


def vector_blocks(kind: str, full_dim: int) -> tuple[int, ...]:
    """Return where the column blocks start, and full_dim.

    Over the own prefix a cascade reads short prefixes of many rows and the rest of
    few: they lie apart, so that short ones share pages with each other. Over principal
    axes only whole rows are read: in one block that is a third faster.
    """
    inner = [edge for edge in (128, 256, 512) if edge * 2 <= full_dim]
    if kind == "pca" or not inner:
        return 0, full_dim
    return 0, inner[-1], full_dim


class Ingest:
    """Writes what a source brings: vectors, ids, metadata.

    Parameters
    ----------
    folder : Path
        Where data files go.
    name : str
        How their names begin.
    options : Options
    edges : tuple of int
        First dim of each column block, then full_dim.
    """

    def __init__(
        self, folder: Path, name: str, options: Options, edges: tuple[int, ...]
    ) -> None:
        self._folder, self._name, self.options = folder, name, options
        self.files: dict[str, FileEntry] = {}
        self.edges = edges
        self.rows = self.seen = 0
        self.sample = Reservoir(options.full_dim, options.seed)
        self._writers: list[MatrixWriter] = []
        self._other = ThreadPoolExecutor(1)  # stores while this thread goes on
        self._finished: dict[str, Future[FileEntry]] = {}
        self._metadata = TableWriter(self.path("metadata"))
        self._text_ids = TableWriter(self.path("ids"))
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._kept: list[Rows] = []
        # Of a batch that is checked, and of the one before it, which is stored.
        self._copies: list[Floats] = [np.empty((0, options.full_dim), np.float32)] * 2
        self._ids: list[Ids] = []

    @property
    def schema(self) -> pa.Schema:
        """Return the metadata's columns."""
        return self._metadata.schema

    def path(self, role: str) -> Path:
        """Return where the file of this role goes."""
        return self._folder / f"{self._name}.{role}.arrow"

    def write_rows(
        self, batches: Iterator[Batch], total: int | None, progress: Progress
    ) -> None:
        """Stream all batches to disk: one is stored while the next is checked."""
        for i, (start, stop) in enumerate(itertools.pairwise(self.edges)):
            path, width = self.path(f"vectors{i}"), stop - start
            writer = MatrixWriter(path, "vector", width, self.options.dtype)
            self._writers.append(writer)
        with progress.step("writing", total) as advance:
            stored: Future[None] | None = None
            for batch in batches:
                vectors = self._clean(batch)
                if stored is not None:
                    stored.result()
                stored = self._other.submit(self._store, vectors)
                self.sample.offer(vectors)
                self._hashes.append(row_hashes(vectors))
                advance(len(batch.vectors))
            if stored is not None:
                stored.result()
        if not self.rows:
            raise InvalidArgumentError("there are no embeddings to build from")
        for i, writer in enumerate(self._writers):
            writer.flush()
            self._finished[f"vectors{i}"] = self._other.submit(writer.finish)
        if self._metadata.rows:
            self.files["metadata"] = self._metadata.finish()

    def _store(self, vectors: Floats) -> None:
        for i, writer in enumerate(self._writers):
            writer.append(vectors[:, self.edges[i] : self.edges[i + 1]])

    def blocks(self) -> list[npt.NDArray[Any]]:
        """Return the vector blocks, mapped."""
        return [writer.flushed() for writer in self._writers]

    def hashes(self) -> npt.NDArray[np.uint64]:
        """Return a hash of each stored row."""
        return np.concatenate(self._hashes)

    def _clean(self, batch: Batch) -> Floats:
        """Check a batch, leave out its bad rows, and take its ids and metadata."""
        o = self.options
        vectors = check_rows(batch.vectors, "embeddings", o.full_dim)
        if np.may_share_memory(vectors, batch.vectors):
            vectors = self._own(vectors)  # what is checked is what is stored
        vectors = as_stored(apply_transform(vectors, o.transform), o.dtype)
        bad = bad_rows(vectors, zero_is_bad=o.metric == "cosine")
        if len(bad) and not o.drop_bad:
            raise_bad_rows(vectors, bad, "embeddings", o.dtype, self.seen)
        keep = np.setdiff1d(np.arange(len(vectors)), bad)
        self._kept.append(keep + self.seen)
        self._take_ids(batch, keep)
        self._take_columns(batch, keep)
        self.seen += len(vectors)
        self.rows += len(keep)
        return vectors[keep] if len(bad) else vectors

    def _own(self, rows: Floats) -> Floats:
        """Copy rows to memory that a later batch takes over: new pages cost more."""
        self._copies.reverse()
        if len(self._copies[0]) < len(rows) or self._copies[0].dtype != rows.dtype:
            self._copies[0] = np.empty(rows.shape, rows.dtype)
        copy = self._copies[0][: len(rows)]
        np.copyto(copy, rows)
        return copy

    def _take_ids(self, batch: Batch, keep: Rows) -> None:
        if (batch.ids is None) != (not self._ids) and self.seen:
            raise InvalidArgumentError(
                f"some rows have an id and others have none, from row {self.seen} on"
            )
        if batch.ids is None:
            return
        ids = check_ids(batch.ids)
        if self._ids and type(ids) is not type(self._ids[0]):
            raise InvalidTypeError(f"ids change from int to str at row {self.seen}")
        self._ids.append(_take(ids, keep))

    def _take_columns(self, batch: Batch, keep: Rows) -> None:
        names = [] if batch.columns is None else batch.columns.column_names
        if self.seen and bool(names) != bool(self._metadata.names):
            raise InvalidArgumentError(
                f"some rows have metadata ({', '.join(names or self._metadata.names)})"
                f" and others have none, from row {self.seen} on"
            )
        if batch.columns is not None:
            whole = len(keep) == len(batch.vectors)
            self._metadata.append(batch.columns if whole else batch.columns.take(keep))

    def write_ids(self, ids: Ids) -> str:
        """Store ids and their lookup; return the kind of ids."""
        keys = keys_of(ids)
        check_distinct(keys, ids)
        if isinstance(ids, np.ndarray):
            self.files["ids"] = write_matrix(self.path("ids"), "id", ids)
        else:
            self._text_ids.append(pa.table({"id": ids}))
            self.files["ids"] = self._text_ids.finish()
        self.files["lookup"] = write_lookup(self.path("lookup"), keys)
        return "int64" if isinstance(ids, np.ndarray) else "text"

    def kept_ids(self, given: Ids | None) -> Ids | None:
        """Return the ids of all kept rows: those given, the source's, or None."""
        dropped = self.rows != self.seen
        if given is not None:
            if len(given) != self.seen:
                raise InvalidArgumentError(
                    f"there are {len(given)} ids for {self.seen} embeddings"
                )
            return _take(given, np.concatenate(self._kept)) if dropped else given
        if self._ids:
            if isinstance(self._ids[0], np.ndarray):
                return np.concatenate(self._ids)
            text: list[Any] = self._ids
            return pa.chunked_array([c for ids in text for c in ids.chunks])
        return None

    def kept_numbers(self) -> Rows | None:
        """Return where the kept rows were in the source; None if all were kept."""
        return np.concatenate(self._kept) if self.rows != self.seen else None

    def finish(self) -> None:
        """Wait until all vectors are stored, and describe their files."""
        for role, entry in self._finished.items():
            self.files[role] = entry.result()
        self._other.shutdown()

    def abandon(self) -> None:
        """Close what is open, and remove what was written."""
        self._other.shutdown(cancel_futures=True)
        for matrix in self._writers:
            matrix.close()
        self._metadata.abandon()
        self._text_ids.abandon()
        for path in self._folder.glob(f"{self._name}.*"):
            path.unlink(missing_ok=True)


def _take(ids: Ids, keep: Rows) -> Ids:
    if len(keep) == len(ids):
        return ids
    return ids[keep] if isinstance(ids, np.ndarray) else ids.take(keep)
