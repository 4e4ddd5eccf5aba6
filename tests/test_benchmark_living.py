"""The benchmark of changes runs, and its tables say what was measured."""

from __future__ import annotations

from pathlib import Path

import conftest
import pytest

from benchmarks import living


def test_living__measures_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("ADDED", 20), ("ORDINARY", (30, 5)), ("VERSIONS", 8), ("REPEATS", 2),
        ("WARM_S", 0.05),
    ):  # fmt: skip
        monkeypatch.setattr(living, name, value)
    corpus = conftest.turned_rows(300, 32, 0, rank=16)
    queries = conftest.near_rows(corpus, 20, 1)
    found = living.Living(corpus, queries, tmp_path).measure()
    found["about"] = "tiny"
    assert found["segments"] == 3
    assert [one["knn_recall"] for one in found["filters"]] == [1.0, 1.0, 1.0]
    assert found["bytes"]["compacted"] < 1.2 * found["bytes"]["fresh"]
    titles = [table.title for table in living.tables(found)]
    assert titles == ["tiny", "filters", "changes"]
    assert all(
        len(row) == len(t.header) for t in living.tables(found) for row in t.rows
    )
