"""How good an answer is: NDCG, MAP and recall by trec_eval, and knn_recall.

The relevance metrics come from pytrec_eval (trec_eval's own code); this file only
gives it a run and qrels in the right shape. knn_recall judges rows by the harness's
own exact scores. Nothing here is timed. Called by `benchmarks.run`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytrec_eval

from benchmarks.truth import SAME_SCORE, Truth, Workload, pair_scores

TrecRun = dict[str, dict[str, float]]
Qrels = Mapping[str, Mapping[str, int]]


def without_duplicates(rows: np.ndarray) -> np.ndarray:
    """Return rows (q, k) with pads and repeats as −1; each first place stays."""
    out = np.array(rows, dtype=np.int64)
    for column in range(1, out.shape[1]):
        seen = (out[:, :column] == out[:, column, None]).any(axis=1)
        out[seen, column] = -1
    return out


def trec_run(
    rows: np.ndarray, query_ids: Sequence[str], doc_ids: Sequence[str]
) -> TrecRun:
    """Return the answers as a TREC run whose scores fall by 1 from rank to rank.

    trec_eval orders a run by score and breaks ties by document id, whatever the rank
    was; scores made from ranks keep the order that the system gave.

    Parameters
    ----------
    rows : ndarray
        Corpus rows, (q, k), best first, −1 pads.
    query_ids, doc_ids : sequence of str
        Names of the queries and of the corpus rows.

    Returns
    -------
    dict
        Query id → document id → score.
    """
    k = rows.shape[1]
    run: TrecRun = {}
    for query_id, answer in zip(query_ids, without_duplicates(rows), strict=True):
        kept = [row for row in answer.tolist() if row >= 0]
        run[query_id] = {doc_ids[row]: float(k - i) for i, row in enumerate(kept)}
    return run


def label_qrels(
    run: TrecRun,
    corpus_labels: Mapping[str, int],
    query_labels: Mapping[str, int],
    members: Mapping[int, Sequence[str]],
    k: int,
) -> dict[str, dict[str, int]]:
    """Return qrels for one run where a document is relevant if it shares the label.

    A class has thousands of members, so that its full list would make every metric's
    ideal unreachable. Each query gets the members that the run returned, filled up
    with others to exactly `k` (or to the whole class, if that is smaller): then
    ndcg@k is right, and map@k is the one of the MRL paper, which divides by k.

    Parameters
    ----------
    run : dict
        The run, cut to k.
    corpus_labels, query_labels : mapping
        Label of each document and of each query, by id.
    members : mapping
        Documents of each label: at least 2 k of them, or all.
    k : int
        Depth of the metrics.
    """
    qrels = {}
    for query_id, returned in run.items():
        label = query_labels[query_id]
        found = [doc for doc in returned if corpus_labels[doc] == label]
        others = (doc for doc in members.get(label, ()) if doc not in returned)
        filled = found + list(itertools.islice(others, k - len(found)))
        qrels[query_id] = dict.fromkeys(filled, 1)
    return qrels


def judge(run: TrecRun, qrels: Qrels, k: int) -> dict[str, float]:
    """Return the mean ndcg@k, map@k and recall@k over the judged queries of a run.

    A query without any relevant document is left out, as trec_eval does; one without
    an answer counts 0.
    """
    asked = {
        query: dict(docs)
        for query, docs in qrels.items()
        if query in run and any(grade > 0 for grade in docs.values())
    }
    measures = {f"ndcg_cut.{k}", f"map_cut.{k}", f"recall.{k}"}
    found = pytrec_eval.RelevanceEvaluator(asked, measures).evaluate(
        {query: run[query] for query in asked}
    )
    names = {"ndcg": f"ndcg_cut_{k}", "map": f"map_cut_{k}", "recall": f"recall_{k}"}
    total = max(len(asked), 1)
    return {
        f"{short}@{k}": sum(one[name] for one in found.values()) / total
        for short, name in names.items()
    }


class Judge:
    """Judges answers to one workload; without qrels and labels only by knn_recall.

    Parameters
    ----------
    workload : Workload
        Data, queries, and what is relevant.
    truth : Truth
        Exact neighbours to compare with.
    k : int
        Depth of all metrics.
    """

    def __init__(self, workload: Workload, truth: Truth, k: int) -> None:
        self.workload, self.truth, self.k = workload, truth, k
        data = workload.data
        if data.qrels is None and data.labels is not None:
            corpus_labels, query_labels = (np.asarray(x).tolist() for x in data.labels)
            self._corpus_labels = dict(zip(data.doc_ids, corpus_labels, strict=True))
            self._query_labels = dict(zip(data.query_ids, query_labels, strict=True))
            self._members: dict[int, list[str]] = {}
            for doc, label in self._corpus_labels.items():
                members = self._members.setdefault(label, [])
                if len(members) < 2 * k:
                    members.append(doc)

    def run(self, rows: np.ndarray) -> TrecRun:
        """Return the answers as a TREC run."""
        data = self.workload.data
        return trec_run(rows, data.query_ids, data.doc_ids)

    def relevance(self, rows: np.ndarray) -> dict[str, float | None]:
        """ndcg@k, map@k and recall@k of the answers; None without judgements.

        With labels recall@k is the precision: k documents count as relevant.
        """
        data, run = self.workload.data, self.run(rows)
        if data.qrels is not None:
            return dict(judge(run, data.qrels, self.k))
        if data.labels is None:
            return {f"{name}@{self.k}": None for name in ("ndcg", "map", "recall")}
        given = (self._corpus_labels, self._query_labels, self._members)
        return dict(judge(run, label_qrels(run, *given, self.k), self.k))

    def knn_recall(self, rows: np.ndarray) -> float:
        """Return the share of the exact top k that the answers hold, ties counted.

        A returned row counts if its exact score is at least the k-th exact score
        − 1e-6, so that of two equal rows either will do; a repeated row counts once.
        """
        return knn_recall(self.workload, self.truth, rows)


def knn_recall(workload: Workload, truth: Truth, rows: np.ndarray) -> float:
    """Return `Judge.knn_recall` of rows (q, k)."""
    rows = without_duplicates(rows)
    hit = (rows[:, :, None] == truth.exact[:, None, :]).any(axis=2)
    query_at, place = np.nonzero(~hit & (rows >= 0))
    scores = pair_scores(workload, query_at, rows[query_at, place])
    hit[query_at, place] = scores >= truth.kth_score[query_at] - SAME_SCORE
    return float(hit.sum() / truth.exact.size)
