"""How sure the order of hits is: as the definition says, in every shape of answer."""

from __future__ import annotations

from typing import Any

import naive
import numpy as np
import pytest
from conftest import near_rows, turned_rows

from funnel import FunnelIndex
from funnel.adapt.uncertainty import compared_dims

ROWS = turned_rows(1_500, 96, seed=12)
QUERIES = near_rows(ROWS, 20, seed=13, noise=0.1)


@pytest.fixture(scope="module", params=["cosine", "ip"])
def index(request: pytest.FixtureRequest) -> Any:
    made = FunnelIndex.build(
        ROWS, metric=request.param, dims=(12, 24, 48, 96), code_dim=48,
        ids=[f"row {i}" for i in range(1_500)], metadata={"at": range(1_500)},
    )  # fmt: skip
    yield made
    made.close()


def expected(index: FunnelIndex, query: np.ndarray, ids: list[Any]) -> list[float]:
    rows = [int(one.split()[1]) for one in ids if one is not None]
    moved = naive.rank_movement(ROWS[rows], query, (24, 48), index.metric)
    return moved + [np.nan] * (len(ids) - len(rows))


@pytest.mark.parametrize("how", [{}, {"mode": "exact"}, {"mode": "prefix_ann"}])
@pytest.mark.parametrize("k", [1, 2, 10])
def test_uncertainty__equals_naive(index: Any, k: int, how: dict[str, Any]):
    hits = index.search(QUERIES, k, uncertainty=True, **how)
    assert (hits.uncertainty.shape, hits.uncertainty.dtype) == ((20, k), np.float32)
    for query, ids, found in zip(QUERIES, hits.ids, hits.uncertainty, strict=True):
        np.testing.assert_allclose(found, expected(index, query, ids.tolist()))
    assert ((hits.uncertainty >= 0) & (hits.uncertainty <= 1)).all()


def test_uncertainty__of_one_query_is_that_of_a_batch(index: Any):
    batch = index.search(QUERIES, uncertainty=True).uncertainty
    alone = [index.search(query, uncertainty=True).uncertainty for query in QUERIES]
    np.testing.assert_array_equal(batch, alone)


def test_uncertainty__is_none_unless_asked_for(index: Any):
    assert index.search(QUERIES).uncertainty is None
    assert index.search(QUERIES[0], uncertainty=False).uncertainty is None


def test_uncertainty__is_nan_where_there_is_no_hit(index: Any):
    least = float(np.median(index.search(QUERIES).scores))
    hits = index.search(QUERIES, min_score=least, uncertainty=True)
    assert 0 < hits.counts.sum() < hits.ids.size
    for query, ids, found in zip(QUERIES, hits.ids, hits.uncertainty, strict=True):
        np.testing.assert_allclose(found, expected(index, query, ids.tolist()))
    none = index.search(QUERIES, filter={"at": -1}, uncertainty=True)
    assert none.uncertainty.shape == (20, 0)


def test_uncertainty__of_copies_is_none():
    rows = np.concatenate([np.repeat(ROWS[:1], 12, axis=0), ROWS[:300]])
    with FunnelIndex.build(rows, projection="prefix") as index:
        hits = index.search(rows[0], uncertainty=True)
    np.testing.assert_array_equal(hits.uncertainty, np.zeros(10))


def test_uncertainty__goes_with_similar(index: Any):
    hits = index.similar("row 7", uncertainty=True)
    assert hits.uncertainty.shape == hits.ids.shape == (10,)


def test_uncertainty__does_not_hang_on_the_length_of_a_query():
    with FunnelIndex.build(ROWS, projection="prefix", metric="ip") as index:
        plain = index.search(QUERIES, uncertainty=True, mode="exact").uncertainty
        long = index.search(QUERIES * 1e15, uncertainty=True, mode="exact").uncertainty
    np.testing.assert_array_equal(plain, long)


@pytest.mark.parametrize(
    ("dims", "wanted"),
    [
        ((12, 24, 48, 96), (24, 48)),
        ((48, 96), (48,)),
        ((96,), (24, 48)),
        ((2,), (1,)),
        ((1,), ()),
    ],
)
def test_compared_dims__are_the_last_below_the_full_width(
    dims: tuple[int, ...], wanted: tuple[int, ...]
):
    assert compared_dims(dims) == wanted


@pytest.mark.parametrize("how", [{}, {"mode": "exact"}])
def test_uncertainty__of_a_query_of_zeros_is_unknown(how: dict[str, Any]):
    with FunnelIndex.build(ROWS, projection="prefix", metric="ip") as index:
        queries = np.concatenate([QUERIES[:2], np.zeros_like(QUERIES[:1])])
        hits = index.search(queries, uncertainty=True, **how)
        assert (hits.ids >= 0).all()
    assert np.isnan(hits.uncertainty).all(axis=1).tolist() == [False, False, True]
