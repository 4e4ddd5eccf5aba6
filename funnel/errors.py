"""The exceptions of `funnel`: every error says what came, what was needed, what to do.

Each has two parents, so that callers may catch ours or Python's own::

    FunnelError
    ├── InvalidArgumentError   ValueError        an argument's value is unusable
    │   ├── DimensionError                       wrong width or number of axes
    │   ├── NonFiniteError                       NaN or infinity in vectors
    │   ├── ZeroVectorError                      a zero vector has no direction (cosine)
    │   ├── DuplicateIdError                     an id given twice
    │   └── CascadeError                         stages that cannot follow each other
    ├── InvalidTypeError       TypeError         an argument of an unusable type
    ├── UnknownIdError         LookupError       an id that the index does not hold
    ├── UnknownVersionError    LookupError       a version that is not kept
    ├── IndexNotFoundError     FileNotFoundError nothing at that path
    ├── IndexExistsError       FileExistsError   something is already at that path
    ├── NotAnIndexError        OSError           the path holds something else
    ├── CorruptIndexError      OSError           bytes are not what was written
    ├── FormatVersionError     OSError           written by a newer version
    ├── StorageError           OSError           the disk refused
    ├── LockedError            OSError           somebody else is writing
    ├── ConflictError          OSError           somebody else wrote this version
    ├── UncertainCommitError   OSError           written, but perhaps not durable
    ├── ReadOnlyError          OSError           the handle is open for reading
    ├── ClosedError            ValueError        the handle was closed
    ├── OutOfMemoryError       MemoryError       a build or a change needs more memory
    └── BuilderMissingError    ImportError       the builder is not installed
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping

DEEPEST = 100  # dicts and lists within each other
NESTED = (Mapping, list, tuple, set, frozenset)
PLAIN = (str, int, float, bytes, type(None))  # most values are: quick to pass by


class FunnelError(Exception):
    """Parent of every error that `funnel` raises on purpose."""


class InvalidArgumentError(FunnelError, ValueError):
    """An argument's value is unusable."""


class DimensionError(InvalidArgumentError):
    """Vectors of the wrong width, or arrays with the wrong number of axes."""


class NonFiniteError(InvalidArgumentError):
    """NaN or infinity where a finite number is needed."""


class ZeroVectorError(InvalidArgumentError):
    """A zero vector under a metric that needs a direction."""


class DuplicateIdError(InvalidArgumentError):
    """An id that was given more than once."""


class CascadeError(InvalidArgumentError):
    """Stages that cannot follow each other, or do not fit the index."""


class InvalidTypeError(FunnelError, TypeError):
    """An argument of a type that cannot be used."""


class UnknownIdError(FunnelError, LookupError):
    """An id that the index does not hold."""


class UnknownVersionError(FunnelError, LookupError):
    """A version that the index does not keep."""


class IndexNotFoundError(FunnelError, FileNotFoundError):
    """Nothing is at the given path."""


class IndexExistsError(FunnelError, FileExistsError):
    """Something is already at the path where an index was to be made."""


class NotAnIndexError(FunnelError, OSError):
    """The path holds something that is not a funnel index."""


class CorruptIndexError(FunnelError, OSError):
    """The bytes of an index are not the bytes that were written."""


class FormatVersionError(FunnelError, OSError):
    """The index was written by a newer version of the format."""


class StorageError(FunnelError, OSError):
    """The disk refused to store or to read."""


class LockedError(FunnelError, OSError):
    """Somebody else is writing to the index."""


class ConflictError(FunnelError, OSError):
    """Somebody else has written the version that was to be written."""


class UncertainCommitError(FunnelError, OSError):
    """A version was written, but may not survive a power cut."""


class ReadOnlyError(FunnelError, OSError):
    """The handle is open for reading only."""


class ClosedError(FunnelError, ValueError):
    """The handle was closed."""


class OutOfMemoryError(FunnelError, MemoryError):
    """A build or a change needs more memory than there is."""


class BuilderMissingError(FunnelError, ImportError):
    """The asked graph builder is not installed."""


@contextlib.contextmanager
def typed_memory() -> Iterator[None]:
    """Turn the MemoryError of Python, NumPy or Arrow into ours."""
    try:
        yield
    except MemoryError as error:
        if isinstance(error, FunnelError):
            raise
        raise OutOfMemoryError(
            f"not enough memory ({error}): give the process more, or hand over fewer "
            "rows at a time"
        ) from error


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`, else raise and name the nearest one."""
    options = tuple(choices)
    if isinstance(value, str) and value in options:
        return value
    listed = ", ".join(repr(option) for option in options)
    if not isinstance(value, str):
        raise InvalidTypeError(
            f"{name} must be one of {listed}, not {type(value).__name__} {value!r}"
        )
    near = difflib.get_close_matches(value, options, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InvalidArgumentError(
        f"unknown {name} {value!r}: choose one of {listed}{hint}"
    )


def check_flag(name: str, value: object) -> bool:
    """Return `value` if it is a bool, else raise: "no" and "0" would be true."""
    if not isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be a bool, not {value!r}")
    return value


def check_whole(
    name: str,
    value: object,
    low: int = 1,
    high: int = 2**31 - 1,
    error: type[InvalidArgumentError] = InvalidArgumentError,
) -> int:
    """Return `value` as an int in [low, high], else raise `error`.

    Booleans and floats are refused: `True` and `64.0` are nearly always mistakes.
    """
    if isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be an int, not bool {value!r}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidTypeError(
            f"{name} must be an int, not {type(value).__name__} {value!r}"
        ) from None
    if not low <= number <= high:
        raise error(f"{name} must be in {low} … {high:,}, not {number}")
    return number


def check_depth(name: str, value: object) -> None:
    """Raise if dicts and lists are nested too deep to be read, or shown, in turn."""
    left = [(value, 1)]
    while left:
        one, depth = left.pop()
        if depth > DEEPEST:
            raise InvalidArgumentError(
                f"{name}: dicts and lists are nested more than {DEEPEST} deep"
            )
        if isinstance(one, Mapping):
            one = itertools.chain(one, one.values())
        if isinstance(one, Iterable):
            inner = [i for i in one if not isinstance(i, PLAIN)]
            left += [(i, depth + 1) for i in inner if isinstance(i, NESTED)]


def check_share(name: str, value: object) -> float:
    """Return `value` as a float that is finite and not negative, else raise."""
    number = check_number(name, value)
    if not 0 <= number < float("inf"):
        raise InvalidArgumentError(
            f"{name} must be at least 0 and finite, not {number}"
        )
    return number


def check_number(name: str, value: object) -> float:
    """Return `value` as a float that is not NaN, else raise."""
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise InvalidTypeError(
            f"{name} must be a number, not {type(value).__name__} {value!r}"
        )
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"{name} must be a number: {error}") from error
    except OverflowError as error:
        raise InvalidArgumentError(f"{name} is too large: {error}") from error
    if number != number:
        raise InvalidArgumentError(f"{name} is NaN")
    return number
