"""Text ids and metadata on disk: Arrow tables in batches of `BATCH_ROWS`.

Their bytes are hashed before Arrow first parses them, because Arrow trusts the offsets
that it reads. Numbers go to `matrix.py` instead.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from funnel.errors import (
    CorruptIndexError,
    InvalidArgumentError,
    InvalidTypeError,
)
from funnel.store.disk import reading, storing
from funnel.store.matrix import FileEntry, hash_file

BATCH_ROWS = 65_536


class TableWriter:
    """Streams Arrow record batches to a file in batches of exactly `BATCH_ROWS`."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._pending: list[pa.Table] = []
        self._sink: Any = None
        self._writer: Any = None
        self._schema: pa.Schema | None = None

    @property
    def schema(self) -> pa.Schema:
        """The columns; none before the first rows."""
        return pa.schema([]) if self._schema is None else self._schema

    @property
    def names(self) -> list[str]:
        """Names of the columns; none before the first rows."""
        return [] if self._schema is None else list(self._schema.names)

    def append(self, table: pa.Table) -> None:
        """Write more rows; the first call fixes the schema."""
        table = plain(table)
        if self._schema is None:
            self._schema = table.schema
            with storing(self.path):
                self._sink = pa.OSFile(str(self.path), "wb")
                self._writer = pa.ipc.new_file(self._sink, self._schema)
        self._pending.append(_fit(table, self._schema))
        self.rows += len(table)
        while sum(map(len, self._pending)) >= BATCH_ROWS:
            joined = pa.concat_tables(self._pending)
            self._write(joined.slice(0, BATCH_ROWS))
            self._pending = [joined.slice(BATCH_ROWS)]

    def _write(self, table: pa.Table) -> None:
        with storing(self.path):
            for batch in table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
                self._writer.write_batch(batch)

    def finish(self) -> FileEntry:
        """Write what is left, and describe the file."""
        self._write(pa.concat_tables(self._pending))
        with storing(self.path):
            self._writer.close()
            self._sink.close()
        size = self.path.stat().st_size
        return FileEntry(self.path.name, size, hash_file(self.path), self.rows)

    def abandon(self) -> None:
        """Close the file without finishing it."""
        if self._sink is not None:
            self._sink.close()


def plain(table: pa.Table) -> pa.Table:
    """Return a table without dictionaries and views.

    A file may hold one dictionary a column only, and views cannot be gathered.

    Raises
    ------
    InvalidTypeError
        For unions and run-end encoded columns, which Arrow cannot gather either.
    """
    for i, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_union(kind) or pa.types.is_run_end_encoded(kind):
            raise InvalidTypeError(
                f"metadata column {field.name!r} is {kind}: cast it to a plain type"
            )
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_string_view(kind):
            kind = pa.large_string()
        if pa.types.is_binary_view(kind):
            kind = pa.large_binary()
        if kind != field.type:
            table = table.set_column(i, field.name, table.column(i).cast(kind))
    return table


def _fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` with the types of `schema`, or raise how it differs."""
    if table.column_names != schema.names:
        raise InvalidArgumentError(
            f"metadata columns change from {schema.names} to {table.column_names}"
        )
    columns = []
    for field in schema:
        column = table.column(field.name)
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            raise InvalidArgumentError(
                f"metadata column {field.name!r} changes its type from {field.type} "
                f"to {column.type}: {error}"
            ) from error
    return pa.table(columns, schema=schema)


class MappedTable:
    """A table file, mapped when it is opened and parsed when it is first read.

    The map outlives the file's name: a later version may remove it.
    """

    def __init__(self, path: Path, entry: FileEntry) -> None:
        self._path, self._entry = path, entry
        with reading(path):
            self._whole = pa.memory_map(str(path)).read_buffer()

    @cached_property
    def table(self) -> pa.Table:
        """Return the table, after comparing its bytes with the manifest's checksum."""
        if xxhash.xxh3_128_hexdigest(self._whole) != self._entry.xxh3:
            raise CorruptIndexError(f"{self._path} does not match its checksum")
        return pa.ipc.open_file(pa.BufferReader(self._whole)).read_all()
