"""What a process of `benchmarks.peers` does: describe, build or measure one peer.

``python -m benchmarks.peer_worker VERB TASK OUT`` reads a task from a JSON file and
writes what it found to another. A peer that crashes or hangs takes only its own process
with it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.builds import Builder
from benchmarks.measure import (
    GOOD_ENOUGH,
    WARM_QUERIES,
    Point,
    Timing,
    has_ended,
    quiet,
    time_batch,
    time_point,
    time_singles,
)
from benchmarks.metrics import knn_recall
from benchmarks.systems import BuildSettings, Search, System, family, make
from benchmarks.truth import Truth, Workload, load_or_find, make_workload

OUR_RUNS = {
    "funnel-pca": ("funnel_pca",),
    "funnel-f16": ("funnel_pca_f16",),
    "funnel-prefix": ("funnel",),
}
MOST_TIMES = 4  # that a round times a point of the side that has fewer of them
SINGLES_S = 0.06  # of single calls a point and round
REPEATED_US = 2e6
SLOWEST_US = 5_000.0  # a point beyond is skipped, and its curve ends
DOMINATED = 0.6  # a point is left out if another is as exact in less of its time
LEAST_RECALL = 0.7
REST_S = 0.005  # threads of the other side may still spin
PROVEN_QUERIES = 1000


@dataclass
class Measured:
    """One point: its side, what it answered, and what the rounds gave."""

    side: str
    point: Point
    recall: float
    first_us: float
    timing: Timing = field(default_factory=Timing)

    def record(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        timing, point = self.timing, self.point
        p50 = [float(np.median(us)) for us in timing.single_us]
        return {
            "side": self.side,
            "system": point.system.key,
            "run": point.run,
            "knob": point.knob,
            "effort": point.effort,
            "knn_recall": self.recall,
            "batch_us": [round(us, 3) for us in timing.batch_us],
            "single_p50_us": [round(us, 3) for us in p50],
        }


def describe(task: dict[str, Any]) -> dict[str, Any]:
    """Import an adapter; say its parameters and runs, or why there is none."""
    try:
        system = make(task["key"])
    except ImportError as error:
        return {"status": "missing", "message": str(error)}
    return {"params": system.params, "runs": [run._asdict() for run in system.runs]}


def load(task: dict[str, Any]) -> Workload:
    """Load the data that the task names."""
    from benchmarks import datasets

    given = dict(task["data"])
    spec, cache, dims = given.pop("spec"), Path(given.pop("cache")), given.pop("dims")
    data = datasets.load(spec, cache=cache, progress=False, **given)
    return make_workload(data, tuple(dims) if dims else None)


def build(task: dict[str, Any]) -> dict[str, Any]:
    """Build one index, or find it."""
    workload = load(task)
    settings = BuildSettings(task["build_threads"], workload.dims)
    builder = Builder(
        workload,
        Path(task["data"]["cache"]) / "cache",
        settings,
        rebuild=task["rebuild"],
        any_source=task["any_source"],
    )
    return builder.find_or_build(make(task["key"])).record()


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Sweep the peer and ours, side by side."""
    workload, k = load(task), task["k"]
    cache = Path(task["data"]["cache"]) / "cache"
    truth = load_or_find(workload, k, cache, lambda rows: None)
    peer = make(task["key"])
    peer.open(Path(task["path"]), task["peer_threads"])
    ours = []
    for key, path in task["ours"].items():
        ours.append(make(key))
        ours[-1].open(Path(path), task["threads"])
    sweep = [effort for effort in task["sweep"] if effort <= workload.shape[0]]
    with quiet(task["threads"]):
        judge = _Judge(workload, truth, k)
        peers = judge.sweep("peer", _points([peer], sweep, k, task["peer_runs"]))
        known = task.get("known")
        if known:
            own = [_known(one, ours) for one in known]
        else:
            own = judge.sweep("ours", _points(ours, sweep, k, OUR_RUNS))
        cores = {side[0].side: judge.cores_used(side) for side in (peers, own) if side}
        rounds = judge.rounds(peers, own, task["rounds"], task["seconds"])
    points = [one.record() for one in (*peers, *own)]
    return {"points": points, "rounds": rounds, "cores_used": cores}


def _known(one: dict[str, Any], systems: Iterable[System]) -> Measured:
    """Return a point of ours whose answers an earlier process has judged."""
    system = next(system for system in systems if system.key == one["system"])
    point = Point(system, one["run"], one["knob"], one["effort"])
    return Measured("ours", point, one["knn_recall"], 0.0)


def _points(
    systems: Iterable[System],
    sweep: list[int],
    k: int,
    runs: dict[str, tuple[str, ...]] | None,
) -> list[Point]:
    """List the points of all runs, or of those named; each curve by effort."""
    return [
        Point(system, run.name, run.knob, effort)
        for system in systems
        for run in system.runs
        if not runs or family(run.name) in runs[system.key]
        for effort in run.efforts(sweep, k)
    ]


class _Judge:
    """Answers points once, then times them in rounds."""

    def __init__(self, workload: Workload, truth: Truth, k: int) -> None:
        self.workload, self.truth, self.k = workload, truth, k
        self.queries = workload.queries

    def sweep(self, side: str, points: list[Point]) -> list[Measured]:
        """Answer each curve until it ends; return the points that are worth timing."""
        return worth_timing(list(self._answered(side, points)))

    def _answered(self, side: str, points: list[Point]) -> Iterator[Measured]:
        curves: dict[tuple[str, str], list[float]] = {}
        for point in points:
            curve = curves.setdefault((point.system.key, point.run), [])
            if _has_ended(curve, point):
                continue
            search = point.search(self.k)
            search(self.queries[:WARM_QUERIES])
            few_us = _once_us(search, self.queries[:WARM_QUERIES])
            if few_us > SLOWEST_US and point.knob:
                curve.append(1.0)  # ends it
                continue
            rows, first_us = _answer(search, self.queries)
            curve.append(knn_recall(self.workload, self.truth, rows))
            yield Measured(side, point, curve[-1], first_us)

    def rounds(
        self,
        peers: list[Measured],
        ours: list[Measured],
        rounds: int,
        seconds: float,
    ) -> int:
        """Time pairs of a peer's point and one of ours; return the rounds done."""
        start, done = time.monotonic(), 0
        couples = pairs(peers, ours)
        while done < rounds and (done == 0 or _fits(start, done, seconds)):
            order = np.random.default_rng(done).permutation(len(couples))
            timed: Counter[int] = Counter()
            for at in order:
                couple = couples[at][:: -1 if (at + done) % 2 else 1]
                for one in couple:
                    timed[id(one)] += 1
                    if timed[id(one)] > MOST_TIMES:
                        continue
                    search = one.point.search(self.k)
                    time.sleep(REST_S)
                    time_point(search, self.queries, one.timing, SINGLES_S, done)
            done += 1
        return done

    def cores_used(self, side: list[Measured]) -> dict[str, float]:
        """Return processor time over time of the most exact point: how many cores."""
        point = max(side, key=lambda one: (one.recall, -one.first_us)).point
        search, queries = point.search(self.k), self.queries[:PROVEN_QUERIES]
        found = {}
        for name, clock in (("batch", time_batch), ("single", time_singles)):
            start, cpu = time.perf_counter(), time.process_time()
            clock(search, queries)
            used = time.process_time() - cpu
            found[name] = round(used / (time.perf_counter() - start), 2)
        return found


def _has_ended(curve: list[float], point: Point) -> bool:
    """Tell whether more effort is of no use.

    A knob with a sweep of its own may do nothing at first (epsilon): its curve ends
    only once it is good enough.
    """
    run = next(run for run in point.system.runs if run.name == point.run)
    if run.sweep:
        return max(curve, default=0) >= GOOD_ENOUGH
    return has_ended(curve)


def _answer(search: Search, queries: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the answers, and the time of a query: the shorter of two if it is short.

    A busy machine makes a point look slow, but never fast.
    """
    start = time.perf_counter()
    rows = np.asarray(search(queries)).astype(np.int64)
    first_us = (time.perf_counter() - start) * 1e6 / len(queries)
    if first_us * len(queries) < REPEATED_US:
        first_us = min(first_us, _once_us(search, queries))
    return rows, first_us


def _once_us(search: Search, queries: np.ndarray) -> float:
    start = time.perf_counter()
    search(queries)
    return (time.perf_counter() - start) * 1e6 / len(queries)


def _fits(start: float, done: int, seconds: float) -> bool:
    """Tell whether another round ends in time."""
    spent = time.monotonic() - start
    return spent + spent / done <= seconds


def worth_timing(points: list[Measured]) -> list[Measured]:
    """Leave out what cannot be on the front, nor next to a target.

    That is a point when another of its system is as exact in 0.6 of the time,
    and those below 0.7 but for the best of them.
    """

    def beaten(one: Measured) -> bool:
        return any(
            other.point.system is one.point.system
            and other.recall >= one.recall
            and other.first_us < DOMINATED * one.first_us
            for other in points
        )

    kept = [one for one in points if not beaten(one)]
    low = [one for one in kept if one.recall < LEAST_RECALL]
    best_low: dict[int, Measured] = {}
    for one in low:
        system = id(one.point.system)
        if system not in best_low or one.recall > best_low[system].recall:
            best_low[system] = one
    shown = [id(one) for one in best_low.values()]
    return [one for one in kept if one.recall >= LEAST_RECALL or id(one) in shown]


def pairs(peers: list[Measured], ours: list[Measured]) -> list[tuple[Measured, ...]]:
    """Put each point beside one of the other side that is about as exact.

    Every point is in one pair at least; those of the shorter side are in several.
    """
    left, right = (sorted(side, key=lambda one: one.recall) for side in (peers, ours))
    count = max(len(left), len(right))
    return [
        tuple(side[at * len(side) // count] for side in (left, right) if side)
        for at in range(count)
    ]


VERBS = {"describe": describe, "build": build, "measure": measure}


def main(verb: str, task: str, out: str) -> None:
    """Do what the parent asked."""
    found = VERBS[verb](json.loads(Path(task).read_text()))
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
