"""Stored rows as Arrow: some by id, or all as a stream.

Copies what it is asked for, batch by batch; ranks nothing (`search.py`). Called by
`FunnelIndex`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from funnel.errors import DimensionError, InvalidTypeError, UnknownIdError
from funnel.kernels.types import Rows
from funnel.snapshot import Snapshot

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
    rows = np.array([snapshot.row_of(i) for i in listed], np.int64)
    for identifier, row in zip(listed, rows.tolist(), strict=True):
        if row < 0:
            raise UnknownIdError(f"no id {identifier!r} in {path}")
    return rows


def table_of(snapshot: Snapshot, rows: Rows, vectors: bool) -> pa.Table:
    """Return ``id``, the metadata, and, if asked, ``vector`` of `rows`."""
    segment = snapshot.segments[0]
    columns = {"id": segment.id_column(rows)}
    metadata = segment.metadata(rows)
    if metadata is not None:
        columns.update(zip(metadata.column_names, metadata.columns, strict=True))
    if vectors:
        stored = pa.array(segment.vectors(rows).reshape(-1))
        full_dim = snapshot.manifest.full_dim
        columns["vector"] = pa.FixedSizeListArray.from_arrays(stored, full_dim)
    return pa.table(columns).combine_chunks()


def stream_rows(opened: Callable[[], Snapshot], vectors: bool) -> pa.RecordBatchReader:
    """Return a reader of all rows, a batch at a time.

    `opened` is asked before each batch: it raises once the index is closed.
    """
    count = opened().manifest.rows
    tables = (
        table_of(opened(), np.arange(s, min(s + READ_ROWS, count)), vectors)
        for s in range(0, count, READ_ROWS)
    )
    schema = table_of(opened(), np.arange(0), vectors).schema
    batches = (batch for table in tables for batch in table.to_batches())
    return pa.RecordBatchReader.from_batches(schema, batches)
