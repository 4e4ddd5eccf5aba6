"""Policies and budgets: what a search drops, and when it stops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import near_rows, turned_rows

from funnel import FunnelIndex
from funnel.errors import FunnelError, InvalidArgumentError, InvalidTypeError
from funnel.kernels.clock import now, ticks_per_us

ROWS = turned_rows(2_500, 96, seed=3, rank=24)
QUERIES = near_rows(ROWS, 40, seed=4, noise=0.2)
SHORTLIST = 120


@pytest.fixture(scope="module", params=["cosine", "ip"])
def index(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FunnelIndex]:
    path = tmp_path_factory.mktemp("policies") / "x"
    scales = np.random.default_rng(0).uniform(0.5, 2, (len(ROWS), 1))
    rows = np.float32(ROWS * scales) if request.param == "ip" else ROWS
    with FunnelIndex.build(
        rows, path=path, projection="pca", code_dim=64, metric=request.param
    ) as one:
        one.delete(range(100, 140))
        yield one


def test_certified__answers_as_a_rerank_of_the_whole_shortlist(index: FunnelIndex):
    # All rows are the shortlist: what retrieves it plays no part.
    n = len(index)
    certified = index.search(QUERIES, policy="certified", shortlist=n, trace=True)
    exact = index.search(QUERIES, mode="exact")
    scale = np.abs(exact.scores).max()
    np.testing.assert_allclose(certified.scores, exact.scores, atol=4e-6 * scale)
    assert certified.trace is not None
    scored = certified.trace[-1].rows_in
    assert 10 * len(QUERIES) <= scored < 0.5 * n * len(QUERIES)


def test_certified__over_prefixes_and_segments_too(tmp_path: Path):
    with FunnelIndex.build(
        ROWS[:2_000], path=tmp_path / "x", projection="prefix", code_dim=64
    ) as index:
        index.add(ROWS[2_000:])
        found = index.search(QUERIES, policy="certified", shortlist=len(ROWS))
        exact = index.search(QUERIES, mode="exact")
        np.testing.assert_allclose(found.scores, exact.scores, atol=4e-6)


def test_policies__of_a_tuned_index(tmp_path: Path):
    path = tmp_path / "x"
    with FunnelIndex.build(ROWS, path=path, projection="pca", code_dim=64) as index:
        before = index.search(QUERIES).ids.tolist()
        with pytest.raises(InvalidArgumentError, match="tune"):
            index.search(QUERIES, policy="adaptive")
        level = index.tune(QUERIES, target_knn_recall=0.8).chosen
        plain = index.search(QUERIES, trace=True)
        same = index.search(QUERIES, policy="adaptive")
        assert plain.ids.tolist() == same.ids.tolist()
        assert index.search(QUERIES, policy="fixed").ids.tolist() == before
        certified = index.search(QUERIES, policy="certified", trace=True)
        assert certified.trace is not None
        if not level.exact:
            most = level.shortlist * len(QUERIES)
            assert certified.trace[-1].rows_in <= most


@pytest.mark.parametrize("threads", [1, 2])
def test_max_bytes__ends_a_search_before_a_stage(index: FunnelIndex, threads: int):
    whole = index.search(
        QUERIES, shortlist=SHORTLIST, mode="rerank", trace=True, threads=threads
    )
    assert whole.complete
    assert whole.trace is not None
    each = [
        index.search(q, shortlist=SHORTLIST, mode="rerank", trace=True).trace
        for q in QUERIES
    ]
    reads = [trace.bytes_read for trace in each if trace]
    how: dict[str, Any] = {"shortlist": SHORTLIST, "mode": "rerank", "threads": threads}
    enough = index.search(QUERIES, max_bytes=max(reads), **how)
    assert enough.complete
    assert enough.ids.tolist() == whole.ids.tolist()
    walked = index.search(QUERIES, max_bytes=1, trace=True, **how)
    assert not walked.complete
    codes = index.search(QUERIES, shortlist=SHORTLIST, mode="prefix_ann")
    assert walked.ids.tolist() == codes.ids.tolist()
    assert walked.trace is not None
    assert walked.trace[-1].rows_in == 0
    some = index.search(QUERIES, max_bytes=int(np.median(reads)), **how)
    assert not some.complete


def test_budget_ms__ends_a_search_before_a_stage(index: FunnelIndex):
    assert index.search(QUERIES, budget_ms=1e6).complete
    late = index.search(QUERIES, budget_ms=1e-6)
    assert not late.complete
    assert late.ids.shape == (len(QUERIES), 10)
    certified = index.search(QUERIES, budget_ms=1e-6, policy="certified")
    assert not certified.complete


def test_similar__tells_whether_it_is_complete(index: FunnelIndex):
    assert index.similar(3).complete
    assert not index.similar(3, max_bytes=1).complete


def test_clock__goes_forward_evenly():
    first, second = now(), now()
    assert second >= first
    assert ticks_per_us() > 0


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"policy": "fast"}, InvalidArgumentError),
        ({"policy": 3}, InvalidTypeError),
        ({"policy": "fixed", "mode": "exact"}, InvalidArgumentError),
        ({"policy": "adaptive", "shortlist": 50}, InvalidArgumentError),
        ({"policy": "certified", "cascade": [(96, 10)]}, InvalidArgumentError),
        ({"budget_ms": 0}, InvalidArgumentError),
        ({"budget_ms": float("nan")}, InvalidArgumentError),
        ({"budget_ms": "1"}, InvalidTypeError),
        ({"max_bytes": 0}, InvalidArgumentError),
        ({"max_bytes": 1.5}, InvalidTypeError),
        ({"max_bytes": 100, "mode": "exact"}, InvalidArgumentError),
        ({"budget_ms": 5, "mode": "prefix"}, InvalidArgumentError),
    ],
    ids=str,
)
def test_bad_policy_or_budget__says_what_is_wrong(
    index: FunnelIndex, given: dict[str, Any], error: type[FunnelError]
):
    with pytest.raises(error, match=r"policy|budget_ms|max_bytes|mode"):
        index.search(QUERIES[0], **given)


# ---- step by step


def as_searched(index: FunnelIndex, query: np.ndarray, **how: Any) -> None:
    steps = list(index.search_progressive(query, **how))
    found = index.search(query, **how)
    assert [one.complete for one in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[-1].ids.tolist() == found.ids.tolist()
    assert steps[-1].scores.tolist() == found.scores.tolist()
    assert all(len(one.ids) == len(found.ids) for one in steps)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"k": 3, "cascade": [(32, 60), (48, 30), (96, 3)]},
        {"cascade": [(24, 100), (50, 40), (96, 10)], "shortlist": 150},  # no norms
        {"mode": "rerank", "shortlist": 60, "slack": 0.1},
        {"mode": "exact"},
        {"mode": "prefix_ann"},
        {"filter": list(range(7))},
        {"filter": []},
    ],
    ids=str,
)
def test_progressive__ends_with_what_search_finds(
    index: FunnelIndex, how: dict[str, Any]
):
    if index.metric == "ip" and "slack" in how:
        how = how | {"slack": None}
    for query in QUERIES[:6]:
        as_searched(index, query, **how)


def test_progressive__begins_with_the_codes(index: FunnelIndex):
    first = next(index.search_progressive(QUERIES[0], shortlist=SHORTLIST))
    codes = index.search(QUERIES[0], mode="prefix_ann", shortlist=SHORTLIST)
    assert first.ids.tolist() == codes.ids.tolist()
    np.testing.assert_allclose(first.scores, codes.scores)


def test_progressive__of_bad_queries_says_so_at_once(index: FunnelIndex):
    with pytest.raises(FunnelError, match="dims"):
        index.search_progressive(QUERIES[0, :5])
    with pytest.raises(FunnelError, match="budget_ms"):
        index.search_progressive(QUERIES[0], budget_ms=1)
