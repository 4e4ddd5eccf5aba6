"""The users' ids: which are usable, which come twice, and where each row is.

Ids are int64 or text, one kind an index. Rows are found by binary search in a sorted,
mapped table of (key, row): the key of a number is itself, of text its 64-bit hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from funnel.errors import (
    DuplicateIdError,
    InvalidArgumentError,
    InvalidTypeError,
)
from funnel.store.matrix import FileEntry, write_matrix

Int64s = npt.NDArray[np.int64]
Ids: TypeAlias = Int64s | Any  # int64, or an Arrow column of text
INT64_MAX = np.iinfo(np.int64).max
MAX_ID_BYTES = 1024


def check_ids(ids: Any) -> Ids:
    """Return ids as int64 or as Arrow text; duplicates are `first_duplicate`'s matter.

    Raises
    ------
    InvalidTypeError
        For floats, booleans, bytes, missing or mixed ids, and for one bare text.
    InvalidArgumentError
        For numbers beyond int64, text that is empty, too long or not UTF-8.
    """
    if isinstance(ids, str | bytes | dict | set) or ids is None:
        raise InvalidTypeError(
            f"ids must be a sequence of int or str, not one {type(ids).__name__}"
        )
    if hasattr(ids, "__arrow_c_array__") or hasattr(ids, "__arrow_c_stream__"):
        ids = pa.chunked_array(ids) if not isinstance(ids, pa.Array) else ids
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        return _from_arrow(ids)
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1:
            raise InvalidArgumentError(f"ids must have 1 axis, not {ids.ndim}")
        if ids.dtype.kind in "iu":
            return _integers(ids)
        if ids.dtype.kind not in "UOT":
            raise InvalidTypeError(f"ids must be int or str, not {ids.dtype.name}")
        ids = ids.tolist()
    try:
        return _from_list(list(ids))
    except TypeError as error:
        if isinstance(error, InvalidTypeError):
            raise
        raise InvalidTypeError(
            f"ids must be a sequence of int or str, not {type(ids).__name__}"
        ) from None


def _from_arrow(ids: pa.Array | pa.ChunkedArray) -> Ids:
    if ids.null_count:
        raise InvalidTypeError(f"ids hold {ids.null_count} nulls")
    if pa.types.is_dictionary(ids.type):
        ids = ids.cast(ids.type.value_type)
    if pa.types.is_string_view(ids.type):
        ids = ids.cast(pa.large_string())
    kind = ids.type
    if pa.types.is_integer(kind):
        return _integers(ids.to_numpy())
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InvalidTypeError(f"ids must be int or str, not {kind}")
    return _text(ids)


def _integers(ids: npt.NDArray[Any]) -> Int64s:
    if ids.dtype.kind == "u" and len(ids) and int(ids.max()) > INT64_MAX:
        raise InvalidArgumentError(f"id {int(ids.max())} does not fit int64")
    return np.array(ids, dtype=np.int64)  # a copy: the user's may change


def _from_list(ids: list[Any]) -> Ids:
    kinds = {type(i) for i in ids}
    if any(issubclass(kind, bool | np.bool_) for kind in kinds):
        raise InvalidTypeError("ids must be int or str, not bool")
    if all(issubclass(kind, int | np.integer) for kind in kinds):
        big = [i for i in ids if not -INT64_MAX - 1 <= int(i) <= INT64_MAX]
        if big:
            raise InvalidArgumentError(f"id {big[0]} does not fit int64")
        return np.array([int(i) for i in ids], dtype=np.int64)
    if all(issubclass(kind, str) for kind in kinds):
        return _text(ids)
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise InvalidTypeError(f"ids must be all int or all str, not {names}")


def _text(ids: Any) -> pa.ChunkedArray:
    try:
        arrow = (
            pa.chunked_array([pa.array(ids, pa.large_string())])
            if isinstance(ids, list)
            else pa.chunked_array(
                ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
            ).cast(pa.large_string())
        )
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"an id is not valid text: {error}") from None
    lengths = pa.compute.binary_length(arrow)
    if len(arrow) and pa.compute.min(lengths).as_py() == 0:
        raise InvalidArgumentError("an id is the empty text")
    if len(arrow) and pa.compute.max(lengths).as_py() > MAX_ID_BYTES:
        raise InvalidArgumentError(f"an id is longer than {MAX_ID_BYTES} bytes")
    return arrow


def key_of(identifier: Any) -> int | None:
    """Return the key of one id, as a signed 64-bit number; None if it has none."""
    if isinstance(identifier, str):
        try:
            hashed = xxhash.xxh3_64_intdigest(identifier.encode("utf-8"))
        except UnicodeEncodeError:
            return None
        return hashed - (1 << 64) if hashed > INT64_MAX else hashed
    number = int(identifier)
    return number if -INT64_MAX - 1 <= number <= INT64_MAX else None


def keys_of(ids: Ids) -> Int64s:
    """Return the (n,) keys of checked ids."""
    if isinstance(ids, np.ndarray):
        return ids
    digest = xxhash.xxh3_64_intdigest
    hashes = (digest(text.encode("utf-8")) for text in ids.to_pylist())
    return np.fromiter(hashes, np.uint64, len(ids)).view(np.int64)


def check_distinct(keys: Int64s, ids: Any) -> None:
    """Raise `DuplicateIdError` if two rows have the same id.

    Parameters
    ----------
    keys : (n,) int64
    ids : indexable by row
        Tells equal ids from ids that merely share a key.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for i in np.flatnonzero(ordered[1:] == ordered[:-1]):
        earlier, later = int(order[i]), int(order[i + 1])
        if ids[earlier] == ids[later]:
            raise DuplicateIdError(
                f"id {ids[later]!s} is given twice: rows {earlier} and {later}"
            )


def write_lookup(path: Path, keys: Int64s) -> FileEntry:
    """Write (key, row) pairs sorted by key, then row."""
    order = np.argsort(keys, kind="stable")
    return write_matrix(path, "key_row", np.stack([keys[order], order], axis=1))


def rows_with_keys(lookup: npt.NDArray[np.int64], keys: Int64s) -> tuple[Any, Any]:
    """Return which keys are in a lookup, (m,), and their rows, (m,).

    A key that several ids of text share is there as often.
    """
    known = lookup[:, 0]
    start = np.searchsorted(known, keys, side="left")
    count = np.searchsorted(known, keys, side="right") - start
    at = np.repeat(np.arange(len(keys)), count)
    within = np.arange(len(at)) - np.repeat(np.cumsum(count) - count, count)
    return at, lookup[np.repeat(start, count) + within, 1]


def candidate_rows(lookup: npt.NDArray[np.int64], key: int | None) -> Sequence[int]:
    """Return the rows whose ids have this key: none, one, or a collision's."""
    if key is None:
        return []
    keys = lookup[:, 0]
    start = int(np.searchsorted(keys, key, side="left"))
    stop = int(np.searchsorted(keys, key, side="right"))
    rows: list[int] = lookup[start:stop, 1].tolist()
    return rows
