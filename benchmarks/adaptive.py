"""What tuning buys, and whether it keeps its word: ``python -m benchmarks.adaptive``.

Tunes on half of a data set's queries and judges on the other half: levels of effort,
which may end walks by slack, beside fixed shortlists; how near a tuned search comes to
its target; and how often the bound holds over random splits. benchmarks/README.md
explains the rows.

q = queries, l = levels.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.pareto import qps_at
from benchmarks.roofline import saved_index
from benchmarks.run import ROOT, load_data, positive
from benchmarks.tables import Table, number, share, to_rich

TARGETS = (0.95, 0.99)
SURE = 0.9
SPLITS, CALIBRATION = 200, 0.5
REPEATS = 5
KEEPS = (10, 12, 15, 20, 25, 30, 40, 50, 70, 100)
EFS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448)
TIE = 1e-6

Record = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    out = argparse.ArgumentParser(
        prog="python -m benchmarks.adaptive", description=__doc__.split("\n\n")[1]
    )
    add = out.add_argument
    add("--dataset", default="docstrings", metavar="SPEC,…", help="as benchmarks.run")
    add("--n", type=positive, metavar="ROWS", help="corpus rows")
    add("--dim", type=positive, help="full width")
    add("--queries", type=positive, metavar="Q", help="at most this many (1000)")
    add("--k", type=positive, default=10, help="neighbours (%(default)s)")
    add("--out", type=Path, default=Path("results") / "adaptive", metavar="DIR")
    add("--cache", type=Path, default=ROOT / "data", metavar="DIR", help="made data")
    add("--any-source", action="store_true", help="as benchmarks.run")
    out.set_defaults(dims=None)
    return out


class Judge:
    """Searches an index for queries that it was not tuned on.

    Parameters
    ----------
    index : FunnelIndex
    queries : (q, d) float32
    k : int
    """

    def __init__(self, index: Any, queries: np.ndarray, k: int) -> None:
        self.index, self.queries, self.k = index, queries, k
        exact = index.search(queries, k, mode="exact")
        self.last = exact.scores[:, -1:] - TIE

    def losses(self, **how: Any) -> np.ndarray:
        """Return 1 − knn_recall@k of each query."""
        scores = self.index.search(self.queries, self.k, **how).scores
        return 1 - (scores >= self.last).mean(axis=1)

    def batch_us(self, **how: Any) -> float:
        """Return the median of some batches, µs a query, one thread."""
        spent = []
        for _ in range(REPEATS):
            began = time.perf_counter_ns()
            self.index.search(self.queries, self.k, threads=1, **how)
            spent.append((time.perf_counter_ns() - began) / 1e3 / len(self.queries))
        return float(np.median(spent))

    def single_us(self, **how: Any) -> np.ndarray:
        """Return what each query takes alone, µs."""
        spent = []
        for query in self.queries:
            began = time.perf_counter_ns()
            self.index.search(query, self.k, threads=1, **how)
            spent.append((time.perf_counter_ns() - began) / 1e3)
        return np.array(spent)

    def point(self, **how: Any) -> Record:
        """Return the recall, the time and the work of a setting."""
        trace = self.index.search(self.queries, self.k, trace=True, **how).trace
        single = self.single_us(**how)
        return {
            "knn_recall": 1 - float(self.losses(**how).mean()),
            "batch_us": self.batch_us(**how),
            "single_p50_us": float(np.median(single)),
            "single_p99_us": float(np.quantile(single, 0.99)),
            "rows": trace[0].rows_in / len(self.queries),
            "bytes": sum(one.bytes_read for one in trace) / len(self.queries),
        }

    def front(self, settings: Sequence[Record]) -> list[tuple[float, float]]:
        """Return knn_recall and queries per second of each setting."""
        return [
            (1 - float(self.losses(**how).mean()), 1e6 / self.batch_us(**how))
            for how in settings
        ]


def typed(level: Any) -> Record:
    """Return a level's knobs as arguments of a search."""
    if level.exact:
        return {"mode": "exact"}
    knobs = {"shortlist": level.shortlist, "ef_search": level.ef_search}
    return {"mode": "rerank", "slack": level.slack, **knobs}


def fixed() -> list[Record]:
    """Return the settings of fixed counts: every shortlist with every longer list."""
    return [
        {"mode": "rerank", "shortlist": keep, "ef_search": ef}
        for ef in EFS
        for keep in KEEPS
        if keep <= ef <= 16 * keep
    ]


def coverage(losses: np.ndarray, target: float) -> Record:
    """Return how the bounds fare over random splits of the queries.

    Parameters
    ----------
    losses : (q, l) float64
        Of all queries at all levels.
    """
    from funnel.adapt.risk import least_level, least_sure_level, monotone

    rng, n = np.random.default_rng(0), len(losses)
    half, means, missed = int(CALIBRATION * n), [], 0
    for _ in range(SPLITS):
        order = rng.permutation(n)
        calibration, test = monotone(losses[order[:half]]), losses[order[half:]]
        level = least_level(calibration, 1 - target)
        means.append(0.0 if level is None else float(test[:, level].mean()))
        sure = least_sure_level(calibration, 1 - target, SURE)
        missed += sure is not None and test[:, sure].mean() > 1 - target
    error = float(np.std(means) / len(means) ** 0.5)
    return {
        "mean_loss": float(np.mean(means)),
        "allowed": 1 - target,
        "two_errors": 2 * error,
        "missed_when_sure": missed / SPLITS,
        "may_miss": 1 - SURE,
    }


def measure(args: argparse.Namespace) -> Record:
    """Tune on one half of the queries, judge on the other."""
    from benchmarks import machine
    from benchmarks.measure import quiet
    from benchmarks.truth import make_workload
    from funnel import FunnelIndex

    workload = make_workload(load_data(args), None)
    queries = np.ascontiguousarray(workload.queries)
    half = len(queries) // 2
    folder = Path(tempfile.mkdtemp(prefix="funnel-"))
    try:
        with FunnelIndex.open(saved_index(workload, args)) as saved:
            saved.backup(folder / "index")
        with quiet(1), FunnelIndex.open(folder / "index", "rw") as index:
            index.warmup()
            judge = Judge(index, queries[half:], args.k)
            plain = judge.point()
            counts = judge.front(fixed())
            found = [_tuned(judge, queries[:half], target) for target in TARGETS]
            levels = [typed(one) for one in found[-1].pop("levels")]
            found[0].pop("levels")
            tuned = judge.front(levels)
            everyone = Judge(index, queries, args.k)
            losses = np.stack([everyone.losses(**one) for one in levels], axis=1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "dataset": workload.data.name,
        "rows": workload.shape[0],
        "full_dim": workload.shape[1],
        "queries": half,
        "k": args.k,
        "untuned": plain,
        "tuned": found,
        "fixed_qps": {str(t): qps_at(counts, t) for t in TARGETS},
        "tuned_qps": {str(t): qps_at(tuned, t) for t in TARGETS},
        "coverage": {str(t): coverage(losses, t) for t in TARGETS},
        "machine": machine.describe(1, machine.cores()),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }


def _tuned(judge: Judge, queries: np.ndarray, target: float) -> Record:
    """Tune for a target; return how near it comes on queries it never saw."""
    began = time.perf_counter()
    report = judge.index.tune(queries, target_knn_recall=target, k=judge.k)
    took, losses = time.perf_counter() - began, judge.losses()
    error = float(losses.std() / len(losses) ** 0.5)
    return judge.point() | {
        "target": target,
        "over_target": 1 - float(losses.mean()) - target,
        "interval": 1.96 * error,
        "tune_s": took,
        "level": typed(report.chosen),
        "levels": report.tuned.levels,
    }


def tables(found: Record) -> list[Table]:
    """Return what was found as tables."""
    title = f"{found['dataset']}: {found['rows']:,} × {found['full_dim']}"
    header = ["search", "knn_recall", "over target", "batch µs", "p50 µs", "p99 µs",
              "rows", "kB", "tune, s"]  # fmt: skip
    rows = [_row("not tuned", found["untuned"])]
    rows += [_row(f"tuned for {one['target']}", one) for one in found["tuned"]]
    ahead = ["knn_recall", "fixed, QPS", "tuned, QPS", "ratio"]
    ratios = [
        [str(target), number(found["fixed_qps"][str(target)]),
         number(found["tuned_qps"][str(target)]),
         f"{number(_ratio(found, str(target)))}×"]
        for target in TARGETS
    ]  # fmt: skip
    bounds = ["target", "mean loss", "allowed", "splits that miss, sure of 0.9"]
    kept = [
        [target, f"{one['mean_loss']:.4f}", f"{one['allowed']:.4f}",
         f"{one['missed_when_sure']:.3f}"]
        for target, one in found["coverage"].items()
    ]  # fmt: skip
    return [
        Table(f"{title}, on {found['queries']:,} unseen queries", header, rows),
        Table("levels beside fixed counts, equal knn_recall@10", ahead, ratios),
        Table(f"the bound over {SPLITS} random splits", bounds, kept),
    ]


def _ratio(found: Record, target: str) -> float | None:
    ours, theirs = found["tuned_qps"][target], found["fixed_qps"][target]
    return ours / theirs if ours and theirs else None


def _row(name: str, one: Record) -> list[str]:
    over = one.get("over_target")
    said = "–" if over is None else f"{over:+.4f} ± {one['interval']:.4f}"
    return [
        name, share(one["knn_recall"]), said, number(one["batch_us"]),
        number(one["single_p50_us"]), number(one["single_p99_us"]),
        number(one["rows"]), number(one["bytes"] / 1e3),
        number(one.get("tune_s")),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each data set, write and show."""
    from benchmarks.results import write_json

    args = parser().parse_args(argv)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.dataset.split(","):
        found = measure(argparse.Namespace(**{**vars(args), "dataset": name}))
        write_json(found, args.out / f"{found['dataset']}.json")
        for table in tables(found):
            console.print(to_rich(table))
    print(f"written to {args.out}/")


if __name__ == "__main__":
    main()
