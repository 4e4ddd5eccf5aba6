"""A segment's files, mapped: the arrays that kernels read.

Maps and hands out; searches nothing (`search.py`) and checks no checksum but those of
tables, before Arrow parses them.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from funnel.errors import CorruptIndexError
from funnel.kernels import segments as t
from funnel.store.ids import candidate_rows, key_of, rows_with_keys
from funnel.store.manifest import Segment
from funnel.store.matrix import FileEntry, map_body
from funnel.store.tables import BATCH_ROWS, MappedTable

Matrix = npt.NDArray[Any]


def map_file(folder: Path, entry: FileEntry, dtype: str | None = None) -> Matrix:
    """Map the numbers of a matrix file, (rows, width), read-only."""
    return map_body(folder / entry.name, entry.rows, entry.width, dtype or entry.dtype)


class SegmentFiles:
    """The mapped arrays of one segment.

    Parameters
    ----------
    folder : Path
        The index's ``data`` directory.
    segment : Segment
    id_kind : {"row", "int64", "text"}
    widths : (int, int)
        Bytes of what a walk scores of a code, and of the rest.
    """

    def __init__(
        self, folder: Path, segment: Segment, id_kind: str, widths: tuple[int, int]
    ) -> None:
        self.folder, self.segment, self.id_kind = folder, segment, id_kind
        self.rows = segment.rows
        self.block_starts = np.array(segment.blocks, np.int64)
        self.blocks = tuple(self._block(i) for i in range(len(segment.blocks) - 1))
        self.norms = self._matrix("norms")
        self.codes = self._matrix("codes", np.empty((0, widths[0]), np.int8))
        self.tails = self._matrix("tails", np.empty((0, widths[1]), np.int8))
        no_links = np.empty((len(self.codes), 0), np.int32)
        self.neighbours = self._matrix("links", no_links)
        entries = self._matrix("entries", np.empty((0, 1), np.int32))[:, 0]
        self.entries = np.ascontiguousarray(entries)
        no_rows = np.empty((0, 1), np.int64)
        self.node_starts = self._matrix("node_starts", no_rows)[:, 0]
        self.node_rows = self._matrix("node_rows", no_rows)[:, 0]
        self.loose = self._matrix("loose", no_rows)[:, 0]
        # Mapped now, not when they are read: a later version may remove the files.
        self._metadata = self._open_table("metadata")
        self._text_ids = self._open_table("ids") if id_kind == "text" else None
        self._numbers = self._mapped("ids") if id_kind != "text" else None
        self._lookup = self._mapped("lookup")
        self.entry_codes = self._codes_of_entries()

    def _codes_of_entries(self) -> Matrix:
        """Return the codes of the entries, beside each other."""
        if ((self.entries < 0) | (self.entries >= len(self.codes))).any():
            path = self.folder / self.segment.files["entries"].name
            raise CorruptIndexError(f"{path}: an entry of the graph is no node")
        codes: Matrix = self.codes[self.entries]
        return codes

    def _mapped(self, role: str) -> Matrix | None:
        """Map a matrix that a segment may lack: one column as one axis."""
        entry = self.segment.files.get(role)
        if entry is None:
            return None
        matrix = map_file(self.folder, entry)
        return matrix[:, 0] if entry.width == 1 else matrix

    def described(self, first: int) -> list[int]:
        """Return the segment's row of the table of `kernels/segments.py`.

        `first` is the number of its first row. All its nodes may be answers.
        """
        row = [0] * (t.BLOCKS + len(self.blocks))
        row[t.FIRST], row[t.ROWS], row[t.NODES] = first, self.rows, len(self.codes)
        row[t.DEGREE], row[t.ENTRY_COUNT] = self.neighbours.shape[1], len(self.entries)
        row[t.OWNED_COUNT], row[t.LOOSE_COUNT] = len(self.node_rows), len(self.loose)
        row[t.PASSED] = -1
        places = (t.CODES, t.LINKS, t.ENTRIES, t.ENTRY_CODES, t.STARTS, t.OWNED,
                  t.LOOSE, t.NORMS, t.TAILS, *range(t.BLOCKS, len(row)))  # fmt: skip
        arrays = (self.codes, self.neighbours, self.entries, self.entry_codes,
                  self.node_starts, self.node_rows, self.loose, self.norms,
                  self.tails, *self.blocks)  # fmt: skip
        for place, array in zip(places, arrays, strict=True):
            row[place] = array.ctypes.data
        row[t.FIRST_ID] = self.segment.first_id
        if self._numbers is not None:
            row[t.IDS] = self._numbers.ctypes.data
        for place in (t.NODE_FLAGS, t.ROW_FLAGS, t.LISTED):
            row[place] = self.codes.ctypes.data  # of none: any address will do
        return row

    def _matrix(self, role: str, absent: Matrix | None = None) -> Matrix:
        entry = self.segment.files.get(role)
        if entry is None and absent is not None:
            absent.flags.writeable = False
            return absent
        assert entry is not None, f"a segment has {role}"
        return map_file(self.folder, entry)

    def _block(self, i: int) -> Matrix:
        entry = self.segment.files[f"vectors{i}"]
        halves = entry.dtype == "float16"
        return map_file(self.folder, entry, "uint16" if halves else None)

    def vectors(self, rows: npt.NDArray[np.int64]) -> Matrix:
        """Return stored vectors at full width, (len(rows), full_dim)."""
        kind = self.segment.files["vectors0"].dtype
        parts = [block[rows].view(kind) for block in self.blocks]
        return np.concatenate(parts, axis=1)

    def _open_table(self, role: str) -> MappedTable | None:
        entry = self.segment.files.get(role)
        if entry is None:
            return None
        return MappedTable(self.folder / entry.name, entry)

    @property
    def table(self) -> pa.Table | None:
        """Return the metadata of all rows, or None."""
        return None if self._metadata is None else self._metadata.table

    def metadata(self, rows: npt.NDArray[np.int64]) -> pa.Table | None:
        """Return the metadata of `rows`, or None."""
        return None if self.table is None else self.table.take(rows)

    @cached_property
    def _text(self) -> list[pa.Array]:
        """Return all ids of text, in batches of `BATCH_ROWS`."""
        assert self._text_ids is not None, "ids of text have a file"
        return list(self._text_ids.table.column("id").chunks)

    def ids(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the ids of `rows`, in their shape; rows of −1 give −1 or None."""
        if self._numbers is not None:
            return np.where(rows >= 0, self._numbers[rows], -1)
        if self.id_kind != "text":
            first = self.segment.first_id
            return np.where(rows >= 0, rows + first, -1) if first else rows
        chunks = self._text
        flat = [
            chunks[row // BATCH_ROWS][row % BATCH_ROWS].as_py() if row >= 0 else None
            for row in rows.ravel().tolist()
        ]
        out = np.empty(len(flat), object)
        out[:] = flat
        return out.reshape(rows.shape)

    def rows_with(self, keys: npt.NDArray[np.int64]) -> tuple[Matrix, Matrix]:
        """Return which ids these keys may be of, (m,), and their rows, (m,)."""
        if self._lookup is None:
            rows = keys - self.segment.first_id
            at = np.flatnonzero((rows >= 0) & (rows < self.rows))
            return at, rows[at]
        at, rows = rows_with_keys(self._lookup, keys)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.rows:
            raise CorruptIndexError(f"{self.folder}: the row of an id is no row")
        return at, rows

    def row_of(self, identifier: Any) -> int:
        """Return the row of an id, or −1; an id of another type is no row's."""
        wanted = str if self.id_kind == "text" else int | np.integer
        if not isinstance(identifier, wanted) or isinstance(identifier, bool):
            return -1
        if self._lookup is None:
            row = int(identifier) - self.segment.first_id
            return row if 0 <= row < self.rows else -1
        for row in candidate_rows(self._lookup, key_of(identifier)):
            if not 0 <= row < self.rows:
                raise CorruptIndexError(f"{self.folder}: an id's row {row} is no row")
            if self.ids(np.array([row]))[0] == identifier:
                return row
        return -1
