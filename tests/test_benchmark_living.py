"""The benchmark of changes runs, and its tables say what was measured."""

from __future__ import annotations

from pathlib import Path

import conftest
import pytest

from benchmarks import living, living_page
from benchmarks.marked import END

TITLES = ("segments", "filters", "changes")


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
    found |= {"about": "tiny", "machine": {"cpu": "a CPU"}, "commit": None}
    assert found["segments"] == 3
    assert [one["knn_recall"] for one in found["filters"]] == [1.0, 1.0, 1.0]
    assert found["bytes"]["compacted"] < 1.2 * found["bytes"]["fresh"]
    made = living_page.tables(found)
    assert [t.title for t in made] == [f"tiny: {s}" for s in TITLES]
    assert all(len(row) == len(t.header) for t in made for row in t.rows)
    doc = tmp_path / "living.md"
    doc.write_text(f"before\n{living_page.BEGIN}old\n{END}\nafter\n")
    living_page.write(found, doc)
    text = doc.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old\n" not in text
    assert all(f"tiny: {title}" in text for title in TITLES)
