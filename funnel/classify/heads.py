"""Heads: what turns a prefix into probabilities of classes, one a dim.

Linear ones, given or fitted by scikit-learn's logistic regression, and k-NN votes
through a `FunnelIndex` of the prefix. They know no thresholds. Called by
`estimator.py` and `stages.py`.

n = rows, c = classes, d = dims of the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from funnel.errors import (
    DimensionError,
    InvalidArgumentError,
    InvalidTypeError,
    NonFiniteError,
    check_whole,
)
from funnel.index import FunnelIndex

Floats = NDArray[np.float64]
Rows = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
MAX_STEPS = (
    1_000  # of the logistic regression; a hundred stop it early at wide prefixes
)
DECIMALS = 9


class Head(Protocol):
    """What a stage asks of its head."""

    def probabilities(self, prefixes: Rows) -> Floats:
        """Return the probabilities of the classes, (n, c), of prefixes (n, d)."""


def confidences(probabilities: Floats) -> Floats:
    """Return the largest probability of each row, (n,).

    Rounded: a matrix product of one row and of many differ in their last bits, and a
    row must stop at the same stage in both.
    """
    largest: Floats = probabilities.max(axis=1)
    return largest.round(DECIMALS)


@dataclass(frozen=True)
class LinearHead:
    """The softmax of a linear map.

    Parameters
    ----------
    weights
        float64, shape (c, d).
    bias
        float64, shape (c,).
    """

    weights: Floats
    bias: Floats

    def probabilities(self, prefixes: Rows) -> Floats:
        """Return the softmax, shape (n, c), of prefixes (n, d)."""
        logits = prefixes.astype(np.float64) @ self.weights.T + self.bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: Floats = powers / powers.sum(axis=1, keepdims=True)
        return shares


@dataclass(frozen=True)
class KnnHead:
    """The share of the votes of the nearest rows of an index.

    Parameters
    ----------
    index
        Over prefixes of d dims; its ids are the numbers of its rows.
    labels
        Class of each row, int64.
    classes
        How many there are.
    neighbours
        How many vote.
    """

    index: FunnelIndex
    labels: Ints
    classes: int
    neighbours: int

    def probabilities(self, prefixes: Rows) -> Floats:
        """Return the shares of the votes, shape (n, c), of prefixes (n, d)."""
        votes = np.zeros((len(prefixes), self.classes))
        ids = self.index.search(prefixes, k=self.neighbours).ids
        at = np.repeat(np.arange(len(ids)), ids.shape[1])
        np.add.at(votes, (at, self.labels[ids.ravel()]), 1.0)
        shares: Floats = votes / ids.shape[1]
        return shares


def logistic_head(prefixes: Rows, labels: Ints) -> LinearHead:
    """Fit a multinomial logistic regression on standardised dims, as one linear map.

    Parameters
    ----------
    prefixes
        Shape (n, d).
    labels
        Classes 0 … c − 1, each there at least once; shape (n,).

    Returns
    -------
    LinearHead
        Of the prefixes as they are: the scaling is folded in.
    """
    scaler = StandardScaler().fit(prefixes.astype(np.float64))
    fitted = LogisticRegression(max_iter=MAX_STEPS)
    fitted.fit(scaler.transform(prefixes.astype(np.float64)), labels)
    weights, bias = fitted.coef_, fitted.intercept_
    if len(weights) == 1:  # two classes: half of the logit for, half against
        weights, bias = np.r_[-weights, weights] / 2, np.r_[-bias, bias] / 2
    weights = weights / scaler.scale_
    return LinearHead(weights, bias - weights @ scaler.mean_)


def knn_head(prefixes: Rows, labels: Ints, neighbours: int) -> KnnHead:
    """Build an index of the prefixes in a temporary folder, removed with the head."""
    index = FunnelIndex.build(prefixes, dims=(prefixes.shape[1],))
    classes = int(labels.max()) + 1
    return KnnHead(index, labels, classes, min(neighbours, len(labels)))


def split(codes: Ints, share: float, seed: int) -> tuple[Ints, Ints]:
    """Hold out a share of the rows of each class, but never its last one.

    Parameters
    ----------
    codes
        Classes of the rows, shape (n,).
    share
        Of each class, and one row at least.
    seed
        Of the draw.

    Returns
    -------
    kept, held : ndarray
        Numbers of rows, increasing.

    Raises
    ------
    InvalidArgumentError
        If nothing can be held out.
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(codes), bool)
    for one in np.unique(codes):
        rows = rng.permutation(np.flatnonzero(codes == one))
        wanted = max(1, round(share * len(rows)))
        held[rows[: min(wanted, len(rows) - 1)]] = True
    if not held.any():
        raise InvalidArgumentError(
            "thresholds need rows of their own, and every class has one row: give "
            "more, or validation="
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def given_heads(heads: Mapping[Any, Any]) -> dict[int, LinearHead]:
    """Return given weights as heads, in order of their dims.

    Parameters
    ----------
    heads
        By dim, pairs of weights (c, dim) and biases (c,).

    Returns
    -------
    dict
        At least one head; all have the same classes, two or more.

    Raises
    ------
    DimensionError, NonFiniteError, InvalidArgumentError, InvalidTypeError
        Naming the dim whose head cannot be used.
    """
    if not heads:
        raise InvalidArgumentError("heads is empty: give a head a dim")
    checked = {check_whole("a head's dim", dim): pair for dim, pair in heads.items()}
    found = {dim: _given_head(dim, checked[dim]) for dim in sorted(checked)}
    counts = {dim: len(head.bias) for dim, head in found.items()}
    if len(set(counts.values())) > 1 or min(counts.values()) < 2:
        raise DimensionError(
            f"heads need the same two or more classes; got, by dim, {counts}"
        )
    return found


def _given_head(dim: int, pair: Any) -> LinearHead:
    try:
        weights, bias = (np.asarray(one, np.float64) for one in pair)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"the head at {dim} must be (weights, bias): {error}"
        ) from error
    if weights.ndim != 2 or weights.shape[1] != dim or bias.shape != weights.shape[:1]:
        raise DimensionError(
            f"the head at {dim} has weights {weights.shape} and bias {bias.shape}; "
            f"needed: (classes, {dim}) and (classes,)"
        )
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise NonFiniteError(f"the head at {dim} holds NaN or infinity")
    return LinearHead(weights, bias)
