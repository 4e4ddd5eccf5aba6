"""Stored rows as Arrow: some by id, or all as a stream.

Copies what it is asked for, batch by batch; ranks nothing (`search.py`). Called by
`FunnelIndex`, and by `compaction.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from funnel.errors import (
    DimensionError,
    InvalidTypeError,
    UnknownIdError,
    check_depth,
)
from funnel.kernels.types import Rows
from funnel.snapshot import Snapshot
from funnel.store.ids import Ids, keys_of
from funnel.store.tables import plain

READ_ROWS = 16_384  # of a batch that is handed to Arrow


def find_rows(snapshot: Snapshot, ids: Any, path: Path) -> Rows:
    """Return the row of each id, or name the first that the index at `path` lacks."""
    text = isinstance(ids, str | bytes | bytearray | memoryview)
    if text or not isinstance(ids, Sequence | np.ndarray):
        raise InvalidTypeError(
            f"ids must be a sequence of ids, not {type(ids).__name__} {ids!r}"
        )
    if isinstance(ids, np.ndarray) and ids.ndim != 1:
        raise DimensionError(f"ids must have 1 axis, not {ids.ndim}")
    listed = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    check_depth("ids", listed)  # an error shows them
    rows = np.array([snapshot.row_of(i) for i in listed], np.int64)
    for identifier, row in zip(listed, rows.tolist(), strict=True):
        if row < 0:
            raise UnknownIdError(f"no id {identifier!r} in {path}")
    return rows


def rows_of(snapshot: Snapshot, ids: Ids) -> Rows:
    """Return the live row of each checked id, −1 where there is none."""
    rows = np.full(len(ids), -1, np.int64)
    number = isinstance(ids, np.ndarray)
    if number != (snapshot.manifest.id_kind != "text"):
        return rows
    keys = keys_of(ids)
    for first, segment in zip(snapshot.firsts[:-1], snapshot.segments, strict=True):
        at, found = segment.rows_with(keys)
        held = segment.ids(found)
        for i, row, own in zip(at.tolist(), found.tolist(), held, strict=True):
            same = number or own == ids[i].as_py()
            if same and snapshot.is_live(int(first) + row):
                rows[i] = first + row
    return rows


def id_column(snapshot: Snapshot, rows: Rows) -> pa.Array:
    """Return the ids of `rows` as Arrow, of one type whatever the rows."""
    kind = pa.large_string() if snapshot.manifest.id_kind == "text" else pa.int64()
    return pa.array(snapshot.ids(rows), kind)


def schema_of(snapshot: Snapshot) -> pa.Schema:
    """Return the metadata columns of all segments, in the order they came to be."""
    tables = [s.table for s in snapshot.segments]
    schema = pa.schema([])
    for table in tables:
        if table is not None:
            schema = merged_schema(schema, table.schema)
    return schema


def metadata_of(snapshot: Snapshot, rows: Rows) -> pa.Table | None:
    """Return the metadata of `rows`; null where a row has no such column."""
    schema = schema_of(snapshot)
    if not len(schema):
        return None
    parts = snapshot.parts(rows)
    if not parts:
        return schema.empty_table()
    joined = pa.concat_tables(
        [widened(s.metadata(own), len(own), schema) for s, _, own in parts]
    )
    if len(snapshot.segments) == 1:
        return joined
    order = np.concatenate([np.flatnonzero(at) for _, at, _ in parts])
    return joined.take(np.argsort(order))


def widened(table: pa.Table | None, rows: int, schema: pa.Schema) -> pa.Table:
    """Return a table with all columns of `schema`, null where it has none."""
    columns = {}
    for field in schema:
        if table is None or field.name not in table.column_names:
            columns[field.name] = pa.nulls(rows, field.type)
            continue
        column = table.column(field.name)
        if pa.types.is_null(column.type):
            column = pa.nulls(len(column), field.type)
        columns[field.name] = column
    return pa.table(columns, schema=schema)


def merged_schema(known: pa.Schema, new: pa.Schema) -> pa.Schema:
    """Return the columns of both, or raise if one has another type than it had.

    A column that held nothing but nulls may become of any type.
    """
    fields = list(known)
    for field in new:
        at = known.get_field_index(field.name)
        if at < 0:
            fields.append(field)
        elif pa.types.is_null(known.field(at).type):
            fields[at] = field
        elif known.field(at).type != field.type and not pa.types.is_null(field.type):
            raise InvalidTypeError(
                f"metadata column {field.name!r} is {known.field(at).type}, not "
                f"{field.type}"
            )
    return pa.schema(fields)


def fitted(table: pa.Table, known: pa.Schema) -> pa.Table:
    """Return a table with the types of `known`, where its values have them too."""
    table = plain(table)
    for i, field in enumerate(table.schema):
        at = known.get_field_index(field.name)
        kind = field.type if at < 0 else known.field(at).type
        if kind != field.type and not pa.types.is_null(kind):
            with contextlib.suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
                table = table.set_column(i, field.name, table.column(i).cast(kind))
    return table


def replaced(table: pa.Table, rows: Rows, new: pa.Table) -> pa.Table:
    """Return a table in which `rows`, (m,), have the values of a table of m rows."""
    order = np.arange(len(table))
    order[rows] = len(table) + np.arange(len(rows))
    for name in new.column_names:
        at = table.column_names.index(name)
        kind = table.schema.field(at).type
        chunks = [*table.column(at).chunks, *new.column(name).cast(kind).chunks]
        both = pa.chunked_array(chunks, kind)
        table = table.set_column(at, table.schema.field(at), both.take(order))
    return table


def table_of(snapshot: Snapshot, rows: Rows, vectors: bool) -> pa.Table:
    """Return ``id``, the metadata, and, if asked, ``vector`` of `rows`."""
    columns = {"id": id_column(snapshot, rows)}
    metadata = metadata_of(snapshot, rows)
    if metadata is not None:
        columns.update(zip(metadata.column_names, metadata.columns, strict=True))
    if vectors:
        stored = pa.array(snapshot.vectors(rows).reshape(-1))
        full_dim = snapshot.manifest.full_dim
        columns["vector"] = pa.FixedSizeListArray.from_arrays(stored, full_dim)
    return pa.table(columns).combine_chunks()


def slices(rows: Rows) -> Iterator[Rows]:
    """Yield `rows` in batches."""
    for start in range(0, len(rows), READ_ROWS):
        yield rows[start : start + READ_ROWS]


def stream_rows(opened: Callable[[], Snapshot], vectors: bool) -> pa.RecordBatchReader:
    """Return a reader of all live rows of one version, a batch at a time.

    `opened` is asked before each batch: it raises once the index is closed.
    """
    snapshot = opened()

    def tables() -> Iterator[pa.Table]:
        for rows in slices(snapshot.live_rows()):
            opened()
            yield table_of(snapshot, rows, vectors)

    schema = table_of(snapshot, np.arange(0), vectors).schema
    batches = (batch for table in tables() for batch in table.to_batches())
    return pa.RecordBatchReader.from_batches(schema, batches)


def prefix_of(snapshot: Snapshot, dim: int) -> npt.NDArray[Any]:
    """Return the first `dim` dims of all live rows: a view where that can be."""
    kind = snapshot.manifest.dtype
    if len(snapshot.segments) == 1 and not len(snapshot.deleted):
        block = snapshot.segments[0].blocks[0]
        if dim <= block.shape[1]:
            return block.view(kind)[:, :dim]
    out = np.empty((snapshot.manifest.rows, dim), kind)
    done = 0
    for rows in slices(snapshot.live_rows()):
        out[done : done + len(rows)] = snapshot.vectors(rows)[:, :dim]
        done += len(rows)
    return out


def sliced_rows(snapshot: Snapshot, dim: int) -> pa.RecordBatchReader:
    """Return a reader of all live rows with the first `dim` dims of their vectors."""
    columns = schema_of(snapshot)
    kind = pa.float16() if snapshot.manifest.dtype == "float16" else pa.float32()
    schema = pa.schema(
        [
            pa.field("id", id_column(snapshot, np.arange(0)).type),
            *columns,
            pa.field("vector", pa.list_(kind, dim)),
        ]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in slices(snapshot.live_rows()):
            table = table_of(snapshot, rows, vectors=False)
            flat = pa.array(snapshot.vectors(rows)[:, :dim].reshape(-1), kind)
            vectors = pa.FixedSizeListArray.from_arrays(flat, dim)
            yield from table.append_column("vector", vectors).cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())
