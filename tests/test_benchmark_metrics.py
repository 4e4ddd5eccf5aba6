"""The benchmark's judge against values worked out by hand, and a brute-force search."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.metrics import (
    Judge,
    judge,
    knn_recall,
    label_qrels,
    trec_run,
    without_duplicates,
)
from benchmarks.truth import exact_neighbours, load_or_find, make_workload, normalise


def data_set(corpus, queries, **given):
    corpus, queries = np.float32(corpus), np.float32(queries)
    defaults = {
        "name": "made",
        "dims": (corpus.shape[1],),
        "doc_ids": [f"d{i}" for i in range(len(corpus))],
        "query_ids": [f"q{i}" for i in range(len(queries))],
        "qrels": None,
        "labels": None,
    }
    return SimpleNamespace(corpus=corpus, queries=queries, **(defaults | given))


def drawn(n_rows=300, full_dim=24, n_queries=7, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, full_dim))
    near = centres[rng.integers(0, 12, n_rows)] + 0.4 * rng.standard_normal(
        (n_rows, full_dim)
    )
    queries = near[:n_queries] + 0.2 * rng.standard_normal((n_queries, full_dim))
    return data_set(near * 3, queries, dims=(8, 16))


def test_normalise__gives_unit_rows_and_keeps_zero():
    rows = normalise(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]], rtol=1e-6)


def test_without_duplicates__keeps_each_first_place():
    rows = np.array([[4, 4, 2, 4], [1, -1, 1, 3]])
    kept = [[4, -1, 2, -1], [1, -1, -1, 3]]
    np.testing.assert_array_equal(without_duplicates(rows), kept)


def test_trec_run__keeps_the_order_against_ids_and_drops_pads():
    run = trec_run(np.array([[2, 0, 0, -1]]), ["q"], ["a", "b", "c"])
    assert list(run["q"]) == ["c", "a"]
    scores = list(run["q"].values())
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 2


@pytest.mark.parametrize("names", ["abcd", "dcba"])
def test_judge__is_the_same_for_any_document_ids(names):
    """Equal scores would let trec_eval order by id: the right row is third here."""
    ids = list(names)
    run = trec_run(np.array([[1, 2, 0]]), ["q"], ids)
    found = judge(run, {"q": {ids[0]: 1}}, k=3)
    assert found["ndcg@3"] == pytest.approx(1 / math.log2(4))
    assert found["map@3"] == pytest.approx(1 / 3)
    assert found["recall@3"] == 1


def test_judge__equals_hand_computed_graded_values():
    run = trec_run(np.array([[0, 1, 2]]), ["q"], ["a", "b", "c"])
    qrels = {"q": {"a": 1, "c": 2, "z": 2}}
    found = judge(run, qrels, k=3)
    gain = 1 + 2 / math.log2(4)
    ideal = 2 + 2 / math.log2(3) + 1 / math.log2(4)
    assert found["ndcg@3"] == pytest.approx(gain / ideal)
    assert found["map@3"] == pytest.approx((1 + 2 / 3) / 3)
    assert found["recall@3"] == pytest.approx(2 / 3)


def test_judge__counts_an_empty_answer_and_leaves_out_the_unjudged():
    rows = np.array([[0], [-1], [0], [0]])
    run = trec_run(rows, ["hit", "empty", "unjudged", "zero"], ["a"])
    qrels = {"hit": {"a": 1}, "empty": {"a": 1}, "zero": {"a": 0}, "absent": {"a": 1}}
    assert judge(run, qrels, k=1)["ndcg@1"] == pytest.approx(0.5)


def test_label_qrels__makes_map_the_papers():
    """Right, wrong, right of k = 3: mean precision at hits, divided by k."""
    run = trec_run(np.array([[0, 1, 2]]), ["q"], list("abcde"))
    labels = {"a": 1, "b": 0, "c": 1, "d": 1, "e": 1}
    members = {1: ["a", "c", "d", "e"], 0: ["b"]}
    qrels = label_qrels(run, labels, {"q": 1}, members, k=3)
    assert qrels == {"q": {"a": 1, "c": 1, "d": 1}}
    found = judge(run, qrels, k=3)
    assert found["map@3"] == pytest.approx((1 + 2 / 3) / 3)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert found["ndcg@3"] == pytest.approx((1 + 1 / math.log2(4)) / ideal)


def test_judge_with_labels__is_perfect_for_a_pure_answer():
    labels = (np.array([0, 0, 0, 1, 1]), np.array([1]))
    corpus = [[0, 1], [0, 1], [0, 1], [1, 0], [1, 0.1]]
    workload = make_workload(data_set(corpus, [[1, 0]], labels=labels), None)
    found = Judge(workload, exact_neighbours(workload, 2), 2)
    assert found.relevance(np.array([[3, 4]]))["map@2"] == pytest.approx(1)
    assert found.relevance(np.array([[0, 3]]))["map@2"] == pytest.approx(0.25)


def test_judge_without_judgements__says_none():
    workload = make_workload(drawn(), None)
    truth = exact_neighbours(workload, 5)
    found = Judge(workload, truth, 5)
    assert set(found.relevance(truth.exact).values()) == {None}
    assert found.knn_recall(truth.exact) == 1


def test_knn_recall__lets_either_of_two_equal_rows_do():
    corpus = [[1, 0], [0.9, 0.1], [0.9, 0.1], [0, 1]]
    workload = make_workload(data_set(corpus, [[1, 0]]), None)
    truth = exact_neighbours(workload, 2)
    for second in (1, 2):
        assert knn_recall(workload, truth, np.array([[0, second]])) == 1
    assert knn_recall(workload, truth, np.array([[0, 3]])) == 0.5


def test_knn_recall__counts_a_repeated_row_once():
    workload = make_workload(data_set(np.eye(4), [[4, 3, 2, 1]]), None)
    truth = exact_neighbours(workload, 2)
    assert knn_recall(workload, truth, np.array([[0, 0]])) == 0.5
    assert knn_recall(workload, truth, np.array([[-1, -1]])) == 0


def test_exact_neighbours__equals_a_full_sort_at_every_prefix():
    data = drawn()
    truth = exact_neighbours(make_workload(data, None), 10)
    assert sorted(truth.rows) == [8, 16, 24]
    for dim, rows in truth.rows.items():
        corpus, queries = np.float64(data.corpus[:, :dim]), data.queries[:, :dim]
        scores = queries @ (corpus / np.linalg.norm(corpus, axis=1)[:, None]).T
        best = -np.sort(-scores, axis=1)[:, :10]
        mine = np.take_along_axis(scores, rows, axis=1)
        np.testing.assert_allclose(mine, best, rtol=1e-5)


def test_load_or_find__returns_what_was_kept(tmp_path):
    workload = make_workload(drawn(), (4, 12))
    told = []
    first = load_or_find(workload, 5, tmp_path, told.append)
    again = load_or_find(workload, 5, tmp_path, told.append)
    assert sum(told) == workload.shape[0]
    assert sorted(again.rows) == [4, 12, 24]
    np.testing.assert_array_equal(first.exact, again.exact)
    np.testing.assert_array_equal(first.kth_score, again.kth_score)
    other = make_workload(drawn(seed=1), (4, 12))
    assert other.slug != workload.slug
