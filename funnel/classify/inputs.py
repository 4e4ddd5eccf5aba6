"""What a user gives the classifier, checked: scikit-learn's complaints as our errors.

Fits and learns nothing. Called by `estimator.py`.

n = rows, d = width, s = stages.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_X_y

from funnel.classify.heads import Floats, Head, Rows
from funnel.errors import (
    DimensionError,
    FunnelError,
    InvalidArgumentError,
    InvalidTypeError,
    check_choice,
    check_number,
    check_whole,
)

FIRST_DIM = 8
FLOATS = (np.float64, np.float32)


class UnfittedError(InvalidArgumentError, NotFittedError):  # type: ignore[misc]
    """The classifier was asked before `fit`; scikit-learn's error as well as ours."""


def check_parameters(
    model: Any, width: int, given: Mapping[int, Head] | None
) -> tuple[int, ...]:
    """Check all parameters of an `AdaptiveClassifier`; return the dims of its stages.

    Parameters
    ----------
    model
        The classifier.
    width
        Of the rows.
    given
        Heads that came as its parameter, by dim.
    """
    if given is None:
        check_choice("heads", model.heads, ("logistic", "knn"))
    for name in ("alpha", "validation_share"):
        number = check_number(name, getattr(model, name))
        if not 0 < number < 1:
            raise InvalidArgumentError(
                f"{name} must be above 0 and below 1, not {number}"
            )
    check_whole("n_neighbors", model.n_neighbors)
    check_whole("seed", model.seed, 0)
    dims = nested_dims(model.dims, width, given)
    if isinstance(model.thresholds, str):
        check_choice("thresholds", model.thresholds, ("best_pair", "risk"))
    else:
        given_thresholds(model.thresholds, len(dims) - 1)
    return dims


@contextlib.contextmanager
def typed() -> Iterator[None]:
    """Raise scikit-learn's complaints as ours, in its words."""
    try:
        yield
    except FunnelError:
        raise
    except TypeError as error:
        raise InvalidTypeError(str(error)) from error
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from error


def unlabelled(X: Any) -> Rows:  # noqa: N803
    """Return checked rows, float32 or float64."""
    with typed():
        rows: Rows = check_array(X, dtype=FLOATS)
    return rows


def labelled(X: Any, y: Any) -> tuple[Rows, NDArray[Any]]:  # noqa: N803
    """Return checked rows, float32 or float64, and their labels."""
    with typed():
        rows, labels = check_X_y(X, y, dtype=FLOATS)
        check_classification_targets(labels)
    return rows, labels


def pair(validation: Any) -> tuple[Any, Any]:
    """Return rows and labels as they were given."""
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise InvalidTypeError("validation must be a pair: rows and their labels")
    return validation[0], validation[1]


def nested_dims(
    dims: Any, width: int, given: Mapping[int, Head] | None
) -> tuple[int, ...]:
    """Return dims that increase, are heads' dims, and fit the width."""
    if dims is None and given is not None:
        found = tuple(given)
    elif dims is None:
        doubled = (FIRST_DIM << i for i in itertools.count())
        shorter = itertools.takewhile(lambda dim: dim < width, doubled)
        found = (*shorter, width)
    elif isinstance(dims, str | bytes | Mapping) or not hasattr(dims, "__iter__"):
        raise InvalidTypeError(f"dims must be a sequence of ints, not {dims!r}")
    else:
        found = tuple(check_whole("dims", dim) for dim in dims)
    if not found or any(b <= a for a, b in itertools.pairwise(found)):
        raise InvalidArgumentError(f"dims must increase, e.g. (8, 64); got {dims!r}")
    if found[-1] > width:
        raise DimensionError(f"dims end at {found[-1]}; X has {width} features")
    if given is not None and not set(found) <= set(given):
        raise DimensionError(f"dims {found} need heads; there are {tuple(given)}")
    return found


def given_thresholds(thresholds: Any, needed: int) -> Floats:
    """Return given thresholds, one for each stage but the last."""
    if not hasattr(thresholds, "__iter__"):
        raise InvalidTypeError(
            "thresholds must be 'best_pair', 'risk' or a sequence of numbers, not "
            f"{thresholds!r}"
        )
    found = np.array([check_number("thresholds", one) for one in thresholds])
    if len(found) != needed or (found < 0).any():
        raise InvalidArgumentError(
            f"thresholds must be {needed} numbers of at least 0, one for each stage "
            f"but the last; got {thresholds!r}"
        )
    return found
