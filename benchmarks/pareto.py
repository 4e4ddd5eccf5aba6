"""The best of a cloud of points, and its speed at a given knn_recall.

A point is (recall, queries per second). Arithmetic only. Called by
`benchmarks.peer_results`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

Point = tuple[float, float]


def front(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other beats in both, by ascending recall.

    Speeds fall strictly along the front; of equal points one stays.
    """
    kept: list[Point] = []
    for recall, qps in sorted(set(points), reverse=True):
        if not kept or qps > kept[-1][1]:
            kept.append((recall, qps))
    return kept[::-1]


def qps_at(points: Iterable[Point], target: float) -> float | None:
    """Return the speed at a recall of `target`; None if no point reaches it.

    Between two points of the front the logarithm of the speed is linear in recall. A
    target below the front has the speed of its first point, which is not extrapolated.
    """
    best = front(points)
    if not best or best[-1][0] < target:
        return None
    if best[0][0] >= target:
        return best[0][1]
    at = next(i for i, (recall, _) in enumerate(best) if recall >= target)
    (low, fast), (high, slow) = best[at - 1], best[at]
    share = (target - low) / (high - low)
    return math.exp((1 - share) * math.log(fast) + share * math.log(slow))
