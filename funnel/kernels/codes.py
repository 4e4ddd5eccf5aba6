"""Codes: vectors as int8, and their inner products. Arrays and numbers only.

Called by `kernels/query.py`, `kernels/walk.py` and `kernels/gather.py`.

w = bytes of a code, a multiple of 64; zeros follow the coordinates.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from funnel.kernels.jit import LINE_BYTES, bare
from funnel.kernels.lanes import BLOCK, SHIFT, dot_shifted
from funnel.kernels.types import TINY, Array, Floats


def code_width(dim: int) -> int:
    """Return the bytes of a code of `dim` coordinates: whole cache lines."""
    return -(-dim // LINE_BYTES) * LINE_BYTES


def is_head(dim: int, code_dim: int) -> bool:
    """Tell whether a walk may score the first `dim` of a code's dims: lines, or all."""
    return dim == code_dim or (dim < code_dim and dim % LINE_BYTES == 0)


def rows_as_codes(rows: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Return (n, d) rows as (n, w) int8, each with a unit of its own, and the units."""
    codes = np.zeros((len(rows), code_width(rows.shape[1])), np.int8)
    units = np.abs(rows).max(axis=1, initial=TINY) / np.float32(127)
    codes[:, : rows.shape[1]] = np.rint(rows / units[:, None])
    codes.flags.writeable = units.flags.writeable = False
    return codes, units


@bare
def quantise(vector: Array, code: Array) -> np.float32:
    """Write `vector` as int8, its largest magnitude at 127; return the scale used."""
    # As integers, magnitudes order alike, and their maximum vectorises.
    bits, top = vector.view(np.int32), np.int32(0)
    for j in range(len(bits)):
        top = max(top, bits[j] & np.int32(0x7FFFFFFF))
    largest = np.int32(top).view(np.float32)
    scale = np.float32(127) / largest if largest > 0 else np.float32(0)
    code[:] = 0
    for j in range(len(vector)):
        code[j] = np.int8(np.rint(vector[j] * scale))
    return scale


@bare
def quantise_all(rows: Array, unit: np.float32, codes: Array) -> None:
    """Write rows as int8 in steps of `unit`, clipped at ±127.

    Parameters
    ----------
    rows : (n, d) float32
    unit : float32
    codes : (n, ≥ d) int8, out
    """
    top = np.float32(127)
    for i in range(len(rows)):
        row, code = rows[i], codes[i]
        for j in range(len(row)):
            step = np.rint(row[j] / unit)
            code[j] = np.int8(min(max(step, -top), top))


@bare
def code_offset(query: Array) -> np.int32:
    """Return what takes the shift of `dot_shifted` back out of a query's scores."""
    total = np.int32(0)
    for j in range(len(query)):
        total = np.int32(total + query[j])
    return np.int32(-SHIFT * total)


@bare
def score_code(query: Array, code: Array, offset: np.int32) -> np.int32:
    """Return the inner product of two (w,) int8 codes.

    `offset` is the query's `code_offset`.
    """
    total = offset
    for start in range(0, len(code), BLOCK):
        total = np.int32(total + dot_shifted(query, code, start))
    return total
