"""What a search did and where it lost a row: as the search, and undone by its hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
from conftest import near_rows, turned_rows

from funnel import Cascade, FunnelIndex, Stage
from funnel.errors import DimensionError, InvalidTypeError, UnknownIdError

ROWS = turned_rows(2_000, 120, seed=8)
QUERIES = near_rows(ROWS, 12, seed=9, noise=0.1)
FUNNEL = {
    "cascade": Cascade([Stage(30, 60), Stage(60, 25), Stage(120, 10)]),
    "shortlist": 100,
}


@pytest.fixture(scope="module", params=["prefix-cosine", "pca-ip"])
def index(request: pytest.FixtureRequest) -> Any:
    projection, metric = request.param.split("-")
    made = FunnelIndex.build(
        ROWS, metric=metric, projection=projection, dims=(30, 60, 120), code_dim=30,
        ids=range(500, 2_500),
    )  # fmt: skip
    yield made
    made.close()


@pytest.mark.parametrize("how", [{}, FUNNEL, {"mode": "rerank"}, {"mode": "exact"}])
def test_explain__shows_the_steps_of_the_search(index: Any, how: dict[str, Any]):
    for query in QUERIES[:4]:
        hits = index.search(query, trace=True, **how)
        told = index.explain(query, **how)
        assert [(s.name, s.rows_in, s.kept) for s in told.steps] == [
            (s.name, s.rows_in, s.rows_kept) for s in hits.trace
        ]
        last = hits.scores[-1]
        if index.metric == "ip":
            last = naive.final_scores(ROWS[hits.ids[-1:] - 500], query, "ip")[0]
        assert told.steps[-1].last_score == pytest.approx(last, rel=1e-4)
        assert "µs" in str(told)
        assert "<table>" in told._repr_html_()
        assert told.to_dict()["k"] == 10


def test_why_not__says_of_a_hit_that_it_is_one(index: Any):
    for query in QUERIES:
        for rank, one in enumerate(index.search(query, **FUNNEL).ids.tolist(), 1):
            told = index.why_not(query, one, **FUNNEL)
            assert (told.lost_by, told.rank) == (None, rank)


def test_why_not__names_the_step_that_lost_a_row_and_what_would_keep_it(index: Any):
    lost_by = set()
    for query in QUERIES:
        hits = set(index.search(query, **FUNNEL).ids.tolist())
        exact = index.search(query, 200, mode="exact").ids.tolist()
        for one in exact[::9]:
            told = index.why_not(query, one, **FUNNEL)
            assert (told.lost_by is None) == (one in hits)
            lost_by.add(told.lost_by)
            if told.lost_by == "rerank" and "keep" in told.change:
                kept = [
                    (s.dim, max(s.keep, told.change["keep"]))
                    if s.dim <= told.change["dim"]
                    else (s.dim, s.keep)
                    for s in FUNNEL["cascade"]
                ]
                after = index.why_not(query, one, cascade=kept, shortlist=100)
                assert after.at.keys() == told.at.keys()
                dims = [30, 60, 120]
                if after.lost_by == "rerank":
                    later = after.change.get("dim", 120)
                    assert dims.index(later) > dims.index(told.change["dim"])
            if told.lost_by == "walk" and "shortlist" in told.change:
                longer = {**told.change, "mode": "rerank"}
                assert index.why_not(query, one, **longer).lost_by != "walk"
    assert {None, "rerank", "walk"} <= lost_by


def test_why_not__ranks_a_row_at_every_dim(index: Any):
    query = QUERIES[0]
    best = int(index.search(query, 1, mode="exact").ids[0])
    told = index.why_not(query, best)
    assert list(told.at) == [30, 60, 120]
    assert told.at[120][0] == 1
    (score,) = naive.prefix_cosines(ROWS[best - 500 : best - 499], query, 60)
    if index.metric == "ip":
        score *= naive.norm(ROWS[best - 500]) * naive.norm(query)
    assert told.at[60][1] == pytest.approx(score, rel=1e-5)


def test_why_not__finds_what_a_walk_did_not_reach():
    rows = turned_rows(3_000, 64, seed=3, clusters=300, rank=60)
    queries = near_rows(rows, 300, seed=4, noise=0.5)
    seen = set()
    with FunnelIndex.build(rows, projection="prefix", code_dim=64, M=2) as index:
        for query in queries:
            for one in index.search(query, 5, mode="exact").ids.tolist():
                told = index.why_not(query, one, 5, shortlist=10, mode="rerank")
                seen.add((told.lost_by, *told.change))
                if "ef_search" in told.change:
                    how = {"shortlist": 10, "mode": "rerank", **told.change}
                    assert index.why_not(query, one, 5, **how).lost_by != "walk"
                    assert "never reached" in told.verdict
    assert ("walk", "ef_search") in seen


def test_explain__refuses_what_it_cannot_explain(index: Any):
    with pytest.raises(DimensionError, match="one query"):
        index.explain(QUERIES)
    with pytest.raises(InvalidTypeError, match="filter"):
        index.explain(QUERIES[0], filter={"id": 3})
    with pytest.raises(UnknownIdError):
        index.why_not(QUERIES[0], 3)


def test_explain__says_where_the_plan_came_from(tmp_path: Path):
    with FunnelIndex.build(ROWS[:300], path=tmp_path / "x") as index:
        assert "default plan" in str(index.explain(QUERIES[0]))
        assert "as asked" in str(index.explain(QUERIES[0], shortlist=50))
        index.tune(QUERIES.repeat(3, axis=0), target_knn_recall=0.5)
        assert "tuned" in str(index.explain(QUERIES[0]))


def test_loss_by_stage__follows_what_exact_search_finds(index: Any):
    told = index.loss_by_stage(QUERIES, **FUNNEL)
    exact = index.search(QUERIES, mode="exact").ids
    found = index.search(QUERIES, **FUNNEL).ids
    shared = [len(set(a) & set(b)) for a, b in zip(found, exact, strict=True)]
    assert told.stages[-1].knn_recall == pytest.approx(np.mean(shared) / 10)
    assert [s.name for s in told.stages] == ["walk", "rerank", "rerank", "rerank"]
    recalls = [s.knn_recall for s in told.stages]
    assert recalls == sorted(recalls, reverse=True)
    assert sum(s.lost for s in told.stages) == pytest.approx(1 - recalls[-1])
    assert "12 queries" in str(told)


def test_loss_by_stage__says_what_each_loses_of_ndcg(index: Any):
    exact = index.search(QUERIES, mode="exact").ids.tolist()
    qrels = [{one: float(10 - at) for at, one in enumerate(some)} for some in exact]
    told = index.loss_by_stage(QUERIES, qrels=qrels, **FUNNEL)
    found = index.search(QUERIES, **FUNNEL).ids.tolist()
    shares = [
        naive.dcg([held.get(one, 0) for one in some], 10)
        / naive.dcg([held[one] for one in best], 10)
        for some, best, held in zip(found, exact, qrels, strict=True)
    ]
    assert told.stages[-1].ndcg == pytest.approx(np.mean(shares), abs=1e-6)
    whole = index.loss_by_stage(QUERIES, qrels=qrels, mode="exact")
    assert whole.stages[-1].ndcg == 1.0
    assert whole.to_dict()["k"] == 10
