"""Growth and roofline: fits, resuming, floors, and tiny runs end to end."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import cost_sections, growth, growth_worker, memory_speed, roofline
from benchmarks.children import ChildError
from benchmarks.growth_report import along, at_target, between, fit, fits
from benchmarks.roofline import Rates, Shape, rerank_floor_us, walk_floor_us

MB = 1 << 20
SWEEP = "10,40,200"
SHAPE = Shape(
    rows=1000, row_bytes=512, nodes=1000, code_bytes=64, degree=32, entries=100
)


def swept(*points):
    """Points of a curve: recall, µs, rows scored."""
    return [
        {"shortlist": 10 * at, "knn_recall": recall, "us": us, "rows_scored": rows}
        for at, (recall, us, rows) in enumerate(points, start=1)
    ]


def record(n, dim, build_s, us):
    curve = swept((0.9, us / 2, 10.0), (0.95, us, 20.0), (0.999, 3 * us, 60.0))
    return {"rows": n, "full_dim": dim, "build_s": build_s, "sweep": curve}


# ---- fits


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0, 1.3])
def test_fit__finds_the_exponent_of_a_power_law(exponent):
    found = fit((x, 7 * x**exponent) for x in (1e3, 1e4, 1e6))
    assert found.exponent == pytest.approx(exponent, abs=1e-9)
    assert found.factor == pytest.approx(7)
    assert found.points == 3


def test_fit__is_by_least_squares_of_logarithms():
    points = [(1, 1.0), (10, 20.0), (100, 100.0)]
    assert fit(points).exponent == pytest.approx(1.0)
    assert fit(points).factor == pytest.approx(2 ** (1 / 3))


def test_fit__needs_two_places():
    assert fit([]) is None
    assert fit([(10, 3.0), (10, 4.0)]) is None
    assert fit([(10, 3.0), (20, None)]) is None
    assert fit([(10, 3.0), (20, None), (40, 6.0)]).points == 2


def test_fits__take_each_axis_at_the_other_fixed():
    records = [record(n, 64, n / 100, n**0.25) for n in (100, 1000, 10_000)]
    records += [record(1000, dim, dim / 6.4, 3.0) for dim in (128, 256)]
    assert [one["rows"] for one in along(records, "rows", 64)] == [100, 1000, 10_000]
    assert [one["full_dim"] for one in along(records, "full_dim", 1000)] == [
        64, 128, 256,
    ]  # fmt: skip
    found = fits(records, 64, 1000)
    assert found["build, s"]["rows"]["exponent"] == pytest.approx(1)
    assert found["build, s"]["full_dim"]["exponent"] == pytest.approx(1)
    assert found["µs a query at 0.95"]["rows"]["exponent"] == pytest.approx(0.25)
    assert found["rows scored at 0.95"]["rows"]["exponent"] == pytest.approx(0)


def test_between__reads_a_target_between_two_points():
    curve = {"sweep": swept((0.9, 10.0, 100.0), (0.96, 1000.0, 400.0))}
    assert at_target(curve, 0.93)["us"] == 1000.0
    assert between(curve, 0.93, "us") == pytest.approx(100.0)
    assert between(curve, 0.93, "rows_scored") == pytest.approx(200.0)
    assert between(curve, 0.99, "us") is None
    assert at_target(curve, 0.99) is None


# ---- resuming


@pytest.fixture
def workers(monkeypatch):
    """Made-up processes: every call is noted, and fails if it is told to."""
    calls, broken = [], set()

    def work(verb, task, threads):
        calls.append(verb)
        if verb in broken:
            raise ChildError("failed", "MemoryError")
        found = {"path": task.get("path", ""), "sweep": swept((1.0, 5.0, 50.0))}
        return found | {"build_s": 1.0}

    monkeypatch.setattr(growth, "run_worker", work)
    weighed = SimpleNamespace(anon_bytes=5)
    monkeypatch.setattr(growth, "run_probe", lambda task, queries: weighed)
    return SimpleNamespace(calls=calls, broken=broken)


PLAN = growth.Plan(20, 10, (10, 40), 1, threads=1, build_threads=1)
HOW = {"graph_dim": None, "builder": "auto"}


def test_point__is_measured_once(workers, tmp_path):
    first = growth.Growth(PLAN, tmp_path, tmp_path / "out").point(600, 64)
    again = growth.Growth(PLAN, tmp_path, tmp_path / "out").point(600, 64)
    assert workers.calls == ["point"]
    assert again == json.loads(json.dumps(first))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["600x64.json"]


def test_point__is_measured_again_when_asked_otherwise(workers, tmp_path):
    growth.Growth(PLAN, tmp_path, tmp_path).point(600, 64)
    growth.Growth(PLAN._replace(rounds=2), tmp_path, tmp_path).point(600, 64)
    growth.Growth(PLAN._replace(rounds=2, rebuild=True), tmp_path, tmp_path).point(
        600, 64
    )
    assert workers.calls == ["point"] * 3


def test_point__that_failed_is_tried_again(workers, tmp_path):
    workers.broken.add("point")
    run = growth.Growth(PLAN, tmp_path, tmp_path)
    found = run.point(600, 64)
    assert (found["status"], found["message"]) == ("failed", "MemoryError")
    workers.broken.clear()
    assert run.point(600, 64)["status"] == "measured"


def test_large__goes_on_after_its_build(workers, tmp_path):
    workers.broken.add("search")
    run = growth.Growth(PLAN, tmp_path, tmp_path / "out")
    assert run.large(600, 64, None, HOW)["status"] == "failed"
    (tmp_path / "cache" / "streamed-600x64").mkdir(parents=True)
    workers.broken.clear()
    found = run.large(600, 64, None, HOW)
    assert found["status"] == "measured"
    assert found["limit_bytes"] * 2 == found["vector_bytes"] == 600 * 64 * 2
    assert workers.calls == ["stream", "search", "search"]


# ---- tiny runs


def here(verb, task, threads):
    """Work in this process, as JSON would bring and take it."""
    found = growth_worker.VERBS[verb](json.loads(json.dumps(task)))
    return json.loads(json.dumps(found))


def test_growth__measures_fits_and_draws(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(growth, "run_worker", here)
    weighed = SimpleNamespace(anon_bytes=5)
    monkeypatch.setattr(growth, "run_probe", lambda task, queries: weighed)
    cache, out = tmp_path / "cache", tmp_path / "out"
    sizes = ["--rows", "600,1200", "--dim", "64", "--n", "600", "--dims", "64"]
    given = ["--queries", "20", "--sweep", SWEEP, "--rounds", "1"]
    growth.main([*sizes, *given, "--cache", str(cache), "--out", str(out)])
    assert sorted(path.name for path in out.iterdir()) == [
        "1200x64.json", "600x64.json", "fits.json", "growth.png",
    ]  # fmt: skip
    walked = json.loads((out / "1200x64.json").read_text())
    assert walked["sweep"][-1]["knn_recall"] >= 0.95
    assert 0 < walked["sweep"][0]["rows_scored"] < 1200
    assert walked["build_s"] > 0
    found = json.loads((out / "fits.json").read_text())["fits"]
    assert found["build, s"]["rows"]["points"] == 2
    assert found["build, s"]["full_dim"] is None  # one place is no growth
    printed = capsys.readouterr().out
    assert "1,200 × 64" in printed
    assert "exponents" in printed
    said = cost_sections.growth_section(out, tmp_path)
    assert "| 1,200 × 64 |" in said
    assert (tmp_path / "growth.png").exists()
    assert cost_sections.growth_section(tmp_path / "none", tmp_path) == ""


def test_large__builds_in_a_limited_process_and_searches(monkeypatch, tmp_path, capsys):
    """The build runs in a child, whose memory is limited; the search in this one."""
    real = growth.run_worker
    before = {"anon_bytes_before": 0, "refuses_the_vectors": True}
    monkeypatch.setattr(growth_worker, "limit_memory", lambda task: before)
    monkeypatch.setattr(
        growth,
        "run_worker",
        lambda verb, *given: (real if verb == "stream" else here)(verb, *given),
    )
    given = ["--rows", "1100", "--dim", "64", "--limit-mb", "2000", "--queries", "20"]
    given += ["--sweep", SWEEP, "--rounds", "1", "--graph-dim", "64"]
    given += ["--cache", str(tmp_path), "--out", str(tmp_path / "out")]
    growth.main(["--larger-than-memory", *given])
    found = json.loads((tmp_path / "out" / "streamed-1100x64.json").read_text())
    assert found["build"]["refuses_the_vectors"] is False  # 2 GB hold 140 kB
    assert found["build"]["params"]["graph_dim"] == 64
    assert found["search"]["sweep"][-1]["knn_recall"] >= 0.95
    assert "1,100 × 64 float16, streamed" in capsys.readouterr().out


def test_limit_memory__refuses_less_than_python_takes():
    with pytest.raises(SystemExit, match="below the"):
        growth_worker.limit_memory({"limit_bytes": MB, "vector_bytes": MB})


def test_generated__are_the_rows_of_the_synthetic_set(tmp_path):
    task = {"n": 5000, "dim": 32, "queries": 3, "dtype": "float16"}
    blocks = growth_worker.generated(task, tmp_path / "queries.npy")
    rows = np.concatenate(list(blocks))
    expected = growth_worker.Generator(5000, 32).rows(0, 5000)
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows, expected.astype(np.float16))
    assert np.load(tmp_path / "queries.npy").shape == (3, 32)


# ---- roofline


def test_floor__counts_codes_beyond_the_entries_and_links():
    rates = Rates(code_ns=2.0, links_ns=5.0, row_gb_s=10.0)
    assert walk_floor_us(600, 20, SHAPE, rates) == pytest.approx(1.1)
    assert walk_floor_us(50, 0, SHAPE, rates) == 0
    assert rerank_floor_us(20_000, rates) == pytest.approx(2.0)
    assert SHAPE.walked_bytes == 1000 * (64 + 128)


def test_chain__visits_every_line_once():
    words = memory_speed.allocate(MB // 4)
    assert memory_speed.chain_ns(words, steps=100) > 0
    nexts = words.reshape(-1, memory_speed.WORDS)[:, 0]
    at, seen = 0, set()
    for _ in range(len(nexts)):
        at = int(nexts[at])
        seen.add(at)
    assert len(seen) == len(nexts)


def test_records__are_all_read():
    words = memory_speed.allocate(MB // 16)
    records = words.reshape(-1, 16)
    order = np.arange(len(records), dtype=np.uint32)
    expected = int(records[:, ::8].sum())
    for ahead in (0, 3):
        assert int(memory_speed.read_records(records, order, ahead)) == expected
    assert int(memory_speed.read_in_order(words)) == int(words.sum())


def test_memory__is_measured_at_every_size():
    found = memory_speed.measure(MB, 512)
    names = ("in_order_gb_s", "code_scan_gb_s", "random_rows_gb_s")
    assert all(found[name] > 0 for name in names)
    assert [one["name"] for one in found["working_sets"]] == [
        "half of L2", "half of L3", "memory",
    ]  # fmt: skip
    for one in found["working_sets"]:
        assert one["independent_ns"] > 0
        assert one["chain_ns"] > 0


def test_roofline__writes_and_shows(tmp_path, capsys):
    out = tmp_path / "roofline.json"
    given = ["--n", "1200", "--dim", "64", "--queries", "20", "--efforts", "14,40"]
    given += ["--memory-mb", "1", "--rounds", "1", "--cache", str(tmp_path)]
    roofline.main([*given, "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["index"]["rows"] == 1200
    assert [one["effort"] for one in found["efforts"]] == [14, 40]
    for one in found["efforts"]:
        assert one["walk"]["rows"] >= one["effort"]
        assert one["rerank"]["rows"] >= found["k"]
        assert one["times"] == pytest.approx(one["us"] / one["floor_us"], rel=1e-4)
    printed = capsys.readouterr().out
    assert "random rows of 256 B" in printed
    assert "1,200 rows" in printed
    said = cost_sections.floor_section(out)
    assert "random rows of 256 B" in said
    assert "## Beside the memory floor" in said
    assert cost_sections.floor_section(tmp_path / "none") == ""


def test_roofline__needs_a_graph(tmp_path, capsys):
    given = ["--n", "600", "--dim", "64", "--queries", "5", "--cache", str(tmp_path)]
    with pytest.raises(SystemExit):
        roofline.main([*given, "--out", str(tmp_path / "out.json")])
    assert "scanned, not walked" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        roofline.main(["--efforts", "5"])
