"""Rows through the stages: adaptively, or past every head for those who count.

Arrays and heads only: no validation. Called by `estimator.py`.

n = rows, c = classes, s = stages, d = width of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from funnel.classify.heads import Floats, Head, Ints, Rows, confidences
from funnel.classify.thresholds import Bools

STOP_ALL = -1.0  # below any confidence: what the last stage has for a threshold


@dataclass(frozen=True)
class Outcomes:
    """What every head says of rows whose labels are known.

    Parameters
    ----------
    confidences, right
        Shape (n, s), as in `thresholds.py`.
    """

    confidences: Floats
    right: Bools


def walk(
    heads: Sequence[Head], dims: Sequence[int], thresholds: Floats, rows: Rows
) -> tuple[Floats, Ints]:
    """Classify rows, each with no more heads than it needs.

    Parameters
    ----------
    heads, dims
        Of the s stages.
    thresholds
        Shape (s − 1,).
    rows
        Shape (n, d), n at least 1.

    Returns
    -------
    probabilities : ndarray
        Of the head that each row stopped at, float64, shape (n, c).
    stopped : ndarray
        The stages, int64, shape (n,).
    """
    limits = (*thresholds, STOP_ALL)
    stopped = np.zeros(len(rows), np.int64)
    left = np.arange(len(rows))
    shares = heads[0].probabilities(rows[:, : dims[0]])
    left = left[confidences(shares) <= limits[0]]
    for stage in range(1, len(dims)):
        if not len(left):
            break
        found = heads[stage].probabilities(rows[left, : dims[stage]])
        shares[left], stopped[left] = found, stage
        left = left[confidences(found) <= limits[stage]]
    return shares, stopped


def try_all(
    heads: Sequence[Head], dims: Sequence[int], rows: Rows, codes: Ints
) -> Outcomes:
    """Let every head classify every row, whose classes are `codes`, (n,)."""
    sure, right = [], []
    for dim, head in zip(dims, heads, strict=True):
        shares = head.probabilities(rows[:, :dim])
        sure.append(confidences(shares))
        right.append(shares.argmax(axis=1) == codes)
    return Outcomes(np.stack(sure, axis=1), np.stack(right, axis=1))
