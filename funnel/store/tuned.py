"""The plan that a manifest stores: levels of effort that `tune` measured.

A level is a setting of a search's own knobs, so that a tuned search is one that could
be typed. Values only; measures nothing (`adapt/tune.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

MOST_LEVELS, MOST_ROWS = 256, 1 << 31


@dataclass(frozen=True)
class Level:
    """A setting of the knobs of a search, and what it was measured to give.

    Parameters
    ----------
    shortlist, ef_search : int
        As in `FunnelIndex.search`; the shortlist is reranked at full width.
    slack : float or None
    exact : bool
        Scan every row instead.
    loss : float
        Mean of 1 − knn_recall@k, or of the relative loss of ndcg@k, on the calibration
        queries, made monotone over the levels: what is bounded.
    us : float
        Microseconds a query, one thread, in one batch.
    stages : tuple of (int, int)
        Stages between the walk and full width: dim, rows kept.
    """

    shortlist: int
    ef_search: int
    slack: float | None
    exact: bool
    loss: float
    us: float
    stages: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Tuned:
    """Levels, cheapest first, and which of them a plain search takes.

    Parameters
    ----------
    k : int
        Answers a query that they were measured with.
    measure : {"knn_recall", "ndcg"}
    queries : int
        Calibration queries.
    chosen : int
    levels : tuple of Level
        From one to the next, time rises and loss falls.
    """

    k: int
    measure: str
    queries: int
    chosen: int
    levels: tuple[Level, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what a manifest holds."""
        return asdict(self) | {"levels": [_plain(level) for level in self.levels]}

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> Tuned:
        """Return the value of what a manifest holds.

        Raises
        ------
        ValueError, TypeError, KeyError
            If it makes no sense.
        """
        levels = tuple(_level(one) for one in plan["levels"])
        k, queries, chosen = plan["k"], plan["queries"], plan["chosen"]
        counts = [k, queries, chosen]
        counts += [n for one in levels for n in (one.shortlist, one.ef_search)]
        counts += [n for one in levels for stage in one.stages for n in stage]
        if not all(type(n) is int and 0 <= n < MOST_ROWS for n in counts):
            raise ValueError("a plan's counts are no counts")
        if k < 1 or not 0 <= chosen < len(levels) <= MOST_LEVELS:
            raise ValueError("a plan has no such level")
        if plan["measure"] not in ("knn_recall", "ndcg"):
            raise ValueError(f"a plan of {plan['measure']!r}")
        for one in levels:
            _check(one, k)
        return cls(k, plan["measure"], queries, chosen, levels)

    def level_of(self, effort: float | None, target: float | None) -> Level | None:
        """Return the level of an effort in [0, 1], of a target, or the chosen one.

        None where no level is sure to reach the target: then only `exact` does.
        """
        if effort is not None:
            return self.levels[round(effort * (len(self.levels) - 1))]
        if target is None:
            return self.levels[self.chosen]
        for level in self.levels:
            if level.exact or risk_bound(level.loss, self.queries) <= 1 - target:
                return level
        return None


def risk_bound(loss: float, queries: int) -> float:
    """Return a bound of the expected loss on a query like the calibration's.

    Conformal risk control (Angelopoulos et al. 2022, arXiv:2208.02814, section 2,
    theorem 1) for losses of at most 1 that fall from level to level.
    """
    return (queries * loss + 1) / (queries + 1)


def _plain(level: Level) -> dict[str, Any]:
    return asdict(level) | {"stages": [list(stage) for stage in level.stages]}


def _level(held: Mapping[str, Any]) -> Level:
    names = [field.name for field in fields(Level)][:-1]
    stages = tuple((dim, keep) for dim, keep in held.get("stages", ()))
    return Level(**{name: held[name] for name in names}, stages=stages)


def _check(one: Level, k: int) -> None:
    numbers = [one.loss, one.us, one.slack or 0]
    if type(one.exact) is not bool:
        raise TypeError("exact is a bool")
    if not all(
        type(n) in (int, float) and math.isfinite(n) and n >= 0 for n in numbers
    ):
        raise ValueError("a level's measures are no numbers")
    keeps = [one.ef_search, one.shortlist, *(keep for _, keep in one.stages), k]
    if not one.exact and keeps != sorted(keeps, reverse=True):
        raise ValueError("a level's shortlist does not fit")
