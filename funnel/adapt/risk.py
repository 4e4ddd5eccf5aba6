"""Which level of effort is sure enough: bounds on the loss of unseen queries.

For queries that are exchangeable with the calibration's. Losses are in [0, 1]; levels
are ordered by effort. Arrays and numbers only. Called by `adapt/tune.py`.

n = queries, l = levels.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from funnel.store.tuned import risk_bound

Losses = npt.NDArray[np.float64]


def monotone(losses: Losses) -> Losses:
    """Return losses that never rise with effort: the worst of a level and those above.

    Parameters
    ----------
    losses : (n, l) float64
        Levels by rising effort.
    """
    turned: Losses = np.maximum.accumulate(losses[:, ::-1], axis=1)[:, ::-1]
    return turned


def least_level(losses: Losses, allowed: float) -> int | None:
    """Return the first level whose expected loss is at most `allowed`; None if none is.

    Conformal risk control: on average over calibration sets, a new query's expected
    loss is at most `allowed`.

    Parameters
    ----------
    losses : (n, l) float64, monotone

    References
    ----------
    Angelopoulos et al. 2022, arXiv:2208.02814, section 2.
    """
    means = losses.mean(axis=0)
    for level, mean in enumerate(means.tolist()):
        if risk_bound(mean, len(losses)) <= allowed:
            return level
    return None


def least_sure_level(losses: Losses, allowed: float, confidence: float) -> int | None:
    """Return the first level whose loss is at most `allowed` with some confidence.

    Learn then test, from the greatest effort down, until a level cannot be shown to be
    good enough: at most a share ``1 − confidence`` of calibration sets lead to one that
    is not.

    Parameters
    ----------
    losses : (n, l) float64, monotone

    References
    ----------
    Angelopoulos et al. 2021, arXiv:2110.01052, sections 2.2 and 3.2.
    """
    found = None
    for level in range(losses.shape[1] - 1, -1, -1):
        if p_value(float(losses[:, level].mean()), len(losses), allowed) > (
            1 - confidence
        ):
            break
        found = level
    return found


def p_value(mean: float, n: int, allowed: float) -> float:
    """Return how likely so small a mean loss is, if it were above `allowed`.

    Hoeffding's and Bentkus's inequalities, whichever says less: Bates et al. 2021,
    arXiv:2101.02703, section 3.1.
    """
    if allowed <= 0 or mean >= allowed:
        return 1.0
    if allowed >= 1:
        return 0.0
    hoeffding = math.exp(-n * _divergence(mean, allowed))
    bentkus = math.e * binomial_cdf(math.ceil(n * mean), n, allowed)
    return min(1.0, hoeffding, bentkus)


def binomial_cdf(most: int, n: int, share: float) -> float:
    """Return the probability of at most so many of `n`, each of probability `share`."""
    counts = np.arange(min(most, n) + 1)
    logs = np.array([math.lgamma(n + 1)] * len(counts))
    logs -= np.array([math.lgamma(c + 1) + math.lgamma(n - c + 1) for c in counts])
    logs += counts * math.log(share) + (n - counts) * math.log1p(-share)
    return float(min(1.0, np.exp(logs).sum()))


def _divergence(a: float, b: float) -> float:
    """Return the divergence of two coins, of probabilities a and b."""
    left = a * math.log(a / b) if a > 0 else 0.0
    return left + (1 - a) * math.log((1 - a) / (1 - b))
