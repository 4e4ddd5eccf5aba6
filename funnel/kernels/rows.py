"""Norms of stored rows, for building. Arrays and numbers only.

Called by `vectors.py` and `build.py`.

n = rows, d = dims, p = prefixes.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.jit import kernel, widen
from funnel.kernels.types import Array


@kernel
def square(row: Array) -> np.float64:
    """Return the squared norm of a row, summed in float64."""
    total = np.float64(0)
    for j in range(len(row)):
        x = np.float64(widen(row[j]))
        total += x * x
    return total


@kernel
def squared_norms(rows: Array, squares: Array) -> None:
    """Write the squared norm of every row: (n, d) float32 → (n,) float64."""
    for i in range(len(rows)):
        squares[i] = square(rows[i])


@kernel
def first_outside(rows: Array, low: np.float64, high: np.float64) -> int:
    """Return the first row whose squared norm is not in [low, high], or −1."""
    for i in range(len(rows)):
        total = square(rows[i])
        if not (low <= total <= high):
            return i
    return -1


@kernel
def prefix_norms(rows: Array, dims: Array, norms: Array) -> None:
    """Write the norm of every prefix of every row.

    Parameters
    ----------
    rows : (n, d) float32, or uint16 that holds float16
    dims : (p,) int64, increasing
    norms : (n, p) float32, out
    """
    for i in range(len(rows)):
        total, start = np.float64(0), 0
        for t in range(len(dims)):
            total += square(rows[i][start : dims[t]])
            norms[i, t] = np.float32(np.sqrt(total))
            start = dims[t]
