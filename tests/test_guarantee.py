"""The guarantee of `tune` on real queries: random splits of what searches really lose.

Images of digits that the index does not hold are the queries (scikit-learn carries
them), over principal axes, so that their prefixes rank. Two stages lose neighbours: the
cut of the codes' list at 8 dims, and one at 16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from funnel import FunnelIndex
from funnel.adapt import risk
from funnel.kernels.jit import COMPILED

datasets = pytest.importorskip("sklearn.datasets")
pytestmark = pytest.mark.skipif(not COMPILED, reason="searches thousands of times")

FIRST = (20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 44, 48, 52, 56, 60, 80, 100)
SECOND = (10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 24, 26, 28, 30, 40, 50)
SPLITS, ALLOWED, SURE = 300, 0.1, 0.9

Losses = dict[tuple[int, int], np.ndarray]
Bound = Callable[[np.ndarray], int | None]


@pytest.fixture(scope="module")
def losses() -> Losses:
    """Return 1 − knn_recall@10 of each query, by rows that the two stages keep."""
    images = datasets.load_digits().data
    images = images[np.random.default_rng(0).permutation(len(images))]
    axes = np.linalg.svd(images[:1_000], full_matrices=False)[2]
    images = (images @ axes.T).astype(np.float32)
    rows, queries = images[:1_000], images[1_000:]
    index = FunnelIndex.build(
        rows, projection="prefix", dims=(8, 16, 64), graph_dim=8, code_dim=8
    )
    last = index.search(queries, 10, mode="exact").scores[:, -1:] - 1e-6
    found = {}
    for first in FIRST:
        for second in SECOND:
            if second <= first:
                cascade = [(16, second), (64, 10)]
                hits = index.search(queries, 10, shortlist=first, cascade=cascade)
                found[first, second] = 1 - (hits.scores >= last).mean(axis=1)
    return found


def on_average(held: np.ndarray) -> int | None:
    return risk.least_level(risk.monotone(held), ALLOWED)


def surely(held: np.ndarray) -> int | None:
    return risk.least_sure_level(risk.monotone(held), ALLOWED, SURE)


def halves(losses: Losses) -> Iterator[tuple[Losses, Losses]]:
    """Yield random halves of the queries: to calibrate on, and to judge."""
    rng, count = np.random.default_rng(0), len(next(iter(losses.values())))
    for _ in range(SPLITS):
        order = rng.permutation(count)
        yield tuple(
            {one: lost[part] for one, lost in losses.items()}
            for part in (order[: count // 2], order[count // 2 :])
        )


def together(half: Losses, bound: Bound) -> tuple[int, int] | None:
    """Return the setting that one dial for both stages gets."""
    settings = list(zip(FIRST, SECOND, strict=True))
    level = bound(np.stack([half[one] for one in settings], axis=1))
    return None if level is None else settings[level]


def one_by_one(half: Losses, bound: Bound) -> tuple[int, int] | None:
    """Return the setting of stages that are calibrated each on its own."""
    widest = [(first, max(s for s in SECOND if s <= first)) for first in FIRST]
    first = bound(np.stack([half[one] for one in widest], axis=1))
    second = bound(np.stack([half[FIRST[-1], one] for one in SECOND], axis=1))
    if first is None or second is None:
        return None
    return FIRST[first], SECOND[second]


def mean_loss(losses: Losses, choose, bound: Bound) -> tuple[float, float]:
    """Return the mean loss of what is chosen, over splits, and two standard errors."""
    seen = []
    for half, rest in halves(losses):
        setting = choose(half, bound)
        seen.append(0.0 if setting is None else rest[setting].mean())
    return float(np.mean(seen)), 2 * float(np.std(seen)) / SPLITS**0.5


def missed(losses: Losses, choose) -> int:
    """Return how many splits end at a setting that misses, with confidence asked."""
    count = 0
    for half, rest in halves(losses):
        setting = choose(half, surely)
        count += setting is not None and rest[setting].mean() > ALLOWED
    return count


def test_risk_control__holds_over_splits_of_real_queries(losses):
    mean, error = mean_loss(losses, together, on_average)
    assert mean <= ALLOWED + error
    assert mean > ALLOWED / 2, "so careful that it says nothing"


def test_confidence__holds_over_splits_of_real_queries(losses):
    slack = 2 * (SPLITS * SURE * (1 - SURE)) ** 0.5
    assert missed(losses, together) <= SPLITS * (1 - SURE) + slack


def test_stages_alone__fail_where_one_dial_holds(losses):
    """Each is within what is allowed; what they lose adds up."""
    mean, error = mean_loss(losses, one_by_one, on_average)
    assert mean > ALLOWED + error
    slack = 2 * (SPLITS * SURE * (1 - SURE)) ** 0.5
    assert missed(losses, one_by_one) > SPLITS * (1 - SURE) + slack
