"""Which rows may be answers: those that are live, or also pass a filter.

Turns flags of rows into what kernels read: a table of segments with flags and lists of
nodes. Knows no filter (`filters.py`) and no version (`snapshot.py`).

s = segments, n = rows of one, v = its nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from funnel.kernels import segments as t
from funnel.kernels.types import Array, Rows
from funnel.store.segment import SegmentFiles

Flags: TypeAlias = npt.NDArray[np.uint8]
LISTED_SHARE = 0.5  # of the nodes: a list of more is longer than what it spares


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows that may be answers.

    Parameters
    ----------
    flags : list of (n,) uint8 or None, an entry a segment
        1 for a row that may be an answer; None where all may.
    rows : int
        How many may.
    table : (s, columns) int64
        What kernels read: see `kernels/segments.py`.
    held : list of arrays
        What the table points at, beside the segments' own.
    """

    flags: list[Flags | None]
    rows: int
    table: Array
    held: list[npt.NDArray[Any]] = field(default_factory=list)

    def __contains__(self, row: int) -> bool:
        first = self.table[:, t.FIRST]
        at = int(np.searchsorted(first, row, side="right")) - 1
        own = self.flags[at]
        return own is None or bool(own[row - int(first[at])])

    def listed(self) -> Rows:
        """Return the rows, rising."""
        first, found = 0, []
        for own, segment in zip(self.flags, self.table, strict=True):
            count = int(segment[t.ROWS])
            rows = np.arange(count) if own is None else np.flatnonzero(own)
            found.append(first + rows)
            first += count
        return np.concatenate([np.empty(0, np.int64), *found])

    @property
    def bytes(self) -> int:
        """Bytes that it takes in memory."""
        return sum(array.nbytes for array in self.held)


def select(
    segments: Sequence[SegmentFiles], flags: Sequence[Flags | None]
) -> Selection:
    """Return the selection of the rows that have a flag."""
    table = np.zeros((len(segments), 0), np.int64)
    held: list[npt.NDArray[Any]] = []
    first, rows, described = 0, 0, []
    for segment, own in zip(segments, flags, strict=True):
        described.append(segment.described(first))
        first += segment.rows
        rows += segment.rows if own is None else int(own.sum(dtype=np.int64))
        if own is not None:
            held += _flag(described[-1], segment, own)
    if described:
        table = np.array(described, np.int64)
    return Selection(list(flags), rows, table, held)


def _flag(row: list[int], segment: SegmentFiles, flags: Flags) -> list[Any]:
    """Write where the flags are to a row of the table; return what it points at."""
    nodes = _node_flags(segment, flags)
    row[t.PASSED] = int(nodes.sum(dtype=np.int64))
    listed = np.empty(0, np.int32)
    if row[t.PASSED] <= LISTED_SHARE * len(nodes):
        listed = np.flatnonzero(nodes).astype(np.int32)
    row[t.LISTED_COUNT] = len(listed)
    held: list[npt.NDArray[Any]] = [nodes, flags, listed]
    for place, array in zip((t.NODE_FLAGS, t.ROW_FLAGS, t.LISTED), held, strict=True):
        row[place] = array.ctypes.data
    return held


def _node_flags(segment: SegmentFiles, flags: Flags) -> Flags:
    """Return which nodes have a row that may be an answer."""
    if not len(segment.node_rows):
        return flags
    rows = np.clip(segment.node_rows, 0, segment.rows - 1)
    starts = np.clip(segment.node_starts[:-1], 0, len(rows) - 1)
    return np.maximum.reduceat(flags[rows], starts)
