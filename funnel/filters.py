"""Filters: what a user says of metadata and ids → which rows may be answers.

A dict in the words of MongoDB, an Arrow expression, a mask or a list of ids. Arrow
evaluates it, a segment at a time; searches nothing. Called by `handle.py`, which keeps
what it made for the next search (`Snapshot.keep_selection`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from funnel.conditions import Bools, bools_of, certain, evaluate, parse, typed
from funnel.errors import (
    DimensionError,
    InvalidArgumentError,
    InvalidTypeError,
)
from funnel.reading import id_column, rows_of, schema_of, widened
from funnel.selection import Flags, Selection, select
from funnel.snapshot import Snapshot
from funnel.store.ids import check_ids


def selection_of(snapshot: Snapshot, given: Any) -> Selection:
    """Return the live rows that pass a filter.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError, DimensionError
        Naming the column, the operator or the length that cannot be used.
    """
    key, find = _read(given)
    kept = snapshot.kept_selection(key)
    if kept is None:
        kept = select(snapshot.segments, _live_flags(snapshot, find(snapshot)))
        snapshot.keep_selection(key, kept)
    return kept


def check_narrows(given: Any) -> None:
    """Raise for a dict that every row passes, whatever it holds: ``{}``, for one.

    Raises
    ------
    InvalidArgumentError
        And what `parse` raises.
    """
    if isinstance(given, Mapping) and certain(parse(given)):
        raise InvalidArgumentError(
            f"filter {given!r} says nothing of any column, so every row passes; if all "
            'are meant, say so: {"id": {"$exists": True}}'
        )


def _read(given: Any) -> tuple[Any, Callable[[Snapshot], list[Bools]]]:
    """Return a key that equal filters share, and what evaluates this one."""
    if isinstance(given, Mapping):
        condition = parse(given)
        return typed(condition), lambda snapshot: _of_tables(
            snapshot, lambda table: evaluate(condition, table)
        )
    if isinstance(given, pc.Expression):
        return ("expression", _bytes_of(given)), lambda snapshot: _of_tables(
            snapshot, lambda table: _expressed(given, table)
        )
    if hasattr(given, "to_numpy") and not isinstance(given, pa.Array | pa.ChunkedArray):
        given = given.to_numpy()  # a column of a data frame
    if isinstance(given, str | bytes) or not isinstance(
        given, Sequence | np.ndarray | pa.Array | pa.ChunkedArray
    ):
        raise InvalidTypeError(
            "filter must be a dict, an Arrow expression, a mask or a list of ids, not "
            f"{type(given).__name__}"
        )
    mask = _as_mask(given)
    if mask is not None:
        return ("mask", mask.shape, mask.tobytes()), lambda snapshot: _of_mask(
            snapshot, mask
        )
    _refuse_flags(given)
    ids = check_ids(given)
    listed = ids.tobytes() if isinstance(ids, np.ndarray) else tuple(ids.to_pylist())
    return ("ids", listed), lambda snapshot: _of_rows(snapshot, rows_of(snapshot, ids))


def _bytes_of(expression: pc.Expression) -> bytes:
    """Return an expression as Arrow serialises it; its text may be abridged."""
    return bytes(expression.__reduce__()[1][0])


def _refuse_flags(given: Any) -> None:
    """Refuse zeros and ones: they are meant for a mask, and would be taken for ids."""
    flags = np.asarray(given) if isinstance(given, np.ndarray) else np.empty(0)
    if flags.dtype in (np.int8, np.uint8) and len(flags) > 2 and flags.max() <= 1:
        raise InvalidTypeError(
            f"filter is {len(flags)} zeros and ones as {flags.dtype}: a mask needs "
            "bools (mask.astype(bool)), ids are given once"
        )


def is_mask(given: Any) -> bool:
    """Tell whether a filter is a bool for each row."""
    return _as_mask(given) is not None


def _as_mask(given: Any) -> Bools | None:
    """Return a mask, if it is one; null is false."""
    if isinstance(given, pa.Array | pa.ChunkedArray):
        return bools_of(given) if pa.types.is_boolean(given.type) else None
    if isinstance(given, np.ndarray):
        return np.array(given) if given.dtype == bool else None
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        bools = len(given) and all(isinstance(one, bool | np.bool_) for one in given)
        return np.array(given, bool) if bools else None
    return None


def _of_mask(snapshot: Snapshot, mask: Bools) -> list[Bools]:
    live = snapshot.live_rows()
    if mask.shape != live.shape:
        raise DimensionError(
            f"filter is a mask of shape {mask.shape}; the index has {len(live)} rows"
        )
    return _of_rows(snapshot, live[mask])


def _of_rows(snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> list[Bools]:
    flags = np.zeros(int(snapshot.firsts[-1]), bool)
    flags[rows[rows >= 0]] = True
    return [flags[a:b] for a, b in itertools.pairwise(snapshot.firsts.tolist())]


def _of_tables(snapshot: Snapshot, find: Callable[[pa.Table], Bools]) -> list[Bools]:
    """Evaluate over the metadata and ids of each segment."""
    schema, found = schema_of(snapshot), []
    for first, segment in zip(snapshot.firsts[:-1], snapshot.segments, strict=True):
        table = widened(segment.table, segment.rows, schema)
        rows = np.arange(first, first + segment.rows)
        table = pa.table(
            [*table.columns, id_column(snapshot, rows)],
            names=[*table.column_names, "id"],
        )
        found.append(find(table))
    return found


def _live_flags(snapshot: Snapshot, found: list[Bools]) -> list[Flags | None]:
    flags: list[Flags | None] = []
    for passing, live in zip(found, snapshot.live, strict=True):
        own = passing.astype(np.uint8)
        flags.append(own if live is None else own & live)
    return flags


def _expressed(expression: pc.Expression, table: pa.Table) -> Bools:
    from pyarrow import dataset

    try:
        passing = dataset.dataset(table).to_table(columns={"passes": expression})
        column = passing.column("passes")
        if not pa.types.is_boolean(column.type):
            raise InvalidTypeError(
                f"filter gives {column.type}, not bool: {expression}"
            )
    except pa.ArrowException as error:
        raise InvalidArgumentError(f"filter {expression}: {error}") from error
    return bools_of(column)
