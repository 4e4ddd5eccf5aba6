"""Reports of searches: as trec_eval and the exact answers say."""

from __future__ import annotations

import io
import json
from typing import Any

import naive
import numpy as np
import pytest
from conftest import near_rows, turned_rows

from funnel import FunnelIndex
from funnel.errors import (
    DimensionError,
    InvalidArgumentError,
    InvalidTypeError,
)

ROWS = turned_rows(2_000, 96, seed=14)
QUERIES = near_rows(ROWS, 40, seed=15, noise=0.1)
LOSSY = {"shortlist": 15, "mode": "rerank"}


@pytest.fixture(scope="module", params=["cosine", "ip"])
def index(request: pytest.FixtureRequest) -> Any:
    made = FunnelIndex.build(
        ROWS, metric=request.param, projection="prefix", code_dim=48,
        ids=[f"d{i}" for i in range(2_000)],
    )  # fmt: skip
    yield made
    made.close()


def drawn_qrels(index: FunnelIndex) -> list[dict[str, int]]:
    """Return graded judgements: of neighbours, of others, and of ids that are not."""
    rng, qrels = np.random.default_rng(1), []
    for query in QUERIES:
        near = index.search(query, 25, mode="exact").ids.tolist()
        held = {one: int(rng.integers(-1, 4)) for one in near if rng.random() < 0.6}
        far = rng.integers(0, 2_000, 3).tolist()
        qrels.append({f"d{i}": 1 for i in far} | held | {"gone": int(rng.integers(3))})
    qrels[3], qrels[7] = {}, {"d5": 0, "d6": -1}
    return qrels


@pytest.mark.parametrize("how", [{}, LOSSY, {"mode": "exact"}])
def test_knn_recall__is_that_of_exact_search(index: Any, how: dict[str, Any]):
    told = index.evaluate(QUERIES, **how)
    recalls = [
        naive.knn_recall(
            [int(one[1:]) for one in ids],
            naive.final_scores(ROWS, query, index.metric), 10,
        )
        for ids, query in zip(index.search(QUERIES, **how).ids, QUERIES, strict=True)
    ]  # fmt: skip
    assert told.knn_recall == pytest.approx(np.mean(recalls))
    far = 1.96 * np.std(recalls, ddof=1) / len(recalls) ** 0.5
    low, high = told.interval
    assert low == pytest.approx(np.mean(recalls) - far)
    assert high == pytest.approx(min(1, np.mean(recalls) + far))
    assert (told.found, told.exact, told.judged, told.ndcg_share) == (
        None,
        None,
        0,
        None,
    )


@pytest.mark.parametrize("k", [3, 10])
@pytest.mark.parametrize("how", [{}, LOSSY])
def test_relevance__equals_trec_eval(index: Any, k: int, how: dict[str, Any]):
    trec = pytest.importorskip("pytrec_eval", reason="trec_eval is pytrec_eval's")
    qrels = drawn_qrels(index)
    told = index.evaluate(QUERIES, qrels, k, **how)
    asked = {
        str(i): held
        for i, held in enumerate(qrels)
        if any(gain > 0 for gain in held.values())
    }
    assert told.judged == len(asked) == len(QUERIES) - 2
    measures = {f"ndcg_cut.{k}", f"recall.{k}", "recip_rank"}
    for ours, more in ((told.found, how), (told.exact, {"mode": "exact"})):
        ids = index.search(QUERIES, k, **more).ids.tolist()
        run = {
            at: {one: float(k - i) for i, one in enumerate(ids[int(at)])}
            for at in asked
        }
        found = trec.RelevanceEvaluator(asked, measures).evaluate(run).values()
        ndcg, recall, mrr = (
            np.mean([one[name] for one in found])
            for name in (f"ndcg_cut_{k}", f"recall_{k}", "recip_rank")
        )
        assert (ours.ndcg, ours.recall, ours.mrr) == pytest.approx((ndcg, recall, mrr))
    assert told.ndcg_share == pytest.approx(told.found.ndcg / told.exact.ndcg)


def test_costs__are_those_of_the_trace(index: Any):
    told = index.evaluate(QUERIES, **LOSSY)
    trace = index.search(QUERIES, trace=True, **LOSSY).trace
    assert told.rows_scored == sum(one.rows_in for one in trace) / 40
    assert told.bytes_read == sum(one.bytes_read for one in trace) / 40
    assert told.batch_us > 0
    assert 0 < told.single_us[0] <= told.single_us[1]
    assert (told.queries, told.calls) == (40, 40)


def test_evaluate__takes_a_filter_and_more_answers_than_rows(index: Any):
    ids = [f"d{i}" for i in range(0, 2_000, 400)]
    told = index.evaluate(QUERIES, [{"d400": 1, "d401": 1}] * 40, filter=ids)
    assert told.knn_recall == 1.0
    assert (told.found.recall, told.exact.recall) == (0.5, 0.5)
    assert index.evaluate(QUERIES[:3], k=3_000, mode="exact").knn_recall == 1.0


def test_evaluate__of_one_query_knows_nothing_for_sure(index: Any):
    told = index.evaluate(QUERIES[0])
    assert (told.queries, told.interval) == (1, (0.0, 1.0))


def test_evaluation__shows_itself(index: Any):
    told = index.evaluate(QUERIES, drawn_qrels(index), threads=1, **LOSSY)
    assert json.loads(json.dumps(told.to_dict(), allow_nan=False))["k"] == 10
    text, html = str(told), told._repr_html_()
    assert "shortlist 15" in text
    assert "as asked" in text
    assert f"{told.found.ndcg:.4f}" in text
    assert f"{told.found.ndcg:.4f}" in html
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=120, file=io.StringIO())
    console.print(told)
    assert f"{told.exact.mrr:.4f}" in console.file.getvalue()


def test_evaluate__refuses_what_it_cannot_measure(index: Any):
    with pytest.raises(DimensionError, match="no queries"):
        index.evaluate(np.empty((0, 96), np.float32))
    with pytest.raises(InvalidArgumentError, match="39 qrels for 40 queries"):
        index.evaluate(QUERIES, [{}] * 39)
    with pytest.raises(InvalidTypeError, match="sequence of dicts"):
        index.evaluate(QUERIES, {"d1": 1})
    with pytest.raises(InvalidArgumentError, match="no row may be an answer"):
        index.evaluate(QUERIES, filter=np.zeros(2_000, bool))
    with pytest.raises(InvalidTypeError, match="min_score"):
        index.evaluate(QUERIES, min_score=0.5)
    assert index.evaluate(QUERIES, [{}] * 40).found is None


@pytest.mark.parametrize(
    "how",
    [{"mode": "prefix"}, {"mode": "prefix_ann"}, {"cascade": [(24, 60), (48, 10)]}],
    ids=str,
)
def test_knn_recall__judges_what_was_found_at_full_width(how: dict[str, Any]):
    # Rows whose own prefix says little: half of what it finds is wrong.
    rows = np.random.default_rng(5).standard_normal((1_000, 96)).astype(np.float32)
    queries = near_rows(rows, 20, seed=6, noise=0.5)
    with FunnelIndex.build(rows, projection="prefix", code_dim=24) as index:
        exact = index.search(queries, mode="exact").ids
        found = index.search(queries, **how).ids
        shared = [len(set(a) & set(b)) for a, b in zip(found, exact, strict=True)]
        told = index.evaluate(queries, **how).knn_recall
    assert told == pytest.approx(np.mean(shared) / 10)
    assert told < 0.9


def test_evaluate__takes_budgets(index: Any):
    how = {"shortlist": 50, "mode": "rerank"}
    ended = index.evaluate(QUERIES, max_bytes=1, **how)
    codes = index.evaluate(QUERIES, shortlist=50, mode="prefix_ann")
    assert ended.knn_recall == codes.knn_recall
    assert ended.bytes_read < index.evaluate(QUERIES, **how).bytes_read
    assert "at most 1 bytes" in str(ended)
    late = index.evaluate(QUERIES, budget_ms=1e6, **how)
    assert late.knn_recall == index.evaluate(QUERIES, **how).knn_recall
    assert "at most 1e+06 ms" in str(late)


@pytest.mark.parametrize("gain", [float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["d1", "gone"])
def test_evaluate__refuses_a_relevance_without_end(index: Any, name: str, gain: float):
    with pytest.raises(InvalidArgumentError, match="relevance"):
        index.evaluate(QUERIES[:2], [{name: gain}, {"d2": 1}])
