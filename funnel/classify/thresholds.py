"""When to stop: thresholds on a head's confidence, learned from labelled rows.

Arrays and numbers only: no validation, no heads. A row stops at the first stage whose
confidence is **above** the stage's threshold, and at the last one in any case: 0 stops
at once, 1 and more never. Called by `estimator.py` and `report.py`.

n = labelled rows, s = stages. Confidences are (n, s), the largest probability of a
stage's head; `right` is (n, s), whether its most probable class is the row's label.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

GRID = np.linspace(0.0, 1.0, 100)
ROUNDING = 1e-12


def stops(confidences: Floats, thresholds: Floats) -> Ints:
    """Return the stage that each row stops at.

    Parameters
    ----------
    confidences
        Shape (n, s).
    thresholds
        Shape (s − 1,): the last stage needs none.

    Returns
    -------
    ndarray
        int64, shape (n,).
    """
    early = confidences[:, :-1] > thresholds
    last = np.ones((len(confidences), 1), bool)
    stopped: Ints = np.concatenate([early, last], axis=1).argmax(axis=1)
    return stopped


def best_pair(confidences: Floats, right: Bools) -> Floats:
    """Choose for each stage the threshold with which it and the next are best.

    The smallest of 100 points at which a cascade of two heads, a stage's and the
    next one's, gives most right labels. Greedy: a pair knows of no other. Kusupati et
    al. 2022, arXiv:2205.13147, section 4.2.1 and its appendix.

    Parameters
    ----------
    confidences, right
        Shape (n, s).

    Returns
    -------
    ndarray
        float64, shape (s − 1,).
    """
    found = np.zeros(confidences.shape[1] - 1)
    for stage in range(len(found)):
        gain = right[:, stage].astype(np.int64) - right[:, stage + 1]
        stopped = confidences[:, stage] > GRID[:, None]
        found[stage] = GRID[(stopped @ gain).argmax()]
    return found


def path(level: float, stages: int) -> Floats:
    """Return the thresholds of a level: its first power, its second, and so on.

    A level of 0 stops every row at once, one of 1 or more none, and a higher one never
    stops a row earlier. Later stages ask for less: what comes to them is hard, and the
    heads behind them seldom know better.

    Parameters
    ----------
    level
        Not negative.
    stages
        s, at least 1.

    Returns
    -------
    ndarray
        float64, shape (s − 1,).
    """
    # One threshold for all sends rows that no head is sure of to the full width: of
    # fashion-mrl's validation rows, split, that read 140 dims where this reads 25.
    # A row exactly at its level must not stop for the last bits of a root.
    found: Floats = level ** np.arange(1.0, stages) * (1 + ROUNDING)
    return found


def harmful_below(confidences: Floats, right: Bools) -> Floats:
    """Return below which level of `path` each row may lose its right label.

    A row is harmed where it stops at a wrong label and full width is right. A lower
    level may stop it earlier, at a right label again. Counted as harmed is who would be
    at this level or at any higher one: that never grows with the level, which risk
    control needs.

    Parameters
    ----------
    confidences, right
        Shape (n, s).

    Returns
    -------
    ndarray
        float64, shape (n,): harmed exactly below it, 0 where never.
    """
    roots = 1 / np.arange(1.0, confidences.shape[1])
    levels = confidences[:, :-1] ** roots  # a row stops where its level is higher
    reachable = np.ones(levels.shape, bool)
    reachable[:, 1:] = levels[:, 1:] > np.maximum.accumulate(levels, axis=1)[:, :-1]
    harmful = reachable & right[:, -1:] & ~right[:, :-1]
    critical: Floats = np.where(harmful, levels, 0.0).max(axis=1, initial=0.0)
    return critical


def risk_controlled(confidences: Floats, right: Bools, alpha: float) -> float:
    """Choose the level of `path` at which accuracy falls by `alpha` at most.

    In expectation, over labelled and new rows that are exchangeable, for any heads.
    Conformal risk control: the smallest level with (harmed(level) + 1) / (n + 1) at
    most `alpha`, the loss made monotone as its section on general losses says;
    Angelopoulos et al. 2022, arXiv:2208.02814, section 2, theorem 1. Rows that an early
    head alone gets right are not set off against harmed ones: the loss is below the
    bound.

    Thresholds that are each controlled on their own do not have this property: their
    losses add up.

    Parameters
    ----------
    confidences, right
        Shape (n, s).
    alpha
        Share of the rows.

    Returns
    -------
    float
        Infinite where n is too small to promise `alpha` at all, so that every row is
        read in full.
    """
    n = len(confidences)
    allowed = math.floor(alpha * (n + 1)) - 1
    if allowed < 0:
        return math.inf
    if allowed >= n:
        return 0.0
    worst_first = np.sort(harmful_below(confidences, right))[::-1]
    return float(worst_first[allowed])
