"""Quick forms of `reliability/quality.py`, and the page of all that is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import near_rows, turned_rows

from funnel import FunnelIndex
from reliability import quality
from reliability.forms import FORMS, of_kills, of_power_cuts, of_rounds, of_suites
from reliability.report import TABLES, page


def test_upserts__keep_the_quality_of_a_fresh_build(tmp_path: Path) -> None:
    found = quality.upserts(tmp_path, 3_000, 3, seed=1)
    assert 0.9 < found["knn_recall_of_fresh"] < 1, "so good that nothing would show"
    assert not quality.has_failed(found), found


def test_copies_of_one_vector__cost_no_quality(tmp_path: Path) -> None:
    found = quality.copies(tmp_path, 3_000, 2_000, seed=1)
    assert 0.9 < found["knn_recall_of_fresh"] < 1, "so good that nothing would show"
    assert not quality.has_failed(found), found


def test_segments__with_graphs_find_what_one_finds(tmp_path: Path) -> None:
    rows = turned_rows(12_000, 48, seed=2, rank=32)
    queries = near_rows(rows, 300, seed=3, noise=0.3)
    recalls = []
    for parts in (1, 2):
        path, cut = tmp_path / f"{parts}", len(rows) // parts
        with FunnelIndex.build(
            rows[:cut], path=path, projection="pca", code_dim=32
        ) as index:
            for start in range(cut, len(rows), cut):
                index.add(rows[start : start + cut])
            last = index.search(queries, mode="exact").scores[:, -1:]
            found = index.search(queries).scores
            recalls.append(float((found >= last - 1e-6).mean()))
            assert index.info["segments"] == parts
    assert recalls[0] < 0.999, "so good that nothing would show"
    assert recalls[1] > recalls[0] - 0.005


@pytest.mark.parametrize(
    ("after", "lost", "failed"),
    [(0.98, 0, False), (0.976, 0, False), (0.97, 0, True), (0.98, 1, True)],
)
def test_has_failed__notices(after: float, lost: int, failed: bool) -> None:
    found = {"knn_recall_of_fresh": 0.98, "knn_recall": after, "lost": lost}
    assert quality.has_failed(found) is failed


# ---- what is kept of the long forms

KILLED = {"syscall": "link", "nth": 1, "outcome": "acknowledged"}
STATE = {"cut": 1, "state": "lost", "outcome": "intended"}
MUTANT = {"ignored": "codes", "noticed": True, "doubled": False}
ROUND = {
    "ended": -9, "acknowledged": 7, "merges": 2, "in_merge": True, "outcome": "absent",
}  # fmt: skip


def test_counts__say_what_failed() -> None:
    wrong = {"outcome": "violation: a row is lost"}
    (kills,) = of_kills("EIO")([KILLED, KILLED | wrong])
    assert (kills["by"], kills["points"], kills["failed"]) == ("EIO", 2, 1)
    (cuts,) = of_power_cuts([STATE, STATE | wrong, MUTANT, MUTANT | {"noticed": False}])
    assert (cuts["states"], cuts["failed"]) == (2, 1)
    assert (cuts["mutants"], cuts["noticed"]) == (2, 1)
    (rounds,) = of_rounds([ROUND, ROUND | {"ended": 0}, ROUND | wrong])
    assert (rounds["rounds"], rounds["kills"], rounds["failed"]) == (3, 2, 1)
    test = {"suite": "s", "test": "t", "outcome": "passed", "reason": ""}
    assert of_suites([test, test])[0]["tests"] == 2


def test_page__has_a_table_for_each_form(tmp_path: Path) -> None:
    assert set(TABLES) == {form.name for form in FORMS}
    about = {"commands": ["python -m x"], "commit": "0" * 40, "date": "d", "took_s": 1}
    counts = {
        "kill": of_kills("KILL")([KILLED]),
        "damage": [{"system": "funnel", "damage": "one bit", "trials": 4, "error": 4}],
    }
    for name, lines in counts.items():
        text = "".join(json.dumps(line) + "\n" for line in (about, *lines))
        (tmp_path / f"{name}.jsonl").write_text(text)
    said = page(tmp_path)
    assert "| KILL | 1 | 1 | 0 | 0 | 0 |" in said
    assert "| funnel | 4 | 0.0% | 0.0% | 0.0% | 0.0% | 100.0% | 0.0% |" in said
    assert "soak" not in said


def test_page__in_the_repository_is_made_of_its_counts() -> None:
    folder = Path(__file__).parents[1] / "reports" / "reliability"
    assert (folder / "README.md").read_text() == page(folder)
