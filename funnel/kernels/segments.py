"""Segments as a table of numbers: how long each one's arrays are and where they begin.

A kernel takes one table instead of a dozen arrays a segment: one compiled kernel serves
any number of segments, and a call hands over one array. `snapshot.py` fills the table
in and keeps alive what it points at.

s = segments, n = rows of one, v = its nodes, w = bytes of a code, g = links of a node.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from funnel.kernels.jit import bare, kernel, spliced
from funnel.kernels.memory import numbers_at, rows_at
from funnel.kernels.types import Array

# Columns of the table; those in small letters behind them are what is at an address.
FIRST = 0  # rows of the segments before it
ROWS, NODES = 1, 2
CODES = 3  # (v, w) int8
LINKS, DEGREE = 4, 5  # (v, g) int32; g = 0: codes are scanned
ENTRIES, ENTRY_CODES, ENTRY_COUNT = 6, 7, 8  # (e,) int32, (e, w) int8
STARTS = 9  # (v + 1,) int64 if there are any owned rows
OWNED, OWNED_COUNT = 10, 11  # node_rows, int64; 0 of them: node i is row i
LOOSE, LOOSE_COUNT = 12, 13  # int64
NORMS = 14  # (n, columns) float32
PASSED = 15  # nodes that may be answers; −1: all, and there are no flags
NODE_FLAGS, ROW_FLAGS = 16, 17  # (v,), (n,) uint8: which may be answers
LISTED, LISTED_COUNT = 18, 19  # int32: the nodes that may, where they are few
IDS, FIRST_ID = 20, 21  # (n,) int64; address 0: rows are numbered from the first id
TAILS = 22  # (v, t) int8: what codes have beside what a walk scores
BLOCKS = 23  # and following: (n, width of the block) of the vectors' dtype

NO_INT8 = np.empty(0, np.int8)
NO_UINT8 = np.empty(0, np.uint8)
NO_INT32 = np.empty(0, np.int32)
NO_INT64 = np.empty(0, np.int64)
NO_FLOAT32 = np.empty(0, np.float32)


@bare
def place_of(table: Array, row: int) -> int:
    """Return the place of the segment that holds `row`: the last with its first.

    A binary search without a branch that could not be foreseen; with one segment there
    is nothing to look at.
    """
    low, count = 0, len(table)
    while count > 1:
        half = count >> 1
        low += half * int(table[low + half, FIRST] <= row)
        count -= half
    return low


@spliced
def segment_of(table: Array, row: int) -> Any:
    """Return the table's row of the segment that holds `row`."""
    return table[place_of(table, row)]


@kernel
def graph_of(segment: Array, width: int) -> tuple[Array, Array, Array, Array]:
    """Return codes, links, entry nodes and their codes."""
    nodes, count = segment[NODES], segment[ENTRY_COUNT]
    return (
        rows_at(segment[CODES], nodes, width, NO_INT8),
        rows_at(segment[LINKS], nodes, segment[DEGREE], NO_INT32),
        numbers_at(segment[ENTRIES], count, NO_INT32),
        rows_at(segment[ENTRY_CODES], count, width, NO_INT8),
    )


@kernel
def tails_of(segment: Array, width: int) -> Array:
    """Return the tails of the codes; none where a walk scores whole codes."""
    return rows_at(segment[TAILS], segment[NODES] if width else 0, width, NO_INT8)


@kernel
def owners_of(segment: Array) -> tuple[Array, Array]:
    """Return node starts and node rows; none where node i is row i."""
    owned = segment[OWNED_COUNT]
    starts = segment[NODES] + 1 if owned > 0 else 0
    return (
        numbers_at(segment[STARTS], starts, NO_INT64),
        numbers_at(segment[OWNED], owned, NO_INT64),
    )


@kernel
def flags_of(segment: Array) -> tuple[Array, Array]:
    """Return which nodes and which rows may be answers; none where all may."""
    flagged = segment[PASSED] >= 0
    return (
        numbers_at(segment[NODE_FLAGS], segment[NODES] if flagged else 0, NO_UINT8),
        numbers_at(segment[ROW_FLAGS], segment[ROWS] if flagged else 0, NO_UINT8),
    )


@bare
def norms_from(table: Array, row: int, columns: int) -> int:
    """Return the address of the stored norms of a row."""
    segment = segment_of(table, row)
    return int(segment[NORMS] + 4 * columns * (row - segment[FIRST]))


@kernel
def norms_at(table: Array, row: int, columns: int) -> Array:
    """Return the stored prefix norms of a row, the full norm last."""
    return numbers_at(norms_from(table, row, columns), columns, NO_FLOAT32)


@bare
def write_ids(rows: Array, table: Array, ids: Array) -> None:
    """Write the ids of rows, (m,) int64 both; those of rows below 0 are −1."""
    for i in range(len(rows)):
        ids[i] = -1
        if rows[i] >= 0:
            segment = segment_of(table, rows[i])
            row = rows[i] - segment[FIRST]
            ids[i] = segment[FIRST_ID] + row
            if segment[IDS] != 0:
                ids[i] = numbers_at(segment[IDS], segment[ROWS], NO_INT64)[row]
