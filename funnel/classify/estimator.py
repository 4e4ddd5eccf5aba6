"""`AdaptiveClassifier`: labels from the shortest prefix that is sure enough.

A façade: checks input, fits heads, learns thresholds, walks rows through the stages.
The arithmetic is in `heads.py` and `thresholds.py`. scikit-learn's conventions hold:
parameters are kept as they came and checked by `fit`.

n = rows, c = classes, s = stages, d = width of a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from funnel.classify.heads import (
    Floats,
    Head,
    Ints,
    Rows,
    given_heads,
    knn_head,
    logistic_head,
    split,
)
from funnel.classify.inputs import (
    UnfittedError,
    check_parameters,
    given_thresholds,
    labelled,
    pair,
    unlabelled,
)
from funnel.classify.report import (
    ExpectedDims,
    Report,
    expected_dims,
    make_report,
)
from funnel.classify.stages import Outcomes, try_all, walk
from funnel.classify.thresholds import best_pair, path, risk_controlled, stops
from funnel.errors import (
    DimensionError,
    InvalidArgumentError,
)


class AdaptiveClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that reads of each row only the prefix that it needs.

    Each of the nested dims has a head. A row is classified by the first head whose
    largest probability is above the stage's threshold, else by the last. Kusupati et
    al. 2022 (arXiv:2205.13147), section 4.2.1.

    Parameters
    ----------
    heads : {"logistic", "knn"} or mapping of dim to (weights, bias)
        Fitted logistic regressions; the votes of the nearest rows, by cosine, in a
        `FunnelIndex` of each prefix, which are kept on disk while the classifier lives
        and are not pickled; or the given weights (c, dim) and biases (c,) of classes
        0 … c − 1, as MRL models come with.
    dims : increasing ints, optional
        The nested dims; by default those of given heads, else 8, 16, 32, … and all.
    thresholds : {"best_pair", "risk"} or (s − 1,) numbers
        How they are learned: the smallest with which two heads in a row are best, as
        in the MRL paper; or the powers of one level, the lowest at which accuracy is
        expected to be at most `alpha` below full width's (conformal risk control). Or
        the thresholds.
    alpha : float
        With "risk": the share of rows, between 0 and 1, that may be lost.
    n_neighbors : int
        With "knn": rows that vote.
    validation_share : float
        Of the rows of each class that `fit` holds out for the thresholds, where it
        gets none.
    seed : int
        Of what is held out.

    Attributes
    ----------
    classes_ : (c,) ndarray
        The labels, sorted.
    dims_ : tuple of int
        Dims of the stages.
    heads_ : list
        Heads of the stages.
    thresholds_ : (s − 1,) ndarray
        0 stops every row, 1 and above none.
    expected_dims_ : ExpectedDims
        ``last`` and ``cumulative`` dims a row, on the rows that the thresholds were
        learned on: optimistic. `report` counts others.
    n_features_in_ : int
        d.

    Examples
    --------
    >>> import numpy as np
    >>> from funnel.classify import AdaptiveClassifier
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 600)
    >>> rows = rng.normal(size=(600, 32)) + 2 * np.eye(3, 32)[labels]
    >>> model = AdaptiveClassifier(dims=(4, 8, 32), thresholds="risk", alpha=0.05)
    >>> model.fit(rows[:400], labels[:400]).predict(rows[400:]).shape
    (200,)
    >>> report = model.report(rows[400:], labels[400:])
    >>> report.expected_dims.last < 20
    True
    """

    def __init__(
        self,
        heads: Any = "logistic",
        *,
        dims: Any = None,
        thresholds: Any = "best_pair",
        alpha: float = 0.01,
        n_neighbors: int = 10,
        validation_share: float = 0.25,
        seed: int = 0,
    ) -> None:
        self.heads = heads
        self.dims = dims
        self.thresholds = thresholds
        self.alpha = alpha
        self.n_neighbors = n_neighbors
        self.validation_share = validation_share
        self.seed = seed

    # ---- fit

    def fit(
        self,
        X: ArrayLike,  # noqa: N803 scikit-learn's name
        y: ArrayLike,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> Self:
        """Fit the heads, then the thresholds on rows that no head was fitted on.

        Given heads are not fitted: all rows are for the thresholds, and must be others
        than the model was trained on.

        Parameters
        ----------
        X : (n, d) array-like
            Finite numbers.
        y : (n,) array-like
            Labels of two classes or more.
        validation : pair of (v, d) and (v,) array-like, optional
            Rows and labels for the thresholds; by default a share of X is held out. For
            "risk" to hold, they must be exchangeable with the rows to be classified.

        Returns
        -------
        AdaptiveClassifier
            This one.

        Raises
        ------
        DimensionError
            If dims, heads and rows do not fit each other.
        InvalidArgumentError
            If a parameter is out of range, a value is NaN or infinite, labels are of
            one class only, or are none that the heads know.
        InvalidTypeError
            If an argument is of a type that cannot be used.
        """
        rows, labels = labelled(X, y)
        given = given_heads(self.heads) if isinstance(self.heads, Mapping) else None
        self.dims_ = check_parameters(self, rows.shape[1], given)
        self.n_features_in_ = rows.shape[1]
        if given is None:
            held, codes = self._fit_heads(rows, labels, validation)
        elif validation is not None:
            raise InvalidArgumentError("given heads need no validation rows but X")
        else:
            self.heads_: list[Head] = [given[dim] for dim in self.dims_]
            self.classes_ = np.arange(len(given[self.dims_[0]].bias))
            held, codes = rows, self._codes(labels)
        self._outcomes = try_all(self.heads_, self.dims_, held, codes)
        self.thresholds_ = self._learn(self._outcomes)
        stopped = stops(self._outcomes.confidences, self.thresholds_)
        self.expected_dims_: ExpectedDims = expected_dims(stopped, self.dims_)
        return self

    def _fit_heads(
        self, rows: Rows, labels: NDArray[Any], validation: Any
    ) -> tuple[Rows, Ints]:
        """Fit a head a dim; return rows for the thresholds, and their classes."""
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InvalidArgumentError("y must hold 2 classes or more, not 1 class")
        if validation is None:
            kept, out = split(codes, self.validation_share, self.seed)
            held, held_codes = rows[out], codes[out]
            rows, codes = rows[kept], codes[kept]
        else:
            held, held_labels = labelled(*pair(validation))
            self._check_width(held)
            held_codes = self._codes(held_labels)
        fit: Callable[[Rows, Ints], Head] = logistic_head
        if self.heads == "knn":
            fit = functools.partial(knn_head, neighbours=self.n_neighbors)
        self.heads_ = [fit(rows[:, :dim], codes) for dim in self.dims_]
        return held, held_codes

    def _codes(self, labels: NDArray[Any]) -> Ints:
        """Return labels as numbers of classes."""
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise InvalidArgumentError(
                f"labels {unknown[:5].tolist()} are no classes of the heads, which are "
                f"{self.classes_[:10].tolist()}"
            )
        return np.searchsorted(self.classes_, labels)

    def _learn(self, outcomes: Outcomes) -> Floats:
        if not isinstance(self.thresholds, str):
            return given_thresholds(self.thresholds, len(self.dims_) - 1)
        if self.thresholds == "best_pair":
            return best_pair(outcomes.confidences, outcomes.right)
        level = risk_controlled(outcomes.confidences, outcomes.right, self.alpha)
        return path(level, len(self.dims_))

    # ---- use

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Return the label of each row.

        Parameters
        ----------
        X : (n, d) array-like

        Returns
        -------
        (n,) ndarray
            Of the kind of the labels that were fitted.

        Raises
        ------
        UnfittedError, DimensionError, InvalidArgumentError, InvalidTypeError
            If there is no `fit` yet, or the rows are not as those that were fitted.
        """
        shares, _ = self._walk(X)
        labels: NDArray[Any] = self.classes_[shares.argmax(axis=1)]
        return labels

    def predict_proba(self, X: ArrayLike) -> Floats:  # noqa: N803
        """Return the probabilities by the head that each row stopped at.

        The labels that `predict` returns are the most probable ones.

        Parameters
        ----------
        X : (n, d) array-like

        Returns
        -------
        (n, c) ndarray
            Columns as in `classes_`.

        Raises
        ------
        UnfittedError, DimensionError, InvalidArgumentError, InvalidTypeError
            As `predict`.
        """
        return self._walk(X)[0]

    def dims_used(self, X: ArrayLike) -> Ints:  # noqa: N803
        """Return how many dims of each row `predict` reads; it costs as much.

        Parameters
        ----------
        X : (n, d) array-like

        Returns
        -------
        (n,) int64 ndarray
            Each is one of `dims_`.

        Raises
        ------
        UnfittedError, DimensionError, InvalidArgumentError, InvalidTypeError
            As `predict`.
        """
        _, stopped = self._walk(X)
        dims: Ints = np.asarray(self.dims_)[stopped]
        return dims

    def report(
        self,
        X: ArrayLike | None = None,  # noqa: N803
        y: ArrayLike | None = None,
    ) -> Report:
        """Count accuracy and dims; all heads classify all rows for it.

        Parameters
        ----------
        X : (n, d) array-like, optional
            By default the rows that the thresholds were learned on: optimistic.
        y : (n,) array-like, optional
            Their labels.

        Returns
        -------
        Report
            Accuracy, expected dims, the stages, and the curve of accuracy and dims.

        Raises
        ------
        UnfittedError, DimensionError, InvalidArgumentError, InvalidTypeError
            As `predict`, or if only one of X and y was given.
        """
        self._check_fitted()
        if (X is None) != (y is None):
            raise InvalidArgumentError("report takes X and y, or neither")
        outcomes = self._outcomes
        if X is not None:
            rows, labels = labelled(X, y)
            self._check_width(rows)
            outcomes = try_all(self.heads_, self.dims_, rows, self._codes(labels))
        return make_report(outcomes, self.thresholds_, self.dims_)

    def _walk(self, X: ArrayLike) -> tuple[Floats, Ints]:  # noqa: N803
        """Return probabilities (n, c) and stages (n,) of rows."""
        self._check_fitted()
        rows = unlabelled(X)
        self._check_width(rows)
        return walk(self.heads_, self.dims_, self.thresholds_, rows)

    def _check_fitted(self) -> None:
        if not hasattr(self, "expected_dims_"):
            raise UnfittedError("this AdaptiveClassifier is not fitted: call fit(X, y)")

    def _check_width(self, rows: Rows) -> None:
        if rows.shape[1] != self.n_features_in_:
            raise DimensionError(
                f"X has {rows.shape[1]} features, but AdaptiveClassifier is expecting "
                f"{self.n_features_in_} features as input"
            )
