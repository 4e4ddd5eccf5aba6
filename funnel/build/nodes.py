"""Which rows are equal, so that they share a node of the graph.

Exact duplicates ruin an HNSW graph: they fill each other's links.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from funnel.kernels.types import Floats, Rows

COMPARED_ROWS = 1024


def row_hashes(rows: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of the bytes of each row."""
    bytes_of = np.ascontiguousarray(rows).view(np.uint8)
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(row) for row in bytes_of), np.uint64, len(rows))


def distinct_first(rows: Floats) -> tuple[Rows, int]:
    """Return an order that puts rows equal to an earlier one last.

    By hashes, so for samples.

    Returns
    -------
    order : (n,) int64
        Both the distinct rows and the others stay in their order.
    count : int
        How many are distinct.
    """
    first = np.unique(row_hashes(rows), return_index=True)[1]
    equal = np.ones(len(rows), np.bool_)
    equal[first] = False
    return np.argsort(equal, kind="stable"), len(first)


def distinct(rows: Floats) -> Floats:
    """Return one of each of the rows, in their order."""
    order, count = distinct_first(rows)
    return rows if count == len(rows) else rows[order[:count]]


def first_equal(hashes: npt.NDArray[np.uint64], read: Callable[[Rows], Floats]) -> Rows:
    """Return, for each row, the first row with the same vector (often itself).

    Parameters
    ----------
    hashes : (n,) uint64
    read : callable
        Returns stored rows, to compare those whose hashes agree.
    """
    first = np.arange(len(hashes))
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    stops = np.r_[starts[1:], len(order)]
    shared = stops - starts > 1
    for start, stop in zip(starts[shared], stops[shared], strict=True):
        owner = read(order[start : start + 1])
        for at in range(start + 1, stop, COMPARED_ROWS):
            group = order[at : min(stop, at + COMPARED_ROWS)]
            same = (read(group) == owner).all(axis=1)
            first[group[same]] = order[start]
    return first
