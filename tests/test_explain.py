"""What a search did and where it lost a row: as the search, and undone by its hint."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
from conftest import near_rows, turned_rows
from hypothesis import given
from hypothesis import strategies as st

from funnel import Cascade, FunnelIndex, Stage
from funnel.adapt.floor import bytes_per_us
from funnel.adapt.pages import touched
from funnel.errors import (
    DimensionError,
    InvalidArgumentError,
    InvalidTypeError,
    UnknownIdError,
)
from funnel.kernels import segments

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


def test_explain__shows_scores_and_margins_of_every_step(index: Any):
    kept = range(len(ROWS))
    for step, (dim, keep) in zip(
        index.explain(QUERIES[0], **(FUNNEL | {"shortlist": 2_000})).steps[1:],
        [(30, 60), (60, 25), (120, 10)],
        strict=True,
    ):
        scores = naive.stage_scores(ROWS[kept], QUERIES[0], dim, index.metric)
        best = np.sort(scores)[::-1]
        kept = np.array(kept)[naive.top(scores, keep)]
        assert (step.dim, step.kept) == (dim, keep)
        assert step.kth_score == pytest.approx(best[9], rel=1e-4)
        assert step.last_score == pytest.approx(best[keep - 1], rel=1e-4)
        margin = (1 - best[keep - 1]) / (1 - best[9]) - 1
        wanted = pytest.approx(margin, abs=1e-4) if index.metric == "cosine" else None
        assert step.margin == wanted


def test_explain__says_the_plan_and_what_memory_alone_takes(index: Any):
    told = index.explain(QUERIES[0], **FUNNEL)
    assert "shortlist 100, ef_search 100, cascade 30 dims keep 60" in str(told)
    assert "slack" not in str(told)
    read = sum(step.bytes_read for step in told.steps)
    speed = bytes_per_us()
    assert told.memory_gb_s == pytest.approx(speed / 1e3)
    assert told.floor_us == pytest.approx(read / speed)
    assert told.floor_us == pytest.approx(sum(step.floor_us for step in told.steps))
    if index.metric == "cosine":
        loose = index.explain(QUERIES[0], slack=0.25)
        assert loose.steps[0].slack == 0.25
        assert "slack 0.25" in str(loose)


@given(st.lists(st.integers(0, 50_000), max_size=20), st.integers(1, 9_000))
def test_touched__equals_naive(places: list[int], length: int):
    wanted = naive.pages_of((place, place + length) for place in places)
    assert touched(np.array(places, np.int64), length) == wanted


def test_explain__counts_the_pages_of_the_rows_it_read(index: Any):
    table, blocks = index._shown().everything.table, index._shown().starts
    assert len(table) == len(blocks) - 1 == 1, "one segment, one block"
    norms = index._shown().segments[0].norms
    told = index.explain(QUERIES[0], **FUNNEL)
    rows, read = range(len(ROWS)), 0
    exact = index.explain(QUERIES[0], mode="exact").steps[0]
    first = int(table[0, segments.BLOCKS])
    assert exact.pages == naive.pages_of([(first, first + 480 * len(ROWS))])
    short = {"mode": "prefix_ann", "shortlist": 100}
    found = index.search(QUERIES[0], 100, **short).ids - 500
    for step in told.steps[1:]:
        rows = found if read == 0 else rows
        places = [first + 480 * row for row in rows]
        ranges = [(at + 4 * read, at + 4 * step.dim) for at in places]
        width, at = norms.strides[0], norms.ctypes.data
        lengths = [(at + width * row, at + width * (row + 1)) for row in rows]
        assert step.pages == naive.pages_of(ranges) + naive.pages_of(lengths)
        scores = naive.stage_scores(ROWS[rows], QUERIES[0], step.dim, index.metric)
        rows, read = np.array(rows)[naive.top(scores, step.kept)], step.dim


def test_explain__counts_the_pages_of_the_codes_it_walked_over(index: Any):
    (table,) = index._shown().everything.table
    codes = (len(index._shown().segments[0].codes), int(table[segments.CODES]))
    entries = (int(table[segments.ENTRY_COUNT]), int(table[segments.ENTRY_CODES]))
    every, copies = (
        naive.pages_of([(at, at + 64 * count)]) for count, at in (codes, entries)
    )
    whole = index.explain(QUERIES[0], shortlist=2_000).steps[0]
    assert whole.name == "walk"
    assert whole.rows_in == codes[0] - 1 + entries[0]  # all but where it begins
    assert whole.pages == every + copies
    assert 2 <= index.explain(QUERIES[0], shortlist=10).steps[0].pages <= whole.pages
    few = np.arange(2_000) % 50 == 3
    listed = index.explain(QUERIES[0], filter=few).steps[1]
    assert listed.rows_in == 40
    places = [codes[1] + 64 * node for node in range(codes[0])]
    assert 40 * 64 / 4096 <= listed.pages <= naive.pages_of((p, p + 64) for p in places)


@pytest.mark.parametrize("how", [{}, FUNNEL, {"mode": "rerank"}, {"mode": "exact"}])
@pytest.mark.parametrize("share", [0.0, 0.003, 0.3, 1.0])
def test_explain__takes_filters_as_search_does(
    index: Any, how: dict[str, Any], share: float
):
    mask = np.random.default_rng(3).random(2_000) < share
    for query in QUERIES[:3]:
        hits = index.search(query, trace=True, filter=mask, **how)
        told = index.explain(query, filter=mask, **how)
        assert [(s.name, s.rows_in, s.kept) for s in told.steps] == [
            (s.name, s.rows_in, s.rows_kept) for s in hits.trace
        ]
        assert told.steps[0].name == "filter"
        assert "filter" in str(told)


def test_why_not__knows_what_a_filter_leaves_out(index: Any):
    mask = np.random.default_rng(3).random(2_000) < 0.3
    for query in QUERIES[:6]:
        hits = index.search(query, filter=mask, **FUNNEL).ids.tolist()
        for one in index.search(query, 40, mode="exact").ids.tolist():
            told = index.why_not(query, one, filter=mask, **FUNNEL)
            assert (told.lost_by == "filter") == (not mask[one - 500])
            assert (told.lost_by is None) == (one in hits)
    none = index.why_not(query, one, filter=np.zeros(2_000, bool))
    assert "left out by the filter" in str(none)
    assert list(none.at) == [30, 60, 120]


def test_why_not__states_margins(index: Any):
    seen = 0
    for query in QUERIES:
        for one in index.search(query, 60, mode="exact").ids.tolist():
            told = index.why_not(query, one, **(FUNNEL | {"shortlist": 2_000}))
            if told.lost_by != "rerank" or told.change.get("dim") != 30:
                continue
            seen += 1
            if index.metric == "ip":
                assert (told.margin, told.margin_kept) == (None, None)
                continue
            scores = naive.prefix_cosines(ROWS, query, 30)
            away = 1 - np.sort(scores)[::-1]
            wanted = (1 - scores[one - 500]) / away[9], away[59] / away[9]
            assert (told.margin, told.margin_kept) == pytest.approx(wanted, rel=1e-3)
            assert f"margin {told.margin:.4g} of {told.margin_kept:.4g}" in told.verdict
    assert seen > 3


def test_why_not__knows_when_slack_ended_a_walk():
    seen = set()
    with FunnelIndex.build(ROWS, projection="prefix", code_dim=30) as index:
        how = {"shortlist": 200, "slack": 0.02, "mode": "rerank"}
        for query in QUERIES:
            for one in index.search(query, 30, mode="exact").ids.tolist():
                told = index.why_not(query, one, **how)
                seen |= told.change.keys()
                if "slack" in told.change:
                    assert "slack 0.02" in told.verdict or "shortlist" in told.change
                    after = index.why_not(query, one, **(how | told.change))
                    assert after.lost_by != "walk"
    assert "slack" in seen


def test_why_not__says_of_copies_that_there_were_enough():
    rows = np.concatenate([ROWS, np.repeat(ROWS[:1], 30, axis=0)])
    with FunnelIndex.build(rows, projection="prefix", code_dim=30) as index:
        told = [index.why_not(ROWS[0], i, 5) for i in (0, *range(2_000, 2_030))]
    lost = [one for one in told if one.lost_by]
    assert len(told) - len(lost) == 5
    assert all("5 rows that equal it were enough" in one.verdict for one in lost)


def test_explain__follows_queries_that_are_scanned():
    blind = QUERIES[:1].copy()
    blind[:, :30] = 0
    with FunnelIndex.build(ROWS, projection="prefix", code_dim=30) as index:
        told = index.explain(blind[0])
        assert [(s.name, s.rows_in) for s in told.steps] == [("scan", 2_000)]
        for one in index.search(blind[0]).ids.tolist():
            assert index.why_not(blind[0], one).lost_by is None
        mixed = np.concatenate([blind, QUERIES])
        assert index.loss_by_stage(mixed).stages[0].knn_recall > 0


def test_explanations__show_themselves(index: Any):
    lost = index.search(QUERIES[0], 200, mode="exact").ids.tolist()[-1]
    for shown in (
        index.explain(QUERIES[0]),
        index.why_not(QUERIES[0], lost, **FUNNEL),
        index.loss_by_stage(QUERIES, **FUNNEL),
    ):
        json.dumps(shown.to_dict(), allow_nan=False)
        html = shown._repr_html_()
        assert html.count("<table>") == html.count("</table>") > 0
        rich = pytest.importorskip("rich.console")
        console = rich.Console(width=160, file=io.StringIO())
        console.print(shown)
        first, *_, last = str(shown).splitlines()
        printed = console.file.getvalue()
        assert first[:60] in printed
        assert set(last.split()) <= set(printed.split())


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
                    least = told.change["ef_search"]
                    if least <= 256:  # then halving ends at the very least
                        how |= {"ef_search": least - 1}
                        assert index.why_not(query, one, 5, **how).lost_by == "walk"
    assert ("walk", "ef_search") in seen


def test_explain__refuses_what_it_cannot_explain(index: Any):
    with pytest.raises(DimensionError, match="one query"):
        index.explain(QUERIES)
    with pytest.raises(InvalidTypeError, match="min_score= changes no step"):
        index.explain(QUERIES[0], min_score=0.3)
    with pytest.raises(InvalidTypeError, match="max_bytes= ends a search early"):
        index.explain(QUERIES[0], max_bytes=1_000)
    with pytest.raises(InvalidTypeError, match="budget_ms= ends a search early"):
        index.loss_by_stage(QUERIES, budget_ms=1)
    with pytest.raises(InvalidTypeError, match="use k="):
        index.explain(QUERIES[0], top_k=3)
    with pytest.raises(InvalidTypeError, match="filter"):
        index.explain(QUERIES[0], filter="id = 3")
    with pytest.raises(UnknownIdError):
        index.why_not(QUERIES[0], 3)


def test_explain__says_where_the_plan_came_from(tmp_path: Path):
    with FunnelIndex.build(ROWS[:300], path=tmp_path / "x") as index:
        assert "default plan" in str(index.explain(QUERIES[0]))
        assert "as asked" in str(index.explain(QUERIES[0], shortlist=50))
        index.tune(QUERIES.repeat(3, axis=0), target_knn_recall=0.5)
        assert "tuned" in str(index.explain(QUERIES[0]))
        for how, origin in [
            ({"policy": "adaptive"}, "a tuned level"),
            ({"policy": "certified"}, "a tuned level"),
            ({"mode": "funnel"}, "a tuned level"),
            ({"shortlist": None, "target": 0.5}, "a tuned level"),
            ({"policy": "fixed"}, "the default plan"),
            ({"policy": "certified", "shortlist": 50}, "as asked"),
            ({"mode": "rerank"}, "as asked"),
        ]:
            assert index.explain(QUERIES[0], **how).origin == origin


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


def test_loss_by_stage__leaves_out_queries_without_judgements(index: Any):
    """As `tune` and `evaluate` do: of nothing relevant, no share can be lost."""
    exact = index.search(QUERIES, mode="exact").ids.tolist()
    known = [dict.fromkeys(some, 1.0) for some in exact]
    some = [held if i % 2 else {} for i, held in enumerate(known)]
    half = index.loss_by_stage(QUERIES, qrels=some, **FUNNEL)
    alone = index.loss_by_stage(QUERIES[1::2], qrels=known[1::2], **FUNNEL)
    assert half.stages[-1].ndcg == pytest.approx(alone.stages[-1].ndcg)
    none = index.loss_by_stage(QUERIES, qrels=[{}] * len(QUERIES), **FUNNEL)
    assert np.isnan(none.stages[-1].ndcg)


def test_loss_by_stage__refuses_a_relevance_without_end(index: Any):
    with pytest.raises(InvalidArgumentError, match="relevance"):
        index.loss_by_stage(QUERIES[:1], qrels=[{"d1": float("inf")}], **FUNNEL)


def test_explanations__of_an_empty_index_are_empty(tmp_path: Path):
    with FunnelIndex.create(tmp_path / "x", 16) as index:
        assert index.explain(np.ones(16)).steps == ()
        with pytest.raises(InvalidArgumentError, match="no row may be an answer"):
            index.loss_by_stage(np.ones(16))


# ---- rows that no code ranks


@pytest.fixture(scope="module", params=["cosine", "ip"])
def loose(request: pytest.FixtureRequest) -> Any:
    rows = np.random.default_rng(21).standard_normal((1_500, 64)).astype(np.float32)
    rows[::50, :16] = 0
    made = FunnelIndex.build(
        rows[:1_200], projection="prefix", code_dim=16, metric=request.param
    )
    made.add(rows[1_200:])
    made.delete([50])
    yield made, rows
    made.close()


def near_loose(rows: Any, row: int) -> Any:
    """Return a query near a row that no code ranks."""
    rng = np.random.default_rng(row)
    query = rows[row] + 0.1 * rng.standard_normal(64).astype(np.float32)
    query[:16] = 0.1 * rng.standard_normal(16)
    return query


LOOSE_HOW: list[dict[str, Any]] = [
    {}, {"shortlist": 20}, {"mode": "prefix_ann"}, {"mode": "rerank"},
    {"policy": "certified"}, {"cascade": [(16, 40), (32, 40), (64, 10)]},
    {"cascade": [(24, 40), (32, 15), (64, 10)], "shortlist": 40},
]  # fmt: skip


@pytest.mark.parametrize("how", LOOSE_HOW, ids=str)
def test_explain__follows_rows_that_no_code_ranks(
    loose: tuple[Any, Any], how: dict[str, Any]
):
    index, rows = loose
    for row in (0, 350, 1_450):
        query = near_loose(rows, row)
        hits = index.search(query, trace=True, **how)
        *_, last = index.search_progressive(query, **how)
        assert last.ids.tolist() == hits.ids.tolist()
        told = index.explain(query, **how)
        assert [(s.name, s.rows_in, s.kept) for s in told.steps] == [
            (s.name, s.rows_in, s.rows_kept) for s in hits.trace
        ]
        for rank, one in enumerate(hits.ids.tolist(), 1):
            found = index.why_not(query, one, **how)
            assert (found.lost_by, found.rank) == (None, rank)
        for one in set(range(0, 1_500, 50)) - {50, *hits.ids.tolist()}:
            assert index.why_not(query, one, **how).lost_by is not None


@pytest.mark.parametrize("how", LOOSE_HOW, ids=str)
def test_loss_by_stage__follows_rows_that_no_code_ranks(
    loose: tuple[Any, Any], how: dict[str, Any]
):
    index, rows = loose
    queries = np.array([near_loose(rows, row) for row in range(100, 1_500, 50)])
    exact = index.search(queries, mode="exact").ids
    found = index.search(queries, **how).ids
    shared = [len(set(a) & set(b)) for a, b in zip(found, exact, strict=True)]
    told = index.loss_by_stage(queries, **how)
    assert told.stages[-1].knn_recall == pytest.approx(np.mean(shared) / 10)


# ---- scans


@pytest.mark.parametrize("mode", ["exact", "prefix", "blind"])
def test_why_not__ranks_what_a_scan_lost(loose: tuple[Any, Any], mode: str):
    index, rows = loose
    query = rows[7].copy()
    how = {"mode": mode} if mode != "blind" else {}
    if mode == "blind":
        query[:16] = 0
    ranked = index.search(query, 1_499, **({"mode": "exact"} | how)).ids.tolist()
    for rank in (1, 10, 11, 300, 1_499):
        told = index.why_not(query, ranked[rank - 1], **how)
        assert told.rank == rank
        if rank <= 10:
            assert told.lost_by is None
            continue
        assert (told.lost_by, told.change) == ("scan", {"k": rank})
        assert told.score <= told.threshold
        assert f"rank {rank:,} where it keeps 10" in told.verdict
        after = index.why_not(query, ranked[rank - 1], **(how | told.change))
        assert after.lost_by is None


def test_why_not__looks_for_the_rank_in_a_scan_so_far_only(
    loose: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
):
    index, rows = loose
    monkeypatch.setattr("funnel.adapt.explain.DEEPEST", 100)
    last = index.search(rows[7], 1_499, mode="exact").ids.tolist()[-1]
    told = index.why_not(rows[7], last, mode="exact")
    assert (told.lost_by, told.rank, told.change) == ("scan", None, {})
    assert "not among the 100 best" in told.verdict


def test_explain__follows_a_query_of_zeros():
    with FunnelIndex.build(ROWS, projection="prefix", code_dim=30, metric="ip") as one:
        query = np.zeros(120, np.float32)
        assert [s.name for s in one.explain(query).steps] == ["scan"]
        (shown,) = one.search_progressive(query)
        assert shown.ids.tolist() == one.search(query).ids.tolist()


def test_explain__counts_the_pages_of_the_rows_that_bounds_scored():
    rows = turned_rows(4_000, 1_024, seed=8, rank=24)  # a page each
    with FunnelIndex.build(rows, projection="pca", code_dim=64) as one:
        told = one.explain(rows[5], policy="certified").steps[-1]
    assert told.rows_in < 150
    assert told.rows_in <= told.pages <= 3 * told.rows_in


# ---- what would keep a row


@pytest.fixture(scope="module", params=["cosine", "ip"])
def tuned(request: pytest.FixtureRequest) -> Any:
    rows = turned_rows(1_800, 64, seed=6, rank=30)
    made = FunnelIndex.build(
        rows, projection="pca", code_dim=16, metric=request.param, M=4
    )
    made.tune(near_rows(rows, 60, seed=2, noise=0.3), target_knn_recall=0.8)
    yield made, near_rows(rows, 6, seed=7, noise=0.3)
    made.close()


@pytest.mark.parametrize(
    "how",
    [
        {}, {"mode": "rerank"}, {"mode": "prefix_ann"}, {"effort": 0.1},
        {"mode": "prefix_ann", "shortlist": 30}, {"policy": "adaptive"},
        {"policy": "certified"}, {"ef_search": 300}, {"mode": "rerank", "slack": 0.05},
    ],
    ids=str,
)  # fmt: skip
def test_why_not__names_what_keeps_a_row(tuned: tuple[Any, Any], how: dict[str, Any]):
    index, queries = tuned
    if index.metric == "ip" and "slack" in how:
        how = {"mode": "rerank"}
    lost = 0
    for query in queries:
        for one in index.search(query, 150, mode="exact").ids.tolist()[5::16]:
            told = index.why_not(query, one, **how)
            if told.lost_by is None or "keep" in told.change:
                continue
            lost += 1
            assert told.change
            given = {} if "effort" in how or "adaptive" in how.values() else how
            given = how if told.change.keys() == {"k"} else given
            after = index.why_not(query, one, **(given | told.change))
            if "k" in told.change:
                assert after.lost_by is None
            else:
                assert after.lost_by != "walk"
    assert lost > 5


def test_progressive__keeps_the_order_of_copies_in_several_segments():
    with FunnelIndex.build(ROWS[:1_500], projection="pca", code_dim=30) as one:
        one.add(np.concatenate([ROWS[1_500:], ROWS[:300]]))
        for query in near_rows(ROWS[:300], 60, seed=3, noise=0.05):
            *_, last = one.search_progressive(query)
            assert last.ids.tolist() == one.search(query).ids.tolist()
