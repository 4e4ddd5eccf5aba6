"""A tiny benchmark end to end, and the report of a stored one."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import results as stored
from benchmarks import run as command
from benchmarks.builds import Builder
from benchmarks.experiment import Experiment, Plan
from benchmarks.measure import Point, Timing, answer_points, time_round
from benchmarks.plots import draw
from benchmarks.progress import Steps
from benchmarks.report import markdown, sentences, speedup_table
from benchmarks.results import FIELDS, TIMES
from benchmarks.speedups import BATCH, SINGLE, fastest, speedups
from benchmarks.systems import NAMES, REGISTRY, BuildSettings, available
from benchmarks.tables import number, share, size
from benchmarks.truth import make_workload

TOP = {"dataset", "machine", "versions", "commit", "rows", "sweep"}


def record(system, run, effort, batch_us, knn_recall, **more):
    """One row as a run writes it; single calls take ten µs more."""
    knob = "shortlist" if system == "funnel" else "ef_search"
    if effort is None:
        knob = None
    given = {"k": 10, "rows": 1000, "full_dim": 64, "queries": 50, "rounds": 3}
    row = dict.fromkeys(FIELDS)
    row |= {"system": system, "run": run, "batch_us": batch_us, "qps": 1e6 / batch_us}
    row |= {"params": {"knob": knob} | ({knob: effort} if knob else {}) | given}
    row |= {"time_us": dict.fromkeys(TIMES, batch_us + 10)}
    row |= {"ndcg@10": knn_recall, "map@10": knn_recall, "knn_recall@10": knn_recall}
    return row | {"mflops_per_query": batch_us / 100, "build_s": 1.0} | more


@pytest.fixture
def finished():
    sweep = [
        record("funnel", "exact", None, 900.0, 1.0),
        record("faiss-flat", "exact", None, 600.0, 1.0),
        record("hnswlib", "full", 50, 100.0, 0.97),
        record("hnswlib", "full", 200, 300.0, 0.995),
        record("funnel", "rerank", 50, 40.0, 0.985),
        record("funnel", "rerank", 200, 80.0, 1.0),
        record("funnel", "funnel", 50, 50.0, 0.985),
        record("funnel", "funnel", 200, 90.0, 0.999),
    ]
    chosen = [row for row in sweep if stored.effort(row) in (None, 200)]
    machine = {
        "cpu": "some CPU", "vector_extensions": ["avx2"], "cores": 2,
        "memory_bytes": 8e9, "system": "Linux 6.1", "threads": 1, "build_threads": 2,
        "load_average": 0.1, "left_out": {"other": "No module named 'other'"},
    }  # fmt: skip
    results = {"dataset": "made", "machine": machine, "versions": {"numpy": "2.0"}}
    return results | {"commit": "abc", "rows": chosen, "sweep": sweep}


@pytest.fixture
def dims():
    names = ("ndcg@10", "map@10", "recall@10", "knn_recall@10")
    return [
        {"dim": dim, "mflops_per_query": dim / 10} | dict.fromkeys(names, quality)
        for dim, quality in ((16, 0.5), (64, 1.0))
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run of two peers on 400 rows with qrels, written to a folder."""
    rng = np.random.default_rng(0)
    corpus = np.float32(rng.standard_normal((20, 32)).repeat(20, axis=0))
    corpus += 0.3 * np.float32(rng.standard_normal(corpus.shape))
    picked = rng.choice(400, 12, replace=False)
    queries = corpus[picked] + 0.1 * np.float32(rng.standard_normal((12, 32)))
    data = SimpleNamespace(
        name="tiny", corpus=corpus, queries=queries, dims=(8, 16, 32), labels=None,
        doc_ids=[f"d{i}" for i in range(400)], query_ids=[f"q{i}" for i in range(12)],
        qrels={f"q{i}": {f"d{row}": 1} for i, row in enumerate(picked)},
    )  # fmt: skip
    systems, missing = available(["faiss-flat", "faiss-hnsw-sq8"])
    assert not missing
    plan = Plan(
        k=10, shortlist=30, sweep=(10, 60), rounds=2, threads=1, build_threads=1
    )
    folder, workload = tmp_path_factory.mktemp("tiny"), make_workload(data, None)
    builder = Builder(workload, folder / "cache", BuildSettings(1, workload.dims))
    with Steps() as steps:
        experiment = Experiment(workload, systems, plan, steps, builder.build)
        results = experiment.run(folder / "cache")
    command.write(folder, results, experiment.dims(), experiment)
    return folder


def test_results_json__has_the_documented_keys(tiny):
    results = json.loads((tiny / "results.json").read_text())
    assert set(results) == TOP
    for row in (*results["rows"], *results["sweep"]):
        assert set(row) == set(FIELDS)
        assert set(row["time_us"]) == set(TIMES)
        assert row["time_us"]["p50"] <= row["time_us"]["p99"]
        assert row["qps"] == pytest.approx(1e6 / row["batch_us"], rel=1e-4)
        assert 0 <= row["knn_recall@10"] <= 1
        assert row["disk_bytes"] > 400 * 32


def test_rows__hold_one_entry_a_system_and_run(tiny):
    rows = stored.read_json(tiny / "results.json")["rows"]
    assert [(row["system"], row["run"]) for row in rows] == [
        ("faiss-flat", "exact"),
        ("faiss-hnsw-sq8", "rerank"),
    ]
    assert rows[0]["knn_recall@10"] == 1
    assert rows[0]["mflops_per_query"] == pytest.approx(400 * 32 / 1e6)
    assert stored.effort(rows[1]) == 30


def test_a_second_run__finds_the_kept_indexes(tiny):
    records = list((tiny / "cache").rglob("build.json"))
    assert len(records) == 2
    for path in records:
        kept = json.loads(path.read_text())
        assert kept["build_s"] > 0
        assert kept["stamp"]["settings"]["threads"] == 1


def test_files__hold_the_same_as_the_json(tiny):
    sweep = stored.read_json(tiny / "results.json")["sweep"]
    with (tiny / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(x["knn_recall@10"]) for x in lines] == [
        x["knn_recall@10"] for x in sweep
    ]
    trec = (tiny / "runs" / "faiss-flat-exact.trec").read_text().splitlines()
    assert len(trec) == 12 * 10
    query, q0, doc, rank, score, tag = trec[0].split()
    assert (query, q0, rank, tag) == ("q0", "Q0", "1", "faiss-flat-exact")
    assert doc.startswith("d")
    assert float(score) > float(trec[1].split()[4])
    names = {path.name for path in tiny.glob("*.png")}
    assert names == {"time_knn_recall.png", "time_ndcg.png", "work_map.png"}
    report = (tiny / "report.md").read_text()
    assert all(f"({name})" in report for name in names)


def test_report_from_stored_json__is_the_same(finished, dims, tmp_path):
    stored.write_json(finished, tmp_path / "results.json")
    again = stored.read_json(tmp_path / "results.json")
    assert markdown(again, dims) == markdown(finished, dims)
    assert "Left out: other" in markdown(again, dims)


def test_fastest__takes_only_points_that_reach_the_target(finished):
    curve = stored.curves(finished["sweep"])["hnswlib"]
    assert stored.effort(fastest(curve, 0.95, BATCH, 10)) == 50
    assert stored.effort(fastest(curve, 0.98, BATCH, 10)) == 200
    assert fastest(curve, 0.999, BATCH, 10) is None


def test_speedups__compare_the_same_clock_at_the_same_target(finished):
    found = speedups(finished, BATCH, 0.98, "funnel")
    assert set(found) == {"best scan", "hnswlib", "rerank"}
    assert found["hnswlib"].times == pytest.approx(300 / 50)
    assert found["best scan"].times == pytest.approx(600 / 50)
    assert found["rerank"].times == pytest.approx(40 / 50)
    single = speedups(finished, SINGLE, 0.98, "funnel")
    assert single["hnswlib"].times == pytest.approx(310 / 60)
    assert speedups(finished, BATCH, 0.98, "funnel_pca") == {}


def test_sentences__say_the_clock_and_both_recalls(finished):
    said = list(sentences(finished))
    assert said[0].startswith("One batch, 1 thread: funnel (50.0 µs")
    assert "6.00× as fast as hnswlib (300 µs, knn_recall@10 .995" in said[0]
    assert said[1].startswith("Single calls (p50), 1 thread: funnel")


def test_speedup_table__shows_where_a_cascade_does_not_pay(finished):
    table = speedup_table(finished)
    own = {(row[0], row[2]): row[-1] for row in table.rows if row[1] == "one batch"}
    assert own["funnel", "0.98"] == "0.800×"


def test_draw__leaves_out_what_was_not_judged(finished, dims, tmp_path):
    for row in finished["sweep"]:
        row["ndcg@10"] = row["map@10"] = None
    for row in dims:
        row["map@10"] = None
    drawn = draw(finished, dims, tmp_path)
    assert [path.name for path in drawn] == ["time_knn_recall.png"]


class Counting:
    """A system whose answers get better with effort; counts its calls."""

    key = name = "counting"

    def __init__(self):
        self.calls = []

    def prepare(self, run, k, effort):
        def search(queries):
            self.calls.append((effort, len(queries)))
            return np.full((len(queries), k), effort)

        return search


def test_answer_points__end_a_curve_once_it_is_good_enough():
    points = [Point(Counting(), "run", "ef", e, e == 80) for e in (10, 20, 40, 80, 160)]
    quality = {10: 0.9, 20: 0.9995, 40: 1.0, 80: 1.0, 160: 1.0}
    answers = answer_points(points, np.zeros((3, 2)), 1, lambda r: quality[r[0, 0]])
    assert [(p.effort, found) for p, _, found in answers] == [
        (10, 0.9), (20, 0.9995), (80, 1.0),
    ]  # fmt: skip


def test_answer_points__end_a_curve_that_gains_no_more():
    points = [Point(Counting(), "run", "ef", e, e == 8) for e in range(1, 9)]
    answers = answer_points(points, np.zeros((2, 2)), 1, lambda r: 0.7)
    assert [point.effort for point, *_ in answers] == [1, 2, 3, 4, 8]


def test_time_round__calls_every_point_in_batch_and_one_by_one():
    points = [Point(Counting(), "run", "ef", effort) for effort in (1, 2)]
    timings = {point: Timing() for point in points}
    for _ in range(2):
        assert set(time_round(points, np.zeros((5, 3)), 1, timings)) == set(points)
    for point, timing in timings.items():
        assert len(timing.batch_us) == len(timing.single_us) == 2
        assert all(us.shape == (5,) for us in timing.single_us)
        assert {effort for effort, _ in point.system.calls} == {point.effort}


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0123, "0.0123"), (99.96, "100"), (1234.5, "1,234"), (0, "0.00")],
)
def test_number__keeps_three_digits(value, text):
    assert number(value) == text


def test_share_and_size__are_short():
    assert [share(x) for x in (None, 0.5, 0.9996, 1)] == ["–", ".500", "1.000", "1.000"]
    assert [size(x) for x in (None, 12, 4.5e6, 2e9)] == [
        "–",
        "12.0 B",
        "4.50 MB",
        "2.00 GB",
    ]


def test_registry__names_files_that_exist():
    for entry in REGISTRY:
        assert (command.ROOT / "benchmarks/systems" / f"{entry.module}.py").exists()


@pytest.mark.parametrize(
    "words",
    [["--shortlist", "5"], ["--systems", "nosuch"], ["--sweep", "a,b"], ["--k", "0"]],
)
def test_command_line__refuses_what_cannot_be_run(words, capsys):
    with pytest.raises(SystemExit):
        command.main(words)
    assert words[0].strip("-") in capsys.readouterr().err


def test_help__explains_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0
    unbroken = "".join(said.split())  # long names are broken at their hyphens
    assert all(name in unbroken for name in (*NAMES, "examples:", "results.json"))
