"""Conditions: a filter's dict in the words of MongoDB, read and evaluated by Arrow.

A condition is a tuple of an operator and what it takes. Knows tables, no index; called
by `filters.py`.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from funnel.errors import InvalidArgumentError, InvalidTypeError, check_depth

Bools: TypeAlias = npt.NDArray[np.bool_]
Condition: TypeAlias = tuple[Any, ...]  # operator and what it takes: hashable

COMPARISONS: dict[str, Callable[..., Any]] = {
    "$eq": pc.equal,
    "$gt": pc.greater,
    "$gte": pc.greater_equal,
    "$lt": pc.less,
    "$lte": pc.less_equal,
}
OPERATORS = (*COMPARISONS, "$ne", "$in", "$nin", "$exists", "$contains", "$not")
JOINS = ("$and", "$or", "$not")
LONGEST = 10_000  # of one list in a dict; ids and masks have no limit


def parse(given: Mapping[str, Any]) -> Condition:
    """Return a dict as a condition: ``("$eq", "lang", "en")``, ``("$and", …)``."""
    check_depth("filter", given)
    return _parse(given)


def _parse(given: Mapping[str, Any]) -> Condition:
    parts = []
    for name, value in given.items():
        if not isinstance(name, str):
            raise InvalidTypeError(f"filter: a column's name must be str, not {name!r}")
        parts.append(
            _parse_join(name, value)
            if name.startswith("$")
            else _parse_column(name, value)
        )
    return parts[0] if len(parts) == 1 else ("$and", *parts)


def _parse_join(operator: str, value: Any) -> Condition:
    if operator not in JOINS:
        raise _unknown(operator, JOINS)
    if operator == "$not":
        return ("$not", _parse(_mapping(operator, value)))
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise InvalidTypeError(
            f"filter: {operator} takes a list of dicts, not {value!r}"
        )
    return (operator, *(_parse(_mapping(operator, one)) for one in value))


def _mapping(operator: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidTypeError(f"filter: {operator} takes dicts, not {value!r}")
    return value


def _parse_column(name: str, value: Any) -> Condition:
    if not isinstance(value, Mapping):
        return ("$eq", name, _plain(name, value))
    parts = [_parse_operator(name, o, v) for o, v in value.items()]
    if not parts:
        raise InvalidArgumentError(f"filter: column {name!r} has an empty condition")
    return parts[0] if len(parts) == 1 else ("$and", *parts)


def _parse_operator(name: str, operator: Any, value: Any) -> Condition:
    if operator not in OPERATORS:
        raise _unknown(operator, OPERATORS)
    if operator == "$not":
        return ("$not", _parse_column(name, _mapping(operator, value)))
    if operator in ("$in", "$nin"):
        if isinstance(value, str | bytes | Mapping) or not isinstance(
            value, Sequence | set | frozenset | np.ndarray
        ):
            raise InvalidTypeError(f"filter: {operator} takes a list, not {value!r}")
        if len(value) > LONGEST:
            raise InvalidArgumentError(
                f"filter: {operator} has {len(value):,} values, more than {LONGEST:,}"
            )
        return (operator, name, tuple(_plain(name, one) for one in value))
    if operator == "$exists" and not isinstance(value, bool):
        raise InvalidTypeError(f"filter: $exists takes a bool, not {value!r}")
    return (operator, name, _plain(name, value))


def _plain(name: str, value: Any) -> Any:
    """Return a value that has a hash, as Python has it."""
    value = value.item() if isinstance(value, np.generic) else value
    value = value.as_py() if isinstance(value, pa.Scalar) else value
    try:
        hash(value)
    except TypeError:
        raise InvalidTypeError(
            f"filter: column {name!r} cannot be compared with {value!r}"
        ) from None
    return value


def _unknown(operator: Any, known: Sequence[str]) -> InvalidArgumentError:
    near = difflib.get_close_matches(str(operator), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InvalidArgumentError(
        f"filter: unknown operator {operator!r}: use {', '.join(known)}{hint}"
    )


def typed(condition: Any) -> Any:
    """Return a condition with the type beside each value: True is not 1."""
    if isinstance(condition, tuple):
        return tuple(typed(one) for one in condition)
    return type(condition), condition


def evaluate(condition: Condition, table: pa.Table) -> Bools:
    """Return which rows of a table meet a condition.

    A null meets no comparison, and nothing compares to one; but ``$eq`` None, and None
    in ``$in``, are met by nulls. ``$ne``, ``$nin`` and ``$not`` are met where their
    opposite is not, by nulls too.
    """
    operator, *rest = condition
    if operator == "$and":
        found = np.ones(len(table), bool)
        for one in rest:
            found &= evaluate(one, table)
        return found
    if operator == "$or":
        found = np.zeros(len(table), bool)
        for one in rest:
            found |= evaluate(one, table)
        return found
    if operator == "$not":
        return ~evaluate(rest[0], table)
    opposite = {"$ne": "$eq", "$nin": "$in"}.get(operator)
    if opposite:
        return ~evaluate((opposite, *rest), table)
    name, value = rest
    return _compare(operator, name, value, table)


def _compare(operator: str, name: str, value: Any, table: pa.Table) -> Bools:
    if name not in table.column_names:
        if operator == "$exists":
            return np.full(len(table), not value)
        raise InvalidArgumentError(
            f"filter: no metadata column {name!r}: there are "
            f"{', '.join(sorted(table.column_names))}"
        )
    column = table.column(name)
    if operator == "$exists":
        present = bools_of(pc.is_valid(column))
        return present if value else ~present
    try:
        if operator == "$contains":
            return _contains(column, value)
        if operator == "$in":
            return _among(column, value)
        if value is None and operator == "$eq":
            return bools_of(pc.is_null(column))
        if value is None:
            return np.zeros(len(column), bool)
        return bools_of(COMPARISONS[operator](column, _scalar(value, column.type)))
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise InvalidTypeError(
            f"filter: column {name!r} is {column.type}; {operator} {value!r} does not "
            f"fit: {error}"
        ) from error


def _scalar(value: Any, kind: pa.DataType) -> pa.Scalar:
    """Return a value as Arrow: of the column's type, where it is one of its values.

    A float is rounded as the column's are.
    """
    plain = pa.scalar(value)
    if pa.types.is_floating(kind) and isinstance(value, float):
        return pa.scalar(value, kind)
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        try:
            cast = pa.scalar(value, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return plain
        return cast if cast.as_py() == value else plain
    return plain


def _among(column: pa.ChunkedArray, values: tuple[Any, ...]) -> Bools:
    """Tell which rows equal one of the values, each compared as ``$eq`` would.

    So zeros of both signs are one, and NaN is none: not so in Arrow's sets.
    """
    found, known = np.zeros(len(column), bool), []
    for value in values:
        if value is None:
            found |= bools_of(pc.is_null(column))
        elif _is_of(value, column.type) and value and value == value:
            with contextlib.suppress(pa.ArrowInvalid, OverflowError):  # too large
                known.append(pa.scalar(value, column.type).as_py())
        else:
            found |= bools_of(pc.equal(column, _scalar(value, column.type)))
    if known:
        found |= bools_of(pc.is_in(column, pa.array(known, column.type)))
    return found


def _is_of(value: Any, kind: pa.DataType) -> bool:
    """Tell whether Arrow holds a value in a column of this type as it is."""
    if isinstance(value, bool):
        return bool(pa.types.is_boolean(kind))
    if isinstance(value, int):
        return bool(pa.types.is_integer(kind))
    if isinstance(value, float):
        return bool(pa.types.is_floating(kind))
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return isinstance(value, str) and texts


def _contains(column: pa.ChunkedArray, value: Any) -> Bools:
    """Tell which texts hold `value`, or which lists have it as an element."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return bools_of(pc.match_substring(column, value))
    if not (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
    ):
        raise TypeError("only texts and lists contain something")
    found = np.zeros(len(column), bool)
    start = 0
    for chunk in column.chunks:
        parents = pc.list_parent_indices(chunk)
        same = pc.equal(pc.list_flatten(chunk), pa.scalar(value))
        found[start + np.asarray(parents)[bools_of(same)]] = True
        start += len(chunk)
    return found


def certain(condition: Condition) -> bool | None:
    """Tell whether all rows meet a condition, or none; None where they decide."""
    operator, *rest = condition
    if operator in ("$and", "$or"):
        found = [certain(one) for one in rest]
        if (operator == "$or") in found:
            return bool(operator == "$or")
        return None if None in found else bool(operator == "$and")
    if operator == "$not":
        inner = certain(rest[0])
        return None if inner is None else not inner
    if operator in ("$in", "$nin") and not rest[1]:
        return bool(operator == "$nin")
    return None


def bools_of(column: Any) -> Bools:
    """Return an Arrow column of booleans; null is false."""
    filled = pc.fill_null(column, False)
    if isinstance(filled, pa.ChunkedArray):
        filled = filled.combine_chunks()
    return np.array(filled.to_numpy(zero_copy_only=False), bool)
