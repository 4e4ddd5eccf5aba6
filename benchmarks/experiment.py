"""One benchmark from loaded data to results: each step once, in order, with progress.

Joins the other files; decides nothing about how to time, judge or show. Called by
`benchmarks.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine
from benchmarks.builds import Built
from benchmarks.measure import (
    Point,
    Timing,
    answer_points,
    call_overhead_us,
    quiet,
    time_round,
)
from benchmarks.metrics import Judge
from benchmarks.probe import Startup, Task, compile_seconds, run_probe
from benchmarks.progress import Steps
from benchmarks.results import Record
from benchmarks.systems import Run, System, main_run
from benchmarks.truth import Truth, Workload, load_or_find

COUNTED_QUERIES = 200
SCANNED_QUERIES = 4  # a scan reads the same for every query


class Plan(NamedTuple):
    """What is asked of every system."""

    k: int
    shortlist: int
    sweep: tuple[int, ...]
    rounds: int
    threads: int
    build_threads: int


@dataclass
class Answer:
    """What one point answered, judged."""

    rows: np.ndarray
    metrics: dict[str, float | None]


class Experiment:
    """Measures `systems` on `workload` as `plan` says.

    Parameters
    ----------
    workload : Workload
        The data.
    systems : list of System
        Unopened adapters.
    plan : Plan
        Efforts, rounds, threads.
    steps : Steps
        Shows progress.
    build : callable
        Builds a system's index, or finds it.
    """

    def __init__(
        self,
        workload: Workload,
        systems: list[System],
        plan: Plan,
        steps: Steps,
        build: Callable[[System], Built],
    ) -> None:
        self.workload, self.systems = workload, systems
        self.plan, self.steps, self.build = plan, steps, build
        self.answers: dict[Point, Answer] = {}
        self.judge: Judge

    def run(self, cache: Path) -> dict[str, Any]:
        """Do every step; returns what ``results.json`` holds.

        Parameters
        ----------
        cache : Path
            Folder that keeps exact answers.
        """
        plan, built = self.plan, {}
        with self.steps.step("build indexes", len(self.systems)) as step:
            for system in self.systems:
                step.next(system.key)
                built[system.key] = self.build(system)
        self.judge = Judge(self.workload, self._truth(cache), plan.k)
        for system in self.systems:
            system.open(built[system.key].path, plan.threads)
        with quiet(plan.threads):
            self._answer()
            timings = self._time()
            overheads = self._overheads()
        startups = self._startups(built)
        sweep = [
            self._record(point, timings[point], built, startups, overheads)
            for point in self.answers
        ]
        points = zip(self.answers, sweep, strict=True)
        return {
            "dataset": self.workload.data.name,
            "machine": machine.describe(plan.threads, plan.build_threads),
            "versions": machine.versions(),
            "commit": machine.commit(),
            "rows": [record for point, record in points if point.chosen],
            "sweep": sweep,
        }

    def chosen_runs(self) -> Iterator[tuple[Point, np.ndarray]]:
        """Yield the answers at the chosen effort, for the TREC run files."""
        for point, answer in self.answers.items():
            if point.chosen:
                yield point, answer.rows

    def dims(self) -> list[Record]:
        """Judge exact search at every prefix, as the runs were judged."""
        n_rows = self.workload.shape[0]
        return [
            {"dim": dim, "mflops_per_query": dim * n_rows / 1e6} | self._judge(rows)
            for dim, rows in self.judge.truth.rows.items()
        ]

    def _truth(self, cache: Path) -> Truth:
        """Find the exact neighbours at every prefix."""
        with self.steps.step("find exact answers", self.workload.shape[0]) as step:
            return load_or_find(self.workload, self.plan.k, cache, step.advance)

    def _points(self) -> list[Point]:
        """List every system, run and effort, each curve in order of effort."""
        plan, n_rows = self.plan, self.workload.shape[0]
        swept = [effort for effort in plan.sweep if effort <= n_rows]

        def points(system: System, run: Run) -> Iterator[Point]:
            efforts, chosen = run.efforts(swept, plan.k), run.near(plan.shortlist)
            if run.knob:
                efforts = sorted({*efforts, chosen})
            for effort in efforts:
                marked = effort in (None, chosen)
                yield Point(system, run.name, run.knob, effort, marked)

        return [
            point
            for system in self.systems
            for run in system.runs
            if not run.extra
            for point in points(system, run)
        ]

    def _answer(self) -> None:
        """Answer and judge every point once: this is the warm-up, too."""
        points, queries = self._points(), self.workload.queries
        answers = answer_points(points, queries, self.plan.k, self.judge.knn_recall)
        with self.steps.step("answer and judge", len(points)) as step:
            for point, rows, knn_recall in answers:
                step.at(point)
                step.advance(1)
                metrics = self._judge(rows, knn_recall)
                self.answers[point] = Answer(rows, metrics)

    def _judge(
        self, rows: np.ndarray, knn_recall: float | None = None
    ) -> dict[str, float | None]:
        if knn_recall is None:
            knn_recall = self.judge.knn_recall(rows)
        found = {f"knn_recall@{self.plan.k}": knn_recall}
        return self.judge.relevance(rows) | found

    def _time(self) -> dict[Point, Timing]:
        """Time every point in each of the rounds."""
        points, plan = list(self.answers), self.plan
        timings = {point: Timing() for point in points}
        with self.steps.step("time", len(points) * plan.rounds) as step:
            for _ in range(plan.rounds):
                for point in time_round(points, self.workload.queries, plan.k, timings):
                    step.at(point)
                    step.advance(1)
        return timings

    def _overheads(self) -> dict[tuple[str, str], float | None]:
        """Find the call overhead of each run at the chosen effort; scans have none."""
        queries = self.workload.queries[:COUNTED_QUERIES]
        return {
            (point.system.key, point.run): call_overhead_us(point, queries, self.plan.k)
            for point in self.answers
            if point.chosen and point.knob
        }

    def _startups(
        self, built: dict[str, Built]
    ) -> dict[str, tuple[Startup, float | None]]:
        """Start a fresh process for each index; compile once for all of ours."""
        found, compiled = {}, {}
        with self.steps.step("start fresh processes", len(self.systems)) as step:
            for system in self.systems:
                step.next(system.key)
                path, plan = str(built[system.key].path), self.plan
                run = main_run(system)
                effort = run.near(plan.shortlist)
                task = Task(system.key, path, run.name, effort, plan.k, plan.threads)
                queries = self.workload.queries[:COUNTED_QUERIES]
                if system.name not in compiled:
                    compiled[system.name] = compile_seconds(task)
                found[system.key] = run_probe(task, queries), compiled[system.name]
        return found

    def _record(
        self,
        point: Point,
        timing: Timing,
        built: dict[str, Built],
        startups: dict[str, tuple[Startup, float | None]],
        overheads: dict[tuple[str, str], float | None],
    ) -> Record:
        """Put everything about a point into one row."""
        plan, key, run = self.plan, point.system.key, point.run
        index, (startup, compile_s) = built[key], startups[key]
        batch_us = float(np.median(timing.batch_us))
        queries = self.workload.queries
        counted = queries[: COUNTED_QUERIES if point.knob else SCANNED_QUERIES]
        work = point.system.work(run, plan.k, point.effort or plan.k, counted)
        metrics = dict(self.answers[point].metrics)
        del metrics[f"recall@{plan.k}"]
        return {
            "system": point.system.name,
            "run": run,
            "params": self._params(point, timing, index),
            "time_us": timing.single_stats(),
            "batch_us": batch_us,
            "qps": 1e6 / batch_us,
            **metrics,
            "mflops_per_query": work.mflops,
            "bytes_per_query": work.bytes,
            "anon_bytes": startup.anon_bytes,
            "disk_bytes": index.disk_bytes,
            "build_s": index.build_s,
            "open_ms": startup.open_ms,
            "call_overhead_us": overheads.get((key, run)),
            "first_hit_s": startup.first_hit_s,
            "compile_s": compile_s,
        }

    def _params(self, point: Point, timing: Timing, index: Built) -> dict[str, Any]:
        """Say what was asked, what the index was built with, how it was timed."""
        n_rows, full_dim = self.workload.shape
        knob = {"knob": point.knob} | ({point.knob: point.effort} if point.knob else {})
        return (
            knob
            | index.params
            | {
                "k": self.plan.k,
                "rows": n_rows,
                "full_dim": full_dim,
                "queries": len(self.workload.queries),
                "threads": self.plan.threads,
                "rounds": self.plan.rounds,
                "single_calls": sum(map(len, timing.single_us)),
                "batch_us_of_rounds": timing.batch_us,
            }
        )
