"""Whether bounds on a loss hold over random splits of queries that nothing has seen.

Called by `benchmarks.adaptive`, which searches and measures the losses.

q = queries, l = levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SURE = 0.9
SPLITS = 200

Record = dict[str, Any]
Losses = np.ndarray


def coverage(losses: Losses, target: float) -> Record:
    """Return how the bounds fare over random splits of queries that nothing has seen.

    Parameters
    ----------
    losses : (q, l) float64
        At all levels.
    """
    rng, n = np.random.default_rng(0), len(losses)
    means, sure = [], []
    for _ in range(SPLITS):
        order = rng.permutation(n)
        half, test = losses[order[: n // 2]], losses[order[n // 2 :]]
        level, certain = (_least(half, target, how) for how in (False, True))
        means.append(0.0 if level is None else float(test[:, level].mean()))
        sure.append(None if certain is None else float(test[:, certain].mean()))
    return _kept(means, sure, target)


def _least(losses: Losses, target: float, sure: bool) -> int | None:
    """Return the first level that a bound allows: on average, or with confidence."""
    from funnel.adapt.risk import least_level, least_sure_level, monotone

    if sure:
        return least_sure_level(monotone(losses), 1 - target, SURE)
    return least_level(monotone(losses), 1 - target)


def one_by_one(losses: dict[tuple[int, int], Losses], target: float) -> Record:
    """Return how stages fare that are each calibrated for the target on their own.

    By the same bounds: the walk's list with the longest shortlist, the shortlist with
    the longest list.

    Parameters
    ----------
    losses : mapping of (shortlist, ef_search) to (q,) float64
    """
    rng, n = np.random.default_rng(0), len(next(iter(losses.values())))
    found: dict[bool, list[float | None]] = {False: [], True: []}
    for _ in range(SPLITS):
        order = rng.permutation(n)
        half, rest = order[: n // 2], order[n // 2 :]
        part = {one: lost[half] for one, lost in losses.items()}
        for sure, means in found.items():
            setting = _each(part, target, sure)
            means.append(setting and float(losses[setting][rest].mean()))
    always = [0.0 if mean is None else mean for mean in found[False]]
    return _kept(always, found[True], target)


def _each(
    losses: dict[tuple[int, int], Losses], target: float, sure: bool
) -> tuple[int, int] | None:
    """Return the counts that the stages get, each on its own; None if one gets none."""
    counts: list[int] = []
    for stage in (1, 0):
        best: dict[int, tuple[int, int]] = {}
        for setting in sorted(losses):
            best[setting[stage]] = max(setting, best.get(setting[stage], setting))
        order = sorted(best)
        level = _least(np.stack([losses[best[i]] for i in order], 1), target, sure)
        if level is None:
            return None
        counts.append(order[level])
    ef, wanted = counts
    near = min((k for k, e in losses if e == ef), key=lambda one: abs(one - wanted))
    return near, ef


def _kept(
    means: Sequence[float], sure: Sequence[float | None], target: float
) -> Record:
    """Return whether the mean loss is allowed, and how many sure splits miss."""
    error = 2 * float(np.std(means) / len(means) ** 0.5)
    mean, allowed = float(np.mean(means)), 1 - target
    certain = [one for one in sure if one is not None]
    missed = sum(one > allowed for one in certain) / len(sure)
    slack = 2 * (SURE * (1 - SURE) / len(sure)) ** 0.5
    return {
        "mean_loss": mean,
        "allowed": allowed,
        "two_errors": error,
        "kept": mean <= allowed + error,
        "sure_of": len(certain) / len(sure),
        "missed_when_sure": missed,
        "may_miss": 1 - SURE + slack,
    }
