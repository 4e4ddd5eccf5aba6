"""A 2-D array as an Arrow IPC file that can be written as a stream and mapped whole.

The file holds one record batch of one fixed-size-list column, so that a reader gets a
single contiguous array; its numbers start at byte 4096, so that rows lie on cache
lines. Arrow writes a batch only when its length is known: the numbers are streamed to
their place first, and the Arrow framing is put around them at the end.

A page cache that knows huge pages makes one of a write that fills it whole: numbers are
written so. A map of them is walked with fewer looks at the page tables.
"""

from __future__ import annotations

import mmap
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from funnel.errors import CorruptIndexError, StorageError
from funnel.store.disk import begin_storing, reading, storing

BODY_OFFSET = 4096
HASH_BYTES = 1 << 20
HUGE_PAGE_BYTES = 1 << 21


@dataclass(frozen=True)
class FileEntry:
    """What the manifest knows of a data file.

    Parameters
    ----------
    name : str
        File name inside ``data/``.
    size : int
        Bytes.
    xxh3 : str
        XXH3-128 of all its bytes, in hexadecimal.
    rows, width : int
        Shape of a matrix file; width 0 for a table.
    dtype : str
        NumPy's name of its numbers, "" for a table.
    """

    name: str
    size: int
    xxh3: str
    rows: int = 0
    width: int = 0
    dtype: str = ""


def hash_file(path: Path) -> str:
    """Return the XXH3-128 of a file, read in pieces."""
    digest = xxhash.xxh3_128()
    with reading(path), path.open("rb") as file:
        while piece := file.read(HASH_BYTES):
            digest.update(piece)
    return digest.hexdigest()


class _Framing:
    """A sink that keeps what Arrow writes around the numbers, and drops the numbers."""

    closed = False

    def __init__(self) -> None:
        self.before, self.after = bytearray(), bytearray()
        self._dropped, self._at = False, 0

    def write(self, piece: Any) -> int:
        if isinstance(piece, bytes):
            (self.after if self._dropped else self.before).extend(piece)
        else:
            self._dropped = True
        self._at += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def _frame(column: str, array: pa.Array, padding: int) -> _Framing:
    field = pa.field(column, array.type, nullable=False)
    schema = pa.schema([field], metadata={"funnel.padding": " " * padding})
    batch = pa.record_batch([array], schema=schema)
    sink = _Framing()
    large = pa.ipc.IpcWriteOptions(allow_64bit=True)  # more than 2^31 numbers
    with pa.ipc.new_file(
        pa.PythonFile(sink, mode="w"), schema, options=large
    ) as writer:
        writer.write_batch(batch)
    return sink


class MatrixWriter:
    """Streams rows to a matrix file.

    Parameters
    ----------
    path : Path
        Must not exist.
    column : str
        Name of the Arrow column.
    width : int
        Numbers in a row.
    dtype : str
        NumPy's name of the numbers.
    """

    def __init__(self, path: Path, column: str, width: int, dtype: str) -> None:
        self.path, self.column, self.width = path, column, width
        self.dtype, self.rows = np.dtype(dtype), 0
        self._held, self._at = bytearray(BODY_OFFSET), 0  # a place for the framing
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        with storing(path):
            self._file = os.fdopen(os.open(path, flags, 0o644), "r+b", buffering=0)

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write (b, width) more rows."""
        piece = np.ascontiguousarray(rows, dtype=self.dtype).reshape(-1, self.width)
        view = memoryview(piece.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        self._put(view)
        self.rows += len(piece)

    def flush(self) -> None:
        """Write what is held, so that all rows can be mapped."""
        self._write(self._held)
        self._held = bytearray()

    def flushed(self) -> npt.NDArray[Any]:
        """Return a read-only map of the rows written so far."""
        self.flush()
        return map_body(self.path, self.rows, self.width, self.dtype.name)

    def finish(self) -> FileEntry:
        """Put the Arrow framing around the numbers, and describe the file.

        It is durable after `commit.publish`, until when the disk stores it beside
        what the build does next.
        """
        array = self._as_arrow()
        padding = BODY_OFFSET - len(_frame(self.column, array, 0).before)
        framing = _frame(self.column, array, padding)
        if len(framing.before) != BODY_OFFSET:
            raise StorageError(
                f"{self.path}: this pyarrow frames a batch with "
                f"{len(framing.before)} bytes where {BODY_OFFSET} are expected"
            )
        self._write(framing.after)
        self._file.seek(0)
        self._write(framing.before)
        size = os.fstat(self._file.fileno()).st_size
        self._file.close()
        return FileEntry(
            self.path.name,
            size,
            hash_file(self.path),
            self.rows,
            self.width,
            self.dtype.name,
        )

    def _as_arrow(self) -> pa.Array:
        body = self.flushed()
        values = pa.Array.from_buffers(
            pa.from_numpy_dtype(self.dtype), body.size, [None, pa.py_buffer(body)]
        )
        return pa.FixedSizeListArray.from_arrays(values, self.width)

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()

    def _put(self, view: memoryview) -> None:
        """Write what fills huge pages, hold what begins the next one."""
        room = HUGE_PAGE_BYTES - (self._at + len(self._held)) % HUGE_PAGE_BYTES
        if len(view) < room:
            self._held += view
            return
        start = self._at
        self._held += view[:room]
        self._write(self._held)
        whole = room + (len(view) - room) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        self._write(view[room:whole])
        begin_storing(self._file.fileno(), start, self._at - start)
        self._held = bytearray(view[whole:])

    def _write(self, piece: memoryview | bytearray) -> None:
        """Write all of it: a raw file may take less than it is given."""
        view = memoryview(piece)
        self._at += len(view)
        with storing(self.path):
            while len(view):
                view = view[self._file.write(view) :]


def map_body(path: Path, rows: int, width: int, dtype: str) -> npt.NDArray[Any]:
    """Map the numbers of a matrix file, read-only and without parsing its framing.

    The shape comes from the manifest, whose checksum was tested, so that a damaged
    file can give wrong numbers but never a wrong shape.
    """
    if rows == 0 or width == 0:
        return np.empty((rows, width), dtype)
    kind = np.dtype(dtype)
    body_bytes = rows * width * kind.itemsize
    with reading(path), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < BODY_OFFSET + body_bytes:
            raise CorruptIndexError(f"{path} is shorter than the rows it should hold")
        mapped = mmap.mmap(file.fileno(), BODY_OFFSET + body_bytes, prot=mmap.PROT_READ)
    flat = np.frombuffer(mapped, kind, rows * width, BODY_OFFSET)
    return flat.reshape(rows, width)


def write_matrix(path: Path, column: str, array: npt.NDArray[Any]) -> FileEntry:
    """Write a 2-D array (or a 1-D one as one column) as a matrix file."""
    rows = array if array.ndim == 2 else array[:, None]
    with closing(MatrixWriter(path, column, rows.shape[1], rows.dtype.name)) as writer:
        writer.append(rows)
        return writer.finish()
