"""The adaptive benchmark on small data: that its figures say what they claim."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import adaptive, adaptive_page, coverage
from benchmarks.marked import END
from funnel.kernels.jit import COMPILED

pytestmark = pytest.mark.skipif(not COMPILED, reason="searches thousands of times")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what the benchmark says of a small synthetic set, and its folder."""
    folder = tmp_path_factory.mktemp("adaptive")
    given = ["--dataset", "synthetic", "--n", "2000", "--dim", "64", "--queries", "240"]
    patch = pytest.MonkeyPatch()
    patch.setattr(adaptive, "ROUNDS", 1)
    patch.setattr(coverage, "SPLITS", 20)
    patch.setattr(adaptive, "EFS", (10, 40, 160))
    adaptive.main([*given, "--out", str(folder / "out"), "--cache", str(folder)])
    patch.undo()
    (path,) = (folder / "out").glob("*.json")
    return adaptive_page.read_json(path), folder / "out"


def test_benchmark__judges_queries_that_tuning_never_saw(found: Any):
    record, _ = found
    assert (record["queries"], record["tuning_queries"]) == (120, 120)
    *recalls, ndcg = record["tuned"]
    assert [one["target"] for one in recalls] == [0.95, 0.99]
    for one in recalls:
        assert one["measure"] == "knn_recall"
        assert one["over_target"] == pytest.approx(
            one["knn_recall"] - one["target"],
            abs=1e-5,  # as it was rounded
        )
    assert (ndcg["measure"], ndcg["target"]) == ("ndcg", 0.995)
    # No query makes up for another there.
    assert 0 < ndcg["over_target"] + 0.995 <= min(1, ndcg["ndcg"]) + 1e-5
    assert 0.9 < record["untuned"]["ndcg"] <= 1.1


def test_page__shows_every_figure(found: Any, tmp_path: Path):
    record, folder = found
    doc = tmp_path / "docs" / "adaptive.md"
    doc.parent.mkdir()
    doc.write_text(f"before\n{adaptive_page.BEGIN}old\n{END}\nafter\n")
    adaptive_page.write(folder, doc)
    text = doc.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old\n" not in text
    for table in adaptive_page.tables(record):
        assert table.title in text
        assert all(len(row) == len(table.header) for row in table.rows)
    assert (doc.parent / "figures" / "adaptive.png").stat().st_size > 0


def test_one_by_one__adds_the_losses_of_stages_up():
    rng = np.random.default_rng(0)
    hard, wide = rng.random((2, 4_000))  # a longer list loses no more
    walk = {ef: hard < 0.8 / ef for ef in (10, 20, 100, 10_000)}
    cut = {keep: wide < 0.8 / keep for keep in (10, 20, 100, 10_000)}
    losses = {(k, e): (walk[e] | cut[k]).astype(float) for k in cut for e in walk}
    alone = coverage.one_by_one(losses, 0.9)
    assert not alone["kept"]
    assert alone["missed_when_sure"] > alone["may_miss"]
    levels = np.stack([losses[k, k] for k in sorted(cut)], axis=1)
    together = coverage.coverage(levels, 0.9)
    assert together["kept"]
    assert together["sure_of"] == 1
    assert together["missed_when_sure"] <= together["may_miss"]


def test_gains__are_of_labels_or_of_judgements():
    labelled = SimpleNamespace(
        qrels=None, labels=(np.array([0, 1, 1]), np.array([1, 0]))
    )
    gains = adaptive.gains_of(labelled, np.array([1, 0]))
    assert gains is not None
    assert gains(np.array([[0, 1], [1, 2]])).tolist() == [[1, 0], [1, 1]]
    judged = SimpleNamespace(
        qrels={"a": {"x": 2, "y": 0}, "b": {"y": 1}},
        labels=None, doc_ids=("x", "y"), query_ids=("a", "b"),
    )  # fmt: skip
    gains = adaptive.gains_of(judged, np.array([1, 0]))
    assert gains is not None
    assert gains(np.array([[0, 1], [0, 1]])).tolist() == [[0, 1], [2, 0]]
