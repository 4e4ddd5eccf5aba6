"""Other libraries' tests over `funnel`: the shims, the runner, the suites themselves.

The suites run where their checkouts are given (`compat/run.py` says how); the shims and
the runner are always tested, on a few rows of our own.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import conftest
import naive
import numpy as np
import pytest
from compat import hnswlib_shim, limits, run, usearch_eval_shim, usearch_shim
from compat.engine import L2_VARIABLE
from compat.usearch_types import MetricKind, ScalarKind

from funnel.errors import DuplicateIdError, ReadOnlyError

DIM = 24
ROWS = conftest.turned_rows(60, DIM, 7, rank=16)
CLOSE = {"atol": 4e-6, "rtol": 1e-5}


def nearest(query: np.ndarray, space: str) -> tuple[np.ndarray, np.ndarray]:
    """Return all rows by distance from a query, and the sorted distances."""
    rows, query = ROWS.astype(np.float64), query.astype(np.float64)
    if space == "l2":
        distances = ((rows - query) ** 2).sum(axis=1)
    else:
        distances = 1 - naive.final_scores(rows, query, space)
    order = np.argsort(distances, kind="stable")
    return order, distances[order]


def filled(
    kind: type = hnswlib_shim.Index, space: str = "cosine"
) -> hnswlib_shim.Index:
    """Return an hnswlib-like index of all rows, labelled from 100."""
    index = kind(space, DIM)
    index.init_index(len(ROWS))
    index.add_items(ROWS, np.arange(100, 100 + len(ROWS)))
    return index


@pytest.fixture
def keyed() -> usearch_shim.Index:
    """Give a usearch-like index of all rows, with keys from 100."""
    index = usearch_shim.Index(ndim=DIM)
    index.add(np.arange(100, 100 + len(ROWS)), ROWS)
    return index


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    limits.said.clear()
    monkeypatch.delenv(L2_VARIABLE, raising=False)


# ---- hnswlib


@pytest.mark.parametrize("kind", [hnswlib_shim.Index, hnswlib_shim.BFIndex])
@pytest.mark.parametrize("space", ["cosine", "ip", "l2"])
def test_hnswlib__answers_by_distance(
    kind: type, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(L2_VARIABLE, "ip")
    labels, distances = filled(kind, space).knn_query(ROWS[:4] + 0.01, k=5)
    assert labels.dtype == np.uint64
    for i in range(4):
        order, expected = nearest(ROWS[i] + np.float32(0.01), space)
        assert (labels[i] == 100 + order[:5]).all()
        assert np.allclose(distances[i], expected[:5], **CLOSE)


def test_hnswlib__gives_rows_back_by_label() -> None:
    index = filled()
    assert sorted(index.get_ids_list()) == list(range(100, 160))
    assert (index.get_items([107, 103]) == ROWS[[7, 3]]).all()
    assert (index.get_items() == ROWS).all()
    assert index.get_items([101], return_type="list") == ROWS[1:2].tolist()
    with pytest.raises(ValueError, match="sequence"):
        index.get_items(101)


def test_hnswlib__replaces_deletes_and_filters() -> None:
    index = filled()
    index.add_items(ROWS[1:2], [100])
    for label in (101, 102):
        index.mark_deleted(label)
    with pytest.raises(RuntimeError, match="101"):
        index.mark_deleted(101)
    assert index.get_current_count() == 58
    assert index.knn_query(ROWS[1])[0].tolist() == [[100]]
    odd, _ = index.knn_query(ROWS, k=20, filter=lambda label: label % 2)
    assert (odd % 2 == 1).all()
    with pytest.raises(RuntimeError, match="29 rows match"):
        index.knn_query(ROWS, k=30, filter=lambda label: label % 2)
    with pytest.raises(limits.NotApplicableError):
        index.unmark_deleted(101)


def test_hnswlib__survives_a_file_and_a_pickle(tmp_path: Path) -> None:
    index = filled()
    index.mark_deleted(100)
    index.save_index(str(tmp_path / "file"))
    loaded = hnswlib_shim.Index("cosine", DIM)
    loaded.load_index(str(tmp_path / "file"), max_elements=70)
    assert loaded.max_elements == 70
    for one in (loaded, pickle.loads(pickle.dumps(index))):
        assert (one.get_items() == ROWS[1:]).all()
        one.add_items(ROWS[:1], [160])
        assert one.knn_query(ROWS[0])[0].tolist() == [[160]]
    assert index.element_count == 59
    with pytest.raises(RuntimeError, match="cosine"):
        hnswlib_shim.Index("ip", DIM).load_index(str(tmp_path / "file"))


# ---- usearch


@pytest.mark.parametrize("metric", [MetricKind.Cos, MetricKind.IP, MetricKind.L2sq])
@pytest.mark.parametrize("exact", [False, True])
def test_usearch__answers_by_distance(
    metric: MetricKind, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(L2_VARIABLE, "ip")
    index = usearch_shim.Index(ndim=DIM, metric=metric)
    index.add(np.arange(len(ROWS)), ROWS)
    many, one = index.search(ROWS[:4], 5, exact=exact), index.search(ROWS[3], 5)
    assert isinstance(many, usearch_shim.BatchMatches)
    assert isinstance(one, usearch_shim.Matches)
    for i, found in enumerate([*many, one]):
        order, expected = nearest(ROWS[min(i, 3)], metric.value)
        assert (found.keys == order[:5]).all()
        assert np.allclose(found.distances, expected[:5], **CLOSE)
        assert found[0].key == order[0]


def test_usearch__removes_and_renames(keyed: usearch_shim.Index) -> None:
    assert keyed.remove([100, 101, 999]).tolist() == [1, 1, 0]
    assert len(keyed) == 58
    assert keyed.rename([101, 102], [7, 8]).tolist() == [0, 1]
    assert (keyed[8] == ROWS[2]).all()
    assert 102 not in keyed
    assert keyed.get(102) is None
    with pytest.raises(DuplicateIdError):
        keyed.rename(103, 104)
    assert keyed.count([8, 103, 104, 102]).tolist() == [1, 1, 1, 0]


def test_usearch__survives_files_buffers_and_copies(
    keyed: usearch_shim.Index, tmp_path: Path
) -> None:
    keyed.save(tmp_path / "file")
    restore, packed = usearch_shim.Index.restore, keyed.save()
    for one in (restore(tmp_path / "file"), restore(packed, view=True), keyed.copy()):
        assert (one.keys == keyed.keys).all()
        assert (one.vectors == ROWS).all()
    with pytest.raises(ReadOnlyError):
        restore(packed, view=True).add(1, ROWS[0])
    with pytest.raises(TypeError):
        keyed.load(123)
    keyed.clear()
    assert len(keyed) == len(keyed.keys) == 0
    assert usearch_shim.Index.metadata(packed)["ndim"] == DIM


def test_usearch__finds_its_own_rows(keyed: usearch_shim.Index) -> None:
    stats = usearch_eval_shim.self_recall(keyed, 0.5, count=2)
    assert (stats.count_queries, stats.count_matches) == (30, 30)
    assert stats.computed_distances >= stats.visited_members > 0
    drawn = usearch_eval_shim.random_vectors(5, dtype=np.float16, ndim=9)
    assert (drawn.shape, drawn.dtype) == ((5, 9), np.float16)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"metric": MetricKind.L2sq}, "squared Euclidean"),
        ({"metric": MetricKind.Hamming}, "Hamming"),
        ({"dtype": ScalarKind.I8}, "int8"),
        ({"multi": True}, "second vector"),
    ],
)
def test_usearch__says_what_does_not_apply(options: dict, reason: str) -> None:
    with pytest.raises(limits.NotApplicableError, match=reason):
        usearch_shim.Index(ndim=DIM, **options)
    assert reason in limits.said[0]


# ---- the runner

OWN = """
import os, sys, time, unittest
import hnswlib, pytest
from usearch.index import Index, MetricKind

class Case(unittest.TestCase):
    def test_passes(self):
        self.assertTrue(hasattr(hnswlib.Index("ip", 3), "knn_query"))

    def test_swallows(self):
        with self.assertRaises(Exception):
            hnswlib.Index("l2", 3)

@pytest.mark.parametrize("n", [1, 2])
def test_fails(n):
    assert n == 1

def test_applies_not():
    Index(ndim=3, metric=MetricKind.Hamming)

@pytest.mark.skip(reason="not today")
def test_skipped():
    pass

def test_dies():
    os._exit(3)

def test_sleeps():
    time.sleep(60)
"""
ENDS = {
    "Case::test_passes": ("passed", ""),
    "Case::test_swallows": ("not applicable", "squared Euclidean"),
    "test_fails[1]": ("passed", ""),
    "test_fails[2]": ("failed", "assert 2 == 1"),
    "test_applies_not": ("not applicable", "Hamming distance is not a metric"),
    "test_skipped": ("not applicable", "its suite skips it: not today"),
    "test_dies": ("failed", "its process ended"),
    "test_sleeps": ("failed", "took too long"),
}


def test_run__says_how_each_test_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "test_own.py").write_text(OWN)
    suite = run.Suite("own", "FUNNEL_OWN_SUITE", "test_*.py")
    monkeypatch.setenv(suite.variable, str(tmp_path))
    monkeypatch.setattr(run, "SUITES", (suite,))
    out = tmp_path / "out"
    assert run.main(["--out", str(out), "--seconds", "5"]) == 1
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {one["test"].partition("::")[2] for one in found} == set(ENDS)
    for one in found:
        outcome, reason = ENDS[one["test"].partition("::")[2]]
        assert one["outcome"] == outcome, one
        assert reason in one["reason"]
    assert "| own | 2 | 3 | 3 |" in capsys.readouterr().out


def test_run__wants_a_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for suite in run.SUITES:
        monkeypatch.delenv(suite.variable, raising=False)
    assert run.main([]) == 2
    assert "FUNNEL_HNSWLIB_SUITE" in capsys.readouterr().err
    monkeypatch.setenv(run.SUITES[0].variable, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="bindings_test"):
        run.main([])


@pytest.mark.slow
@pytest.mark.parametrize("suite", run.SUITES, ids=lambda suite: suite.name)
def test_suite__fails_nothing_but_what_was_reviewed(suite: run.Suite) -> None:
    if suite.root is None:
        pytest.skip(f"{suite.variable} is not set")
    results = list(run.run_suite(suite))
    assert "passed" in {one.outcome for one in results}
    failed = [one for one in results if one.outcome == "failed"]
    assert [one for one in failed if not run.review_of(one)] == []
