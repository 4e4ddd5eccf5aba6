"""`funnel` beside every peer: ``python -m benchmarks.run --peers``.

Each peer is built in one process and measured in others, a process for each number of
threads: fifteen indexes do not fit in memory together. There its points and ours are
measured in pairs. Each process leaves a JSON file; what an earlier run left is used
again if nothing that it depends on has changed. Tables are in `benchmarks.peer_report`,
the page is in `benchmarks.results_page`. Called by `benchmarks.run`.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine
from benchmarks.builds import build_apart, source_digest
from benchmarks.children import ChildError, run_child
from benchmarks.peer_results import near_front
from benchmarks.peer_worker import OUR_RUNS
from benchmarks.probe import Task, run_probe
from benchmarks.results import read_json, write_json
from benchmarks.systems import REGISTRY, entry_of
from benchmarks.truth import Workload

COUNTED_QUERIES = 200
PROBED_EFFORT = 100
DESCRIBE_S = 120.0
HARD_LIMIT = 4  # times the limit of a measurement, which ends by itself between rounds
COPIES, SPARE_BYTES = 3, 2 << 30  # of the vectors that a build may write, and beside
ALONE = "funnel-pca"
"""Is measured with several threads against itself with one."""
MEASURED_WITH = ("numpy", "numba", "llvmlite")

Record = dict[str, Any]


class PeerPlan(NamedTuple):
    """What is asked of every peer."""

    k: int
    sweep: tuple[int, ...]
    rounds: int
    threads: tuple[int, ...]
    build_threads: int
    build_s: float
    measure_s: float
    rebuild: bool = False
    any_source: bool = False
    drop: bool = False


@dataclass
class PeerRun:
    """Measures peers on one data set.

    Parameters
    ----------
    workload : Workload
        The data; its exact answers are in the cache.
    data : dict
        How a child loads the same: spec, cache, n, dim, queries, dims.
    plan : PeerPlan
        Efforts, rounds, threads, limits.
    folder : Path
        Where the files go.
    say : callable
        Told what is under way, a line a step.
    """

    workload: Workload
    data: dict[str, Any]
    plan: PeerPlan
    folder: Path
    say: Callable[[str], None] = print

    def run(self, names: Iterable[str]) -> None:
        """Build ours, then measure each peer; a failure is a line of its file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._source, self._commit = source_digest(), machine.commit()
        self._known: list[Record] = []
        built = {key: self._ours(key) for key in OUR_RUNS}
        self._paths = {key: one["path"] for key, one in built.items()}
        self._write("funnel", self._facts(1) | {"ours": built})
        several = [threads for threads in self.plan.threads if threads > 1]
        if several:
            self._peer(ALONE, several, built[ALONE])
        wanted = set(names) - {"funnel"}
        for key in (entry.key for entry in REGISTRY if entry.name in wanted):
            self._peer(key, self.plan.threads)

    def _ours(self, key: str) -> Record:
        """Build one of ours and weigh it."""
        built = self._build(key)
        return built | {"startup": self._startup(key, built, OUR_RUNS[key][0])}

    def _peer(
        self, key: str, threads: Iterable[int], built: Record | None = None
    ) -> None:
        """Measure a peer at all numbers of threads; what stands is not done again."""
        alone = built is not None
        try:
            asked = {"key": key}
            found = run_child("describe", asked, threads=1, seconds=DESCRIBE_S)
        except ChildError as error:
            found = {"status": error.status, "message": str(error)}
        stamps = {one: self._stamp(key, one, found) for one in threads}
        todo = {one: s for one, s in stamps.items() if not self._stands(key, one, s)}
        for one in set(stamps) - set(todo):
            old = read_json(self.folder / f"{key}-t{one}.json")
            self._remember(old.get("points", []))
        if not todo:
            self.say(f"{key}: kept")
            return
        if "message" not in found:
            found |= built or self._try_to_build(key, found)
        for one, stamp in todo.items():
            facts = self._facts(one) | found | {"peer": key, "stamp": stamp}
            if "message" not in found:
                self.say(f"{key}: measure with {one} thread{'s' * (one > 1)}")
                facts |= self._measure(key, found["path"], one, alone=alone)
            if "message" in facts:
                self.say(f"{key}: {facts['message']}")
            facts.pop("path", None)
            self._write(f"{key}-t{one}", facts)
        if self.plan.drop and not alone and "path" in found:
            shutil.rmtree(Path(found["path"]).parent, ignore_errors=True)

    def _try_to_build(self, key: str, found: Record) -> Record:
        """Build and weigh a peer; or say why it could not be."""
        try:
            self._check_space()
            built = self._build(key)
        except ChildError as error:
            return {"status": error.status, "message": str(error)}
        run = next(run for run in found["runs"] if not run["extra"])
        effort = run["sweep"][len(run["sweep"]) // 2] if run["sweep"] else PROBED_EFFORT
        return built | {"startup": self._startup(key, built, run["name"], effort)}

    def _check_space(self) -> None:
        """Refuse to fill the disk."""
        n_rows, full_dim = self.workload.shape
        need = COPIES * n_rows * full_dim * 4 + SPARE_BYTES
        free = shutil.disk_usage(self.data["cache"]).free
        if free < need:
            said = f"not built: {free / 1e9:.1f} GB free, {need / 1e9:.1f} GB needed"
            raise ChildError("no space", said)

    def _build(self, key: str) -> Record:
        """Build one index in a process of its own, or find it."""
        plan = self.plan
        self.say(f"{key}: build")
        built = build_apart(
            key,
            self.data,
            threads=plan.build_threads,
            rebuild=plan.rebuild,
            any_source=plan.any_source,
            seconds=plan.build_s,
        )
        self.say(f"{key}: built in {built.build_s:.1f} s")
        return built.record()

    def _startup(
        self, key: str, built: Record, run: str, effort: int = PROBED_EFFORT
    ) -> Record | None:
        """Weigh an open index in a fresh process; None if that fails."""
        task = Task(key, built["path"], run, effort, self.plan.k, 1)
        try:
            found = run_probe(task, self.workload.queries[:COUNTED_QUERIES])
        except (RuntimeError, ValueError) as error:
            self.say(f"{key}: not weighed ({str(error)[-200:]})")
            return None
        return asdict(found)

    def _remember(self, points: list[Record]) -> None:
        """Keep which of our points the next peers meet: those no other beats clearly.

        What they answer does not change from process to process.
        """
        if not self._known:
            self._known = near_front([one for one in points if one["side"] == "ours"])

    def _measure(self, key: str, path: str, threads: int, *, alone: bool) -> Record:
        """Measure in a process of its own."""
        plan = self.plan
        task = {
            "key": key,
            "path": path,
            "ours": self._paths,
            "peer_runs": OUR_RUNS if alone else None,
            "data": self.data,
            "known": self._known,
            "k": plan.k,
            "sweep": plan.sweep,
            "rounds": plan.rounds,
            "threads": threads,
            "peer_threads": 1 if alone else threads,
            "seconds": plan.measure_s,
        }
        try:
            limit = HARD_LIMIT * plan.measure_s
            found = run_child("measure", task, threads=threads, seconds=limit)
            self._remember(found["points"])
        except ChildError as error:
            return {"status": error.status, "message": str(error)}
        return found | {"status": "measured"}

    def _facts(self, threads: int) -> Record:
        """Return what a file says beside the figures."""
        n_rows, full_dim = self.workload.shape
        return {
            "dataset": self.workload.data.name,
            "rows": n_rows,
            "full_dim": full_dim,
            "queries": len(self.workload.queries),
            "k": self.plan.k,
            "threads": threads,
            "machine": machine.describe(threads, self.plan.build_threads),
            "commit": self._commit,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }

    def _stamp(self, key: str, threads: int, found: Record) -> Record:
        """Return everything that decides what a measurement finds."""
        plan = self.plan
        package = entry_of(key).package
        return {
            "params": found.get("params"),
            "runs": found.get("runs"),
            "versions": machine.versions((*MEASURED_WITH, package)),
            "source": None if plan.any_source else self._source,
            "data": self.workload.slug,
            "k": plan.k,
            "sweep": plan.sweep,
            "rounds": plan.rounds,
            "threads": threads,
            "build_threads": plan.build_threads,
        }

    def _stands(self, key: str, threads: int, stamp: Record) -> bool:
        """Tell whether an earlier run's file may stand for a new one.

        A peer that was missing or failed is tried again, and one that was too slow
        when it is given more time.
        """
        path = self.folder / f"{key}-t{threads}.json"
        if self.plan.rebuild or not path.exists():
            return False
        old = read_json(path)
        given = {"build_s": self.plan.build_s, "measure_s": self.plan.measure_s}
        final = old.get("status") == "measured" or (
            old.get("status") == "timeout" and old.get("limits") == given
        )
        new = json.loads(json.dumps(stamp))
        if self.plan.any_source:
            old["stamp"]["source"] = None
        return final and old["stamp"] == new

    def _write(self, name: str, facts: Record) -> None:
        """Write a file, whole or not at all."""
        plan = self.plan
        limits = {"build_s": plan.build_s, "measure_s": plan.measure_s}
        path = self.folder / f"{name}.json"
        partial = path.with_suffix(".partial")
        write_json(facts | {"limits": limits}, partial)
        partial.replace(path)
