"""Peers beside `funnel`: adapters, arithmetic, resuming, and the page of results."""

from __future__ import annotations

import json
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import near_rows, turned_rows

from benchmarks import builds, peer_worker, peers, results_page
from benchmarks.children import ChildError, run_child
from benchmarks.measure import Point
from benchmarks.pareto import front, qps_at
from benchmarks.peer_report import tables
from benchmarks.peer_results import Files, duel, near_front, read_folder
from benchmarks.peer_worker import Measured, pairs, worth_timing
from benchmarks.peers import PeerPlan, PeerRun
from benchmarks.probe import Startup
from benchmarks.systems import PEERS, BuildSettings, Run, available, family, grid, make
from benchmarks.systems.diy import enough_axes, principal_axes
from benchmarks.truth import make_workload, normalise
from benchmarks.verdicts import ahead, behind, best_peers, verdicts

N, DIM, K = 1200, 64, 10
SLOW = ("pynndescent", "pynndescent-int8")  # they compile for half a minute


@pytest.fixture(scope="module")
def corpus():
    return normalise(turned_rows(N, DIM, seed=1))


@pytest.fixture(scope="module")
def queries(corpus):
    return np.ascontiguousarray(normalise(near_rows(corpus, 20, seed=2)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", [one for one in PEERS if one not in SLOW])
def test_adapter__finds_neighbours_at_high_effort(key, corpus, queries, tmp_path):
    try:
        system = make(key)
    except ImportError as error:
        pytest.skip(str(error))
    system.build(corpus, tmp_path, BuildSettings(1, (16, 64)))
    system.open(tmp_path, 2)
    exact = np.argsort(-(queries @ corpus.T), axis=1)[:, :K]
    best = 0.0
    for run in system.runs:
        search = system.prepare(run.name, K, run.efforts([400], K)[-1] or K)
        rows = np.asarray(search(queries))
        assert rows.shape == (len(queries), K)
        assert np.asarray(search(queries[:1])).shape == (1, K)
        best = max(best, np.mean((rows[:, :, None] == exact[:, None]).any(axis=2)))
    assert best >= 0.95


def test_diy__takes_as_many_axes_as_the_corpus_needs():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((160, 160)))[0]
    low = normalise(rng.standard_normal((900, 30)) @ basis[:30])
    high = normalise(rng.standard_normal((900, 160)) @ basis)
    taken = [enough_axes(rows, principal_axes(rows), seed=0) for rows in (low, high)]
    assert taken[0] == 64
    assert taken[1] > 64


def test_grid__leaves_one_run_to_the_plain_command():
    runs = grid("b", [Run("a", "ef"), Run("b", "ef")])
    assert [(run.name, run.extra) for run in runs] == [("a", True), ("b", False)]


def test_run__sweeps_its_own_efforts_before_the_planned():
    assert Run("a").efforts([10, 20], 10) == [None]
    assert Run("a", "ef", 2).efforts([40, 10, 20], 10) == [20, 40]
    assert Run("a", "nprobe", sweep=(1, 2)).efforts([40], 10) == [1, 2]
    assert Run("a", "nprobe", sweep=(1, 8)).near(200) == 8


def test_front__keeps_what_no_other_point_beats():
    cloud = [(0.9, 100.0), (0.9, 90.0), (0.95, 120.0), (0.99, 50.0), (0.97, 40.0)]
    assert front(cloud) == [(0.95, 120.0), (0.99, 50.0)]
    assert front([]) == []


def test_qps_at__is_log_linear_between_points_of_the_front():
    cloud = [(0.90, 1000.0), (0.94, 10.0), (0.92, 5.0)]
    assert qps_at(cloud, 0.92) == pytest.approx(100.0)
    assert qps_at(cloud, 0.94) == pytest.approx(10.0)
    assert qps_at(cloud, 0.90) == pytest.approx(1000.0)


def test_qps_at__does_not_extrapolate():
    cloud = [(0.95, 200.0), (0.98, 100.0)]
    assert qps_at(cloud, 0.90) == 200.0
    assert qps_at(cloud, 0.99) is None
    assert qps_at([], 0.9) is None
    assert qps_at([(1.0, 7.0)], 0.99) == 7.0  # a scan


def measured(system, recall, first_us):
    return Measured("peer", Point(system, "run", "ef", 10), recall, first_us)


def test_worth_timing__leaves_out_what_cannot_be_on_the_front():
    one, other = SimpleNamespace(key="a"), SimpleNamespace(key="b")
    low = [measured(one, recall, 1.0) for recall in (0.2, 0.6)]
    good, slow = measured(one, 0.95, 10.0), measured(one, 0.94, 50.0)
    foreign = measured(other, 0.94, 50.0)
    kept = worth_timing([*low, good, slow, foreign])
    assert kept == [low[1], good, foreign]


def test_pairs__hold_every_point_beside_one_that_is_about_as_exact():
    system = SimpleNamespace(key="a")
    left = [measured(system, recall, 1.0) for recall in (0.99, 0.9)]
    right = [measured(system, recall, 1.0) for recall in (0.91, 0.95, 0.98)]
    couples = pairs(left, right)
    assert [(a.recall, b.recall) for a, b in couples] == [
        (0.9, 0.91),
        (0.9, 0.95),
        (0.99, 0.98),
    ]
    assert [len(couple) for couple in pairs(left, [])] == [1, 1]


def test_child__that_raises_or_hangs_is_told_in_a_line():
    with pytest.raises(ChildError, match="KeyError") as raised:
        run_child("describe", {}, threads=1, seconds=60)
    assert raised.value.status == "failed"
    start = time.monotonic()
    with pytest.raises(ChildError, match="did not end within") as raised:
        run_child("build", {}, threads=1, seconds=0.05)
    assert raised.value.status == "timeout"
    assert time.monotonic() - start < 10


# A run of made-up children: what a peer answers is told, and every call is noted.


@pytest.fixture
def tiny_run(monkeypatch, tmp_path, corpus, queries):
    calls, broken = [], {}

    def child(verb, task, *, threads, seconds):
        key = task["key"]
        if verb != "describe":
            calls.append((verb, key, threads))
        if (verb, key) in broken:
            raise ChildError(*broken[verb, key])
        run = Run("full", "ef_search")._asdict() | {"sweep": []}
        return {
            "describe": {"params": {}, "runs": [run]},
            "build": {
                "path": str(tmp_path / "cache" / key / "index"),
                "params": {},
                "build_s": 2.0 if key.startswith("funnel") else 5.0,
                "disk_bytes": 10,
                "peak_bytes": None,
            },
            "measure": {
                "points": points(key),
                "rounds": 2,
                "cores_used": {},
            },
        }[verb]

    def startup(task, queries):
        mine = task.key.startswith("funnel")
        return Startup(first_hit_s=1.0, open_ms=2.0, anon_bytes=10 if mine else 1000)

    monkeypatch.setattr(peers, "run_child", child)
    monkeypatch.setattr(builds, "run_child", child)
    monkeypatch.setattr(peers, "run_probe", startup)
    ids = [str(i) for i in range(N)]
    data = SimpleNamespace(
        name="tiny", corpus=corpus, queries=queries, dims=(16, DIM), doc_ids=ids,
        query_ids=ids[:20], qrels=None, labels=None,
    )  # fmt: skip
    plan = PeerPlan(
        K, (10, 20), 2, (1, 2), build_threads=1, build_s=60.0, measure_s=60.0
    )

    def run(names, **changes):
        calls.clear()
        made = PeerRun(
            make_workload(data, None),
            {"cache": str(tmp_path)},
            plan._replace(**changes),
            tmp_path / "out" / "tiny",
            say=lambda line: None,
        )
        made.run(names)
        return list(calls)

    return SimpleNamespace(run=run, broken=broken, folder=tmp_path / "out" / "tiny")


def points(key):
    """Ours takes 10 µs at .9 and 40 at .99; hnswlib ten times as long, diy half."""
    slower = {"hnswlib": 10, "diy": 0.5, "funnel-pca": 1.9}.get(key, 3)
    made = []
    for side, times, run in (
        ("peer", slower, "funnel_pca" if key == "funnel-pca" else "full"),
        ("ours", 1, "funnel_pca"),
        ("ours", 1, "funnel"),
    ):
        for recall, us in ((0.9, 10.0), (0.99, 40.0)):
            made.append(
                {
                    "side": side, "system": key, "run": run, "knob": "ef", "effort": 10,
                    "knn_recall": recall, "batch_us": [us * times] * 2,
                    "single_p50_us": [us * times + 5] * 2,
                }
            )  # fmt: skip
    return made


NAMES = ("hnswlib", "diy", "scann")


def test_run__measures_each_peer_at_all_threads(tiny_run):
    calls = tiny_run.run(["hnswlib", "diy"])
    asked = [(verb, key, threads) for verb, key, threads in calls if verb == "measure"]
    assert asked == [
        ("measure", "funnel-pca", 2),
        ("measure", "hnswlib", 1),
        ("measure", "hnswlib", 2),
        ("measure", "diy", 1),
        ("measure", "diy", 2),
    ]
    assert sorted(path.name for path in tiny_run.folder.iterdir()) == [
        "diy-t1.json", "diy-t2.json", "funnel-pca-t2.json", "funnel.json",
        "hnswlib-t1.json", "hnswlib-t2.json",
    ]  # fmt: skip


def test_run__resumes_where_it_stopped(tiny_run):
    tiny_run.run(NAMES)
    (tiny_run.folder / "diy-t2.json").unlink()
    calls = tiny_run.run(NAMES)
    assert [call for call in calls if not call[1].startswith("funnel")] == [
        ("build", "diy", 1),
        ("measure", "diy", 2),
    ]


def test_run__measures_again_what_was_asked_otherwise(tiny_run):
    tiny_run.run(["hnswlib"])
    assert ("measure", "hnswlib", 1) not in tiny_run.run(["hnswlib"])
    assert ("measure", "hnswlib", 1) in tiny_run.run(["hnswlib"], rounds=3)
    assert ("measure", "hnswlib", 1) in tiny_run.run(
        ["hnswlib"], rebuild=True, rounds=3
    )


def test_run__goes_on_after_a_failure_and_tries_it_again(tiny_run):
    tiny_run.broken["build", "hnswlib"] = ("failed", "build: ended by SIGSEGV")
    calls = tiny_run.run(["hnswlib", "diy"])
    assert ("measure", "diy", 2) in calls
    assert ("measure", "hnswlib", 1) not in calls
    assert read_folder(tiny_run.folder).left_out() == {
        "hnswlib": "build: ended by SIGSEGV"
    }
    tiny_run.broken.clear()
    assert ("measure", "hnswlib", 1) in tiny_run.run(["hnswlib", "diy"])
    assert read_folder(tiny_run.folder).left_out() == {}


def test_run__tries_a_slow_build_again_only_with_more_time(tiny_run):
    tiny_run.broken["build", "diy"] = ("timeout", "build did not end within 1 minutes")
    tiny_run.run(["diy"])
    assert ("build", "diy", 1) not in tiny_run.run(["diy"])
    assert ("build", "diy", 1) in tiny_run.run(["diy"], build_s=120.0)


def test_run__does_not_fill_the_disk(tiny_run, monkeypatch):
    free = SimpleNamespace(free=10_000)
    monkeypatch.setattr(peers.shutil, "disk_usage", lambda path: free)
    calls = tiny_run.run(["diy"])
    assert ("build", "diy", 1) not in calls
    assert "GB needed" in read_folder(tiny_run.folder).left_out()["diy"]


def test_run__drops_a_peers_index_but_not_ours(tiny_run):
    cache = tiny_run.folder.parents[1] / "cache"
    for key in ("diy", "funnel-pca"):
        (cache / key / "index").mkdir(parents=True)
    tiny_run.run(["diy"], drop=True)
    assert [path.name for path in cache.iterdir()] == ["funnel-pca"]


def test_describe__says_what_is_not_installed():
    found = peer_worker.describe({"key": "ngt-qg"})
    assert found["status"] == "missing"
    assert found["message"]


def test_duel__compares_at_equal_recall_in_one_process(tiny_run):
    tiny_run.run(["hnswlib"])
    record = next(read_folder(tiny_run.folder).measured(1))
    found = duel(record, "batch", 0.99)
    assert found.our_qps == pytest.approx(25_000)
    assert found.ratio == pytest.approx(10)
    assert duel(record, "single", 0.90).ratio == pytest.approx(105 / 15)


def test_ahead__counts_a_recall_that_only_the_peer_reaches(tiny_run):
    tiny_run.run(["hnswlib"])
    files = read_folder(tiny_run.folder)
    assert ahead([files]) == []
    record = next(files.measured(1))
    record["points"] = [
        one
        for one in record["points"]
        if (one["side"], one["knn_recall"]) != ("ours", 0.99)
    ]
    lost = duel(record, "batch", 0.99)
    assert lost.ratio is None
    assert behind(lost)


def test_verdicts__say_what_holds(tiny_run):
    tiny_run.run(["hnswlib", "diy", "scann"])
    files = read_folder(tiny_run.folder)
    found = [(one.holds, one.worst) for one in verdicts([files])]
    assert [holds for holds, _ in found] == [True, False, False, True, False, True]
    assert "3.00×" in found[1][1]
    assert "2.50×" in found[4][1]
    assert "of each" not in found[1][1]
    there = [one | {"dataset": "there"} for one in files.peers]
    other = Files(files.ours | {"dataset": "there"}, there, files.data)
    assert "of each: there 3.00×, tiny 3.00×" in verdicts([files, other])[1].worst
    assert best_peers(files, 2) == ["diy", "scann"]


def test_page__begins_with_what_is_lost_and_why(tiny_run, tmp_path):
    tiny_run.broken["build", "scann"] = (
        "timeout",
        "build did not end within 1 minutes",
    )
    tiny_run.run(["hnswlib", "diy", "scann"])
    reasons = tmp_path / "reasons.toml"
    reasons.write_text('[tiny]\ndiy = "it was made up."\n')
    page = tmp_path / "page"
    folder = str(tiny_run.folder.parent)
    made = ["--roofline", str(tmp_path / "none"), "--growth", str(tmp_path / "none")]
    (page / "figures").mkdir(parents=True)
    (page / "RESULTS-then.md").write_text("as it was")
    made += ["--keep", str(tmp_path / "kept")]
    results_page.main([folder, "--out", str(page), "--reasons", str(reasons), *made])
    said = (page / "RESULTS.md").read_text()
    assert "[RESULTS-then.md](RESULTS-then.md)" in said
    first = said.split("**What was aimed at:**")[0]
    assert "`diy` on tiny" in first
    assert "Why: it was made up." in first
    assert "hnswlib" not in first
    assert "Left out: `scann` (build did not end within 1 minutes)." in said
    for name in ("tiny-batch.png", "tiny-single.png"):
        assert f"figures/{name}" in said
        assert (page / "figures" / name).stat().st_size > 10_000
    again = tmp_path / "again"  # what was kept makes the same page
    kept = [str(tmp_path / "kept"), "--out", str(again), "--reasons", str(reasons)]
    results_page.main([*kept, *made[:4]])
    assert (again / "RESULTS.md").read_text().split("\n")[:3] == said.split("\n")[:3]
    assert all(
        str(tmp_path) not in path.read_text()
        for path in (tmp_path / "kept").glob("*/*.json")
    )


def test_page__keeps_machines_apart(tiny_run):
    tiny_run.run(["hnswlib"])
    second = tiny_run.folder.with_name("tiny-second")
    shutil.copytree(tiny_run.folder, second)
    tiny_run.run(["diy"])
    sets = [read_folder(tiny_run.folder), read_folder(second)]
    assert [(one.dataset, one.data) for one in sets] == [
        ("tiny", "tiny"),
        ("tiny-second", "tiny"),
    ]
    assert {one["dataset"] for one in sets[1].peers} == {"tiny-second"}
    assert "diy" not in results_page.absent(sets[1], sets)
    assert "diy" in results_page.absent(sets[1], sets[1:])
    said = results_page.page(sets, [[], []], {})
    assert "## tiny\n" in said
    assert "## tiny-second\n" in said


def test_tables__name_the_peer_that_is_ahead_first(tiny_run):
    tiny_run.run(["hnswlib", "diy"])
    made = tables(read_folder(tiny_run.folder))
    assert [table.title for table in made] == [
        "tiny: one batch, 1 thread",
        "tiny: one batch, 2 threads",
        "tiny: single calls (p50), 1 thread",
        "tiny: single calls (p50), 2 threads",
        "tiny: building and keeping",
    ]
    assert [row[0] for row in made[0].rows] == ["diy", "hnswlib"]
    assert made[0].rows[0][3] == "0.500×"


def test_worker__builds_and_measures_side_by_side(tmp_path):
    rng_rows = turned_rows(700, 48, seed=3)
    np.save(tmp_path / "corpus.npy", rng_rows)
    np.save(tmp_path / "queries.npy", near_rows(rng_rows, 10, seed=4))
    data = {"spec": f"npy:{tmp_path / 'corpus.npy'}", "cache": str(tmp_path)}
    data |= {"n": None, "dim": None, "queries": 10, "dims": [48]}
    task = {"data": data, "build_threads": 1, "rebuild": False, "any_source": False}
    built = {
        key: peer_worker.build(task | {"key": key})
        for key in ("faiss-hnsw-sq8", "funnel-pca", "funnel-prefix")
    }
    assert built["faiss-hnsw-sq8"]["disk_bytes"] > 700 * 48 * 5
    paths = {key: one["path"] for key, one in built.items()}
    path = paths.pop("faiss-hnsw-sq8")
    given = {"key": "faiss-hnsw-sq8", "path": path, "ours": paths, "peer_runs": None}
    given |= {"data": data, "k": 10, "sweep": [10, 40], "rounds": 2, "seconds": 60.0}
    found = peer_worker.measure(given | {"threads": 1, "peer_threads": 1})
    json.dumps(found)
    assert found["rounds"] == 2
    # Which of a family's curves are worth timing hangs on the time that they took.
    runs = {(one["side"], family(one["run"])) for one in found["points"]}
    assert {("ours", "funnel_pca"), ("ours", "funnel")} <= runs
    assert any(side == "peer" for side, _ in runs)
    assert all(len(one["batch_us"]) >= 2 for one in found["points"])


def test_available__takes_the_peers_that_are_installed():
    systems, missing = available(PEERS)
    assert {system.name for system in systems} | set(missing) == set(PEERS)
    assert "ngt-qg" in missing


def test_near_front__leaves_out_what_another_of_its_system_beats_clearly():
    rows = [
        ("a", 0.9, 50),
        ("a", 0.9, 51),
        ("a", 0.9, 60),
        ("b", 0.9, 70),
        ("a", 1, 99),
    ]
    names = ("system", "knn_recall", "batch_us")
    records = [dict(zip(names, (s, r, [us] * 3), strict=True)) for s, r, us in rows]
    kept = [one["batch_us"][0] for one in near_front(records)]
    assert kept == [50, 51, 70, 99]
