"""What can be built from: arrays, Arrow tables, files, iterators → batches of rows.

Reads and cuts; converts values only where Arrow's layout asks for it. Checking rows is
`vectors.py`'s matter, and storing them `build.py`'s.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from funnel.errors import (
    DimensionError,
    FunnelError,
    IndexNotFoundError,
    InvalidArgumentError,
    InvalidTypeError,
    StorageError,
)
from funnel.vectors import as_array

BATCH_BYTES = 64 << 20
VECTOR_NAMES = ("vector", "embedding", "embeddings", "emb", "values")
RESERVED = ("id", "vector")
ID_NAMES = ("id", "_id", "doc_id", "docid")


@dataclass(frozen=True)
class Batch:
    """Some rows of a source.

    Parameters
    ----------
    vectors : (b, d) array of real numbers
    ids : array-like of b ids, or None
    columns : Arrow table of b rows of metadata, or None
    """

    vectors: npt.NDArray[Any]
    ids: Any = None
    columns: pa.Table | None = None


@dataclass(frozen=True)
class Source:
    """Batches, and how many rows there will be where that is known.

    Parameters
    ----------
    batches : iterator of Batch
    rows : int or None
    """

    batches: Iterator[Batch]
    rows: int | None


def open_source(
    data: Any, vector_column: str | None = None, id_column: str | None = None
) -> Source:
    """Return the batches of anything that an index can be built from.

    Parameters
    ----------
    data : array-like, Arrow data, path, glob, or iterable of arrays or Arrow batches
    vector_column, id_column : str, optional
        Columns of a table; by default found by type and usual names.

    Raises
    ------
    InvalidTypeError, DimensionError, IndexNotFoundError
        If it is none of these, or there is no file.
    """
    if isinstance(data, str | os.PathLike):
        return _from_files(str(data), vector_column, id_column)
    if isinstance(data, pa.Array | pa.ChunkedArray):
        return _from_reader(pa.table({"vector": data}).to_reader(), "vector", None)
    if _is_arrow(data):
        return _from_reader(_reader(data), vector_column, id_column)
    if isinstance(data, Iterator):
        return Source(_from_iterator(data, vector_column, id_column), None)
    for name in ("vector_column", "id_column"):
        if {"vector_column": vector_column, "id_column": id_column}[name] is not None:
            raise InvalidArgumentError(f"{name} is given, but the data is no table")
    return _from_array(as_array(data, "embeddings"))


def rows_a_batch(row_bytes: int) -> int:
    """Return how many rows make a batch of about `BATCH_BYTES`."""
    return max(1, min(65_536, BATCH_BYTES // max(1, row_bytes)))


def _from_array(array: npt.NDArray[Any]) -> Source:
    if array.ndim != 2:
        raise DimensionError(
            f"embeddings must have 2 axes (rows, dims), not {array.ndim}: "
            f"shape {array.shape}"
        )
    step = rows_a_batch(array.shape[1] * 4)
    starts = range(0, len(array), step)
    return Source((Batch(array[s : s + step]) for s in starts), len(array))


def _is_arrow(data: Any) -> bool:
    return hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")


def _reader(data: Any) -> pa.RecordBatchReader:
    """Return the record batches of anything that speaks Arrow: tables or one column."""
    try:
        if hasattr(data, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(data)
        return pa.table(pa.record_batch(data)).to_reader()
    except pa.ArrowInvalid:  # not a table: a column of vectors
        return pa.table({"vector": pa.chunked_array(data)}).to_reader()


def _from_iterator(
    items: Iterator[Any], vector_column: str | None, id_column: str | None
) -> Iterator[Batch]:
    seen = 0
    for item in items:
        if _is_arrow(item):
            source = _from_reader(_reader(item), vector_column, id_column, seen)
        else:
            source = _from_array(as_array(item, "embeddings"))
        for batch in source.batches:
            seen += len(batch.vectors)
            yield batch


def _from_files(
    pattern: str, vector_column: str | None, id_column: str | None
) -> Source:
    try:
        files = _find(pattern)
        opened = [_from_file(p, vector_column, id_column) for p in files]
    except (OSError, EOFError, ValueError, RuntimeError, pa.ArrowException) as error:
        if isinstance(error, FunnelError):
            raise
        raise StorageError(f"cannot read {pattern}: {error}") from error
    counts = [source.rows for source in opened]
    total = sum(c for c in counts if c is not None)
    return Source(_read_files(opened, pattern), None if None in counts else total)


def _read_files(opened: list[Source], pattern: str) -> Iterator[Batch]:
    """Yield all files' batches; what a damaged file raises becomes a typed error."""
    for source in opened:
        try:
            yield from source.batches
        except (OSError, ValueError, pa.ArrowException) as error:
            if isinstance(error, FunnelError):
                raise
            raise StorageError(f"cannot read {pattern}: {error}") from error


def _find(pattern: str) -> list[Path]:
    """Return the files that a path, a directory or a glob names, sorted."""
    if not pattern:
        raise InvalidArgumentError("a path to build from is empty")
    text = os.path.expanduser(pattern)  # noqa: PTH111 keeps the glob as it is
    paths = [text] if Path(text).exists() else sorted(glob.glob(text, recursive=True))  # noqa: PTH207
    files = list(itertools.chain.from_iterable(_inside(Path(p)) for p in paths))
    if not files:
        raise IndexNotFoundError(f"no file at {pattern}")
    return files


def _inside(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.rglob("*") if p.suffix in _READERS)


def _from_file(path: Path, vector_column: str | None, id_column: str | None) -> Source:
    if path.suffix not in _READERS:
        known = ", ".join(sorted(_READERS))
        raise InvalidArgumentError(f"cannot build from {path}: know {known} files")
    return _READERS[path.suffix](path, vector_column, id_column)


def _from_npy(path: Path, _vector: str | None, _id: str | None) -> Source:
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        loaded.close()
        raise InvalidArgumentError(f"{path} is an archive, not one array")
    return _from_array(as_array(loaded, "embeddings"))


def _from_parquet(path: Path, vector: str | None, id_column: str | None) -> Source:
    file = pq.ParquetFile(path, memory_map=True)
    rows = file.metadata.num_rows
    width = max(1, file.metadata.num_columns and _guess_width(file))
    batches = file.iter_batches(batch_size=rows_a_batch(width * 8))
    reader = pa.RecordBatchReader.from_batches(file.schema_arrow, batches)
    return Source(_from_reader(reader, vector, id_column).batches, rows)


def _guess_width(file: pq.ParquetFile) -> int:
    """Return about how many numbers a row has, from the first row group's counts."""
    if file.metadata.num_row_groups == 0:
        return 1
    group = file.metadata.row_group(0)
    values = max(group.column(i).num_values for i in range(group.num_columns))
    return int(values // max(1, group.num_rows))


def _from_arrow_file(path: Path, vector: str | None, id_column: str | None) -> Source:
    mapped = pa.memory_map(str(path))
    try:
        file = pa.ipc.open_file(mapped)
    except pa.ArrowInvalid:
        mapped.seek(0)
        return _from_reader(pa.ipc.open_stream(mapped), vector, id_column)
    groups = (file.get_batch(i) for i in range(file.num_record_batches))
    reader = pa.RecordBatchReader.from_batches(file.schema, groups)
    return _from_reader(reader, vector, id_column)


_READERS = {
    ".npy": _from_npy,
    ".parquet": _from_parquet,
    ".arrow": _from_arrow_file,
    ".feather": _from_arrow_file,
    ".ipc": _from_arrow_file,
}


def _from_reader(
    reader: pa.RecordBatchReader,
    vector_column: str | None,
    id_column: str | None,
    first: int = 0,
) -> Source:
    names = reader.schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidArgumentError(f"column {twice[0]!r} is there twice")
    vector = _find_vector(reader.schema, vector_column)
    identifier = _find_id(reader.schema, vector, id_column)
    others = [n for n in names if n not in (vector, identifier)]
    taken = [name for name in others if name in RESERVED]
    if taken:
        raise InvalidArgumentError(
            f"metadata column {taken[0]!r} has the name of one of ours: rename it"
        )
    return Source(_read(reader, vector, identifier, others, first), None)


def _read(
    reader: pa.RecordBatchReader,
    vector: str,
    identifier: str | None,
    others: list[str],
    first: int,
) -> Iterator[Batch]:
    for whole in reader:
        if len(whole) == 0:
            continue
        width = _list_width(whole.column(vector))
        step = rows_a_batch(width * 8)
        for start in range(0, len(whole), step):
            part = whole.slice(start, step)
            columns = pa.Table.from_batches([part]).select(others) if others else None
            ids = part.column(identifier) if identifier else None
            values = _list_values(part.column(vector), vector, first)
            yield Batch(values, ids, columns)
            first += len(part)


def _is_vector(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    listed = (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
    )
    return bool(
        listed
        and (
            pa.types.is_floating(kind.value_type)
            or pa.types.is_integer(kind.value_type)
        )
    )


def _find_vector(schema: pa.Schema, asked: str | None) -> str:
    found = [field.name for field in schema if _is_vector(field.type)]
    if asked is not None:
        if asked not in found:
            raise InvalidArgumentError(
                f"vector_column {asked!r} is not a column of number lists; "
                f"there are: {', '.join(found) or 'none'}"
            )
        return asked
    usual = [name for name in VECTOR_NAMES if name in found]
    if len(found) != 1 and not usual:
        raise InvalidArgumentError(
            f"cannot tell which column holds the vectors ({', '.join(schema.names)}): "
            "pass vector_column="
        )
    return usual[0] if usual else str(found[0])


def _find_id(schema: pa.Schema, vector: str, asked: str | None) -> str | None:
    if asked is not None and (asked not in schema.names or asked == vector):
        raise InvalidArgumentError(
            f"id_column {asked!r} is not among {', '.join(schema.names)}"
        )
    usual = [name for name in ID_NAMES if name in schema.names and name != vector]
    return asked or (usual[0] if usual else None)


def _storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _list_width(column: pa.Array) -> int:
    column = _storage(column)
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    first = column[0].as_py() if len(column) else None
    return len(first) if first is not None else 1


def _list_values(column: pa.Array, name: str, first: int) -> npt.NDArray[Any]:
    """Return a list column as (b, d), without a copy where all lists are full."""
    column = _storage(column)
    values = column.flatten()
    if column.null_count or values.null_count:
        raise InvalidTypeError(f"column {name!r} holds nulls: drop or fill them first")
    if pa.types.is_fixed_size_list(column.type):
        width = int(column.type.list_size)
    else:
        lengths = np.diff(column.offsets.to_numpy())
        width = int(lengths[0])
        for row in np.flatnonzero(lengths != width)[:1]:
            raise DimensionError(
                f"column {name!r} holds lists of unequal length: row {first + row} has "
                f"{lengths[row]} numbers, row {first} has {width}"
            )
    array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array.reshape(len(column), width)
