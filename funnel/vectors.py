"""Arrays as users have them → checked float32 rows.

Says which dtypes, shapes and values are usable, and names the rows that are not. It
does not read files (`sources.py`) or score anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from funnel.errors import (
    DimensionError,
    InvalidArgumentError,
    InvalidTypeError,
    NonFiniteError,
    ZeroVectorError,
)
from funnel.kernels.query import layer_norm_rows
from funnel.kernels.rows import first_outside, squared_norms
from funnel.kernels.types import HUGE, TINY, Floats, Rows

TRANSFORMS = ("layer_norm",)
METRICS = ("cosine", "ip")
DTYPES = ("float32", "float16")
SHOWN_ROWS = 5
LEAST, MOST = np.float64(TINY) ** 2, np.float64(HUGE) ** 2  # of squared norms


def as_array(data: Any, name: str) -> npt.NDArray[Any]:
    """Return anything array-like as a native numeric ndarray, copying only if needed.

    Raises
    ------
    InvalidTypeError
        For text, mappings, sparse or masked arrays, and dtypes that are not real
        numbers.
    DimensionError
        For rows of unequal length.
    """
    if type(data) is np.ndarray and data.dtype == np.float32:
        return data
    if data is None or isinstance(data, str | bytes | dict | set | int | float | bool):
        raise InvalidTypeError(
            f"{name} must be an array of numbers, not {type(data).__name__}"
        )
    if hasattr(data, "toarray") and hasattr(data, "nnz"):
        raise InvalidTypeError(f"{name} is a sparse matrix: pass {name}.toarray()")
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        raise InvalidTypeError(f"{name} has masked values: fill or drop them first")
    array = _convert(data, name)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiu":
        raise InvalidTypeError(
            f"{name} must hold real numbers, not dtype {array.dtype.name}"
        )
    return array


def _convert(data: Any, name: str) -> npt.NDArray[Any]:
    if hasattr(data, "detach"):  # a torch tensor that still records its gradient
        data = data.detach()
    try:
        if hasattr(data, "__array__") or not hasattr(data, "__dlpack__"):
            array = np.asarray(data)
            return array if type(data) is np.ndarray else _within(data, array, name)
        return np.from_dlpack(data)
    except InvalidTypeError:
        raise
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        _raise_ragged(data, name)
        raise InvalidTypeError(
            f"{name} cannot be read as an array ({error}); is it on a GPU? "
            "then pass it with .cpu()"
        ) from error


def _within(data: Any, array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return the array that an ``__array_interface__`` gave, if its buffer holds it.

    NumPy does not look. Of an interface that names an address nothing can be told.
    """
    interface = getattr(data, "__array_interface__", None)
    buffer = interface.get("data") if isinstance(interface, dict) else None
    if buffer is None or isinstance(buffer, tuple) or not array.size:
        return array
    held = np.frombuffer(buffer, np.uint8)
    first = array.ctypes.data - held.ctypes.data
    steps = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
    start = first + sum(s for s in steps if s < 0)
    stop = first + sum(s for s in steps if s > 0) + array.itemsize
    if start < 0 or stop > held.size:
        raise InvalidTypeError(
            f"{name}: its __array_interface__ has shape {array.shape} of {array.dtype}"
            f", which its buffer of {held.size:,} bytes does not hold"
        )
    return array


def _raise_ragged(data: Any, name: str) -> None:
    """Raise for a sequence of rows of unequal length, naming the first that differs."""
    rows = list(data) if isinstance(data, Sequence) else []
    lengths = [len(row) if hasattr(row, "__len__") else -1 for row in rows]
    for i, length in enumerate(lengths):
        if length != lengths[0]:
            raise DimensionError(
                f"{name} must have rows of one length: row {i} has {max(length, 0)} "
                f"numbers, row 0 has {max(lengths[0], 0)}"
            )


def to_float32(array: npt.NDArray[Any]) -> Floats:
    """Return native, C-contiguous float32; too large numbers become infinite."""
    if array.dtype != np.float32:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    return np.ascontiguousarray(array, dtype=np.float32)


def check_rows(data: Any, name: str, full_dim: int | None = None) -> Floats:
    """Return `data` as (n, d) float32; does not look at the values.

    Parameters
    ----------
    data : (n, d) array-like of real numbers
    name : str
        What errors call it.
    full_dim : int, optional
        The width it must have.
    """
    array = as_array(data, name)
    if array.ndim != 2:
        raise DimensionError(
            f"{name} must have 2 axes (rows, dims), not {array.ndim}: "
            f"shape {array.shape}"
        )
    if array.shape[1] == 0:
        raise DimensionError(f"{name} have 0 dims: shape {array.shape}")
    if full_dim is not None and array.shape[1] != full_dim:
        raise DimensionError(
            f"{name} have {array.shape[1]} dims; this index holds {full_dim}"
        )
    return to_float32(array)


def check_queries(
    data: Any, full_dim: int, metric: str, transform: str | None
) -> tuple[Floats, bool]:
    """Return queries as (q, full_dim) float32, and whether one 1-D query was given.

    They are transformed, but not normalised.

    Raises
    ------
    DimensionError, NonFiniteError, ZeroVectorError, InvalidTypeError
        Naming the widths or the rows.
    """
    array = as_array(data, "queries")
    single = array.ndim == 1 and array.size > 0
    if array.size == 0 and array.ndim <= 2 and full_dim not in array.shape[1:]:
        array = array.reshape(0, full_dim) if array.ndim == 1 else array
    if single:
        array = array[None, :]
    if array.ndim != 2:
        raise DimensionError(
            f"queries must have 1 or 2 axes, not {array.ndim}: shape {array.shape}"
        )
    if array.shape[1] != full_dim:
        raise DimensionError(
            f"queries have {array.shape[1]} dims; this index holds {full_dim}"
            " (pass full embeddings: the index truncates them itself)"
        )
    rows = apply_transform(to_float32(array), transform)
    if not rows.flags.writeable:  # Numba compiles anew for a read-only array
        rows = rows.copy()
    least = LEAST if metric == "cosine" else np.float64(0)
    if first_outside(rows, least, MOST) >= 0:
        bad = bad_rows(rows, zero_is_bad=metric == "cosine")
        raise_bad_rows(rows, bad, "queries", "float32")
    return rows, single


def bad_rows(rows: Floats, *, zero_is_bad: bool) -> Rows:
    """Return the rows that hold NaN or infinity, or are zero where that is bad.

    A row's sum of squares in float64 is finite exactly where all its numbers are:
    float32 squares cannot overflow float64. A norm that overflows float32 is infinite;
    one that underflows is zero: no direction can be told from it.
    """
    squares = np.empty(len(rows))
    squared_norms(rows, squares)
    bad = ~(squares <= MOST)
    if zero_is_bad:
        bad |= squares < LEAST
    return np.flatnonzero(bad)


def raise_bad_rows(
    rows: Floats, bad: Rows, name: str, dtype: str, first: int = 0
) -> None:
    """Raise the error that fits the first of the `bad` rows, naming some of them."""
    row = rows[bad[0]]
    kind: type[InvalidArgumentError]
    if np.abs(row).max() < 1:
        kind, what = ZeroVectorError, "zero vectors have no direction under cosine"
    else:
        kind, what = NonFiniteError, f"NaN, infinity or too large for {dtype}"
    shown = ", ".join(str(first + int(i)) for i in bad[:SHOWN_ROWS])
    more = f" and {len(bad) - SHOWN_ROWS} more" if len(bad) > SHOWN_ROWS else ""
    advice = "; build(on_bad_vectors='drop') leaves such rows out"
    raise kind(
        f"{name}, row {shown}{more}: {what}" + (advice if name == "embeddings" else "")
    )


def apply_transform(rows: Floats, transform: str | None) -> Floats:
    """Return `rows` transformed as their model wants it; the input is not changed."""
    if transform is None:
        return rows
    out = rows.copy()
    layer_norm_rows(out)
    return out


def as_stored(rows: Floats, dtype: str) -> Floats:
    """Return `rows` rounded as `dtype` stores them; too large numbers are infinite."""
    if dtype == "float32":
        return rows
    with np.errstate(over="ignore"):
        return rows.astype(dtype).astype(np.float32)


def row_norms(rows: Floats) -> Floats:
    """Return the (n, 1) norms of (n, d) rows, summed in float64."""
    squares = np.empty(len(rows))
    squared_norms(np.ascontiguousarray(rows), squares)
    return np.sqrt(squares).astype(np.float32)[:, None]


def unit(rows: Floats, out: Floats | None = None) -> Floats:
    """Return (n, d) rows scaled to unit norm, in `out` if given; zeros stay zero."""
    norms = row_norms(rows)
    norms[norms < TINY] = np.inf
    found: Floats = np.divide(rows, norms, out=out)
    return found
