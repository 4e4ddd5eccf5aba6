"""Text ids and metadata on disk: Arrow tables in batches of `BATCH_ROWS`.

Their bytes are hashed before Arrow first parses them, because Arrow trusts the offsets
that it reads. Numbers go to `matrix.py` instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from funnel.errors import CorruptIndexError
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

    def append(self, table: pa.Table) -> None:
        """Write more rows; the first call fixes the schema."""
        if self._writer is None:
            self._schema = table.schema
            self._sink = pa.OSFile(str(self.path), "wb")
            self._writer = pa.ipc.new_file(self._sink, self._schema)
        self._pending.append(table.cast(self._schema))
        self.rows += len(table)
        while sum(map(len, self._pending)) >= BATCH_ROWS:
            joined = pa.concat_tables(self._pending)
            self._write(joined.slice(0, BATCH_ROWS))
            self._pending = [joined.slice(BATCH_ROWS)]

    def _write(self, table: pa.Table) -> None:
        for batch in table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
            self._writer.write_batch(batch)

    def finish(self) -> FileEntry:
        """Write what is left, and describe the file."""
        self._write(pa.concat_tables(self._pending))
        self._writer.close()
        self._sink.close()
        size = self.path.stat().st_size
        return FileEntry(self.path.name, size, hash_file(self.path), self.rows)

    def abandon(self) -> None:
        """Close the file without finishing it."""
        if self._sink is not None:
            self._sink.close()


def read_table(path: Path, entry: FileEntry) -> pa.Table:
    """Map a table file after comparing its bytes with the manifest's checksum."""
    if hash_file(path) != entry.xxh3:
        raise CorruptIndexError(f"{path} does not match its checksum")
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
