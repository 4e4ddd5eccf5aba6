"""How cost grows with rows and with dims: ``python -m benchmarks.growth``.

Builds and searches synthetic data of several sizes, one process a point, fits power
laws and draws them. With ``--larger-than-memory`` it builds and searches one large
index from a stream instead, in processes that may not hold its vectors. A point that an
earlier run left is not measured again. benchmarks/README.md explains it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.children import ROOT, ChildError, run_child
from benchmarks.probe import Task, run_probe
from benchmarks.run import SWEEP, numbers, positive, say
from benchmarks.tables import size

ROWS, DIMS = (10_000, 100_000, 1_000_000), (256, 512, 1024, 2048, 4096)
DIM, N = 256, 50_000
LARGE_ROWS, LARGE_DIM = 4_000_000, 768
LARGE_DTYPE, LARGE_ITEM_BYTES = "float16", 2
JUDGED_QUERIES = 200
PROBED_EFFORT = 100
LAST_LINES = 4  # of an error: the very last may come from a process beside it
MEASURED_WITH = ("numpy", "numba", "llvmlite", "pyarrow", "faiss-cpu", "hnswlib")

Record = dict[str, Any]


class Plan(NamedTuple):
    """What is asked of every point."""

    queries: int
    k: int
    sweep: tuple[int, ...]
    rounds: int
    threads: int
    build_threads: int
    rebuild: bool = False
    any_source: bool = False
    drop: bool = False


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    out = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__.split("\n\n")[1]
    )
    add = out.add_argument
    add("--rows", type=numbers, metavar="N,N,…", help=f"{ROWS}, at --dim dims")
    add("--dims", type=numbers, default=DIMS, metavar="D,D,…", help=f"{DIMS}, at --n")
    add("--dim", type=positive, help=f"of the sweep over rows ({DIM})")
    add("--n", type=positive, default=N, help="of the sweep over dims (%(default)s)")
    add("--queries", type=positive, default=1000, metavar="Q", help="(%(default)s)")
    add("--k", type=positive, default=10, help="neighbours (%(default)s)")
    add("--sweep", type=numbers, default=SWEEP, metavar="S,S,…", help="shortlists")
    add("--rounds", type=positive, default=3, help="medians of so many (%(default)s)")
    add("--threads", type=positive, default=1, help="that search (%(default)s)")
    add("--build-threads", type=positive, metavar="T", help="(all cores)")
    add("--out", type=Path, default=Path("results") / "growth", metavar="DIR")
    add("--cache", type=Path, default=ROOT / "data", metavar="DIR")
    add("--rebuild", action="store_true", help="build and measure everything again")
    add("--any-source", action="store_true", help="keep what another source measured")
    add("--drop-indexes", action="store_true", help="delete each index once measured")
    large = out.add_argument_group("larger than memory")
    large.add_argument(
        "--larger-than-memory",
        action="store_true",
        help=f"build --rows ({LARGE_ROWS:,}) rows of --dim ({LARGE_DIM}) {LARGE_DTYPE} "
        "dims from a stream, with less memory than the vectors take",
    )
    large.add_argument(
        "--limit-mb",
        type=positive,
        metavar="MB",
        help="memory of its own that a process may have (half of the vectors)",
    )
    large.add_argument(
        "--graph-dim", type=positive, help="dims of the graph (measured)"
    )
    large.add_argument(
        "--builder", choices=("auto", "numba", "hnswlib", "faiss"), default="auto"
    )
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write and show."""
    from benchmarks import machine

    arguments = parser()
    args = arguments.parse_args(argv)
    if args.sweep[-1] < args.k:
        arguments.error(f"--sweep {args.sweep[-1]} cannot hold --k {args.k}")
    plan = Plan(
        queries=args.queries,
        k=args.k,
        sweep=args.sweep,
        rounds=args.rounds,
        threads=args.threads,
        build_threads=args.build_threads or machine.cores(),
        rebuild=args.rebuild,
        any_source=args.any_source,
        drop=args.drop_indexes,
    )
    growth = Growth(plan, args.cache.resolve(), args.out)
    if args.larger_than_memory:
        measure_large(growth, args)
    else:
        measure_growth(growth, args)
    print(f"\nwritten to {args.out}/")


def measure_growth(growth: Growth, args: argparse.Namespace) -> None:
    """Measure every point, then fit, draw and show."""
    from benchmarks.growth_report import (
        cost_table,
        draw,
        fit_table,
        fits,
        search_table,
        show,
    )
    from benchmarks.results import write_json

    dim = args.dim or DIM
    wanted = [(n, dim) for n in args.rows or ROWS]
    wanted += [(args.n, width) for width in args.dims]
    found = [growth.point(n, width) for n, width in dict.fromkeys(wanted)]
    records = [one for one in found if one["status"] == "measured"]
    if not records:
        sys.exit("no point could be measured")
    exponents = fits(records, dim, args.n)
    write_json({"dim": dim, "n": args.n, "fits": exponents}, args.out / "fits.json")
    draw(records, dim, args.n, args.out / "growth.png")
    tables = cost_table(records), search_table(records)
    show([*tables, fit_table(exponents, dim, args.n)])


def measure_large(growth: Growth, args: argparse.Namespace) -> None:
    """Measure indexes that are larger than the memory their processes may have."""
    from benchmarks.growth_report import show, streamed_table

    limit = args.limit_mb and args.limit_mb * 1_000_000
    how = {"graph_dim": args.graph_dim, "builder": args.builder}
    found = [
        growth.large(n, args.dim or LARGE_DIM, limit, how)
        for n in args.rows or (LARGE_ROWS,)
    ]
    records = [one for one in found if one["status"] == "measured"]
    if not records:
        sys.exit("no index could be measured")
    show(streamed_table(record) for record in records)


class Growth:
    """Measures points in processes of their own, and leaves a JSON file for each.

    Parameters
    ----------
    plan : Plan
    cache : Path
        Of made data, built indexes and exact answers.
    folder : Path
        Where the files go.
    """

    def __init__(self, plan: Plan, cache: Path, folder: Path) -> None:
        self.plan, self.cache, self.folder = plan, cache, folder
        folder.mkdir(parents=True, exist_ok=True)

    def point(self, n: int, dim: int) -> Record:
        """Return one point of the growth, measured now or by an earlier run."""
        name, stamp = f"{n}x{dim}", self._stamp(n=n, dim=dim)
        kept = self._kept(name, stamp)
        if kept and kept["status"] == "measured":
            say(f"{name}: kept")
            return kept
        facts = self._facts(n, dim, stamp)
        task = {"n": n, "dim": dim, "cache": str(self.cache), **self.plan._asdict()}

        def measure() -> None:
            say(f"{name}: build and sweep")
            found = run_worker("point", task, self.plan.build_threads)
            path = found.pop("path")
            facts.update(found, anon_bytes=self._resident(path, dim))
            if self.plan.drop:
                shutil.rmtree(Path(path).parent, ignore_errors=True)

        return self._finish(name, facts, measure)

    def large(self, n: int, dim: int, limit: int | None, how: Record) -> Record:
        """Return an index that was built and searched within `limit` bytes.

        `how` holds arguments of the build.
        """
        name, vector_bytes = f"streamed-{n}x{dim}", n * dim * LARGE_ITEM_BYTES
        sizes = {"vector_bytes": vector_bytes}
        sizes["limit_bytes"] = limit or vector_bytes // 2
        stamp = self._stamp(n=n, dim=dim, **how, **sizes)
        kept = self._kept(name, stamp)
        if kept and kept["status"] == "measured":
            say(f"{name}: kept")
            return kept
        facts = self._facts(n, dim, stamp) | sizes | {"dtype": LARGE_DTYPE}
        path = self.cache / "cache" / name
        if kept and "build" in kept and path.exists():
            facts["build"] = kept["build"]
        task = {"n": n, "dim": dim, "path": str(path), "dtype": LARGE_DTYPE}
        task |= {"judged": JUDGED_QUERIES, **how, **sizes, **self.plan._asdict()}
        return self._finish(name, facts, lambda: self._stream(name, facts, task))

    def _stream(self, name: str, facts: Record, task: Record) -> None:
        """Build, unless that was done, and search: a process each."""
        if "build" not in facts:
            say(f"{name}: build with {size(task['limit_bytes'])}")
            facts["build"] = run_worker("stream", task, self.plan.build_threads)
            self._write(name, facts | {"status": "built"})
        say(f"{name}: search")
        facts["search"] = run_worker("search", task, self.plan.threads)
        if self.plan.drop:
            shutil.rmtree(task["path"], ignore_errors=True)

    def _finish(self, name: str, facts: Record, measure: Callable[[], None]) -> Record:
        """Measure, and write what was found or why it was not."""
        try:
            measure()
            facts["status"] = "measured"
        except ChildError as error:
            facts |= {"status": error.status, "message": str(error)}
            say(f"{name}: {error}")
        self._write(name, facts)
        return facts

    def _resident(self, path: str, dim: int) -> int | None:
        """Weigh an open index that has searched, in a fresh process."""
        import numpy as np

        from benchmarks.growth_worker import COUNTED_QUERIES, KEY, RUN

        rng = np.random.default_rng(0)
        queries = rng.standard_normal((COUNTED_QUERIES, dim), dtype=np.float32)
        task = Task(KEY, path, RUN, PROBED_EFFORT, self.plan.k, self.plan.threads)
        try:
            return run_probe(task, queries).anon_bytes
        except (RuntimeError, ValueError) as error:
            say(f"not weighed ({str(error)[-200:]})")
            return None

    def _kept(self, name: str, stamp: Record) -> Record | None:
        """Return what an earlier run left, if it may stand for a new one."""
        path = self.folder / f"{name}.json"
        if self.plan.rebuild or not path.exists():
            return None
        old = json.loads(path.read_text())
        if self.plan.any_source:
            old["stamp"]["source"] = None
        return old if old["stamp"] == json.loads(json.dumps(stamp)) else None

    def _stamp(self, **asked: Any) -> Record:
        """Return everything that decides what a measurement finds."""
        from benchmarks import machine
        from benchmarks.builds import source_digest
        from benchmarks.synthetic import RECIPE

        names = ("queries", "k", "sweep", "rounds", "threads", "build_threads")
        return {
            **asked,
            **{name: getattr(self.plan, name) for name in names},
            "recipe": RECIPE,
            "versions": machine.versions(MEASURED_WITH),
            "source": None if self.plan.any_source else source_digest(),
        }

    def _facts(self, n: int, dim: int, stamp: Record) -> Record:
        """Return what a file says beside the figures."""
        from benchmarks import machine

        return {
            "rows": n,
            "full_dim": dim,
            "k": self.plan.k,
            "machine": machine.describe(self.plan.threads, self.plan.build_threads),
            "commit": machine.commit(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "stamp": stamp,
        }

    def _write(self, name: str, facts: Record) -> None:
        """Write a file, whole or not at all."""
        from benchmarks.results import write_json

        partial = self.folder / f"{name}.partial"
        write_json(facts, partial)
        partial.replace(self.folder / f"{name}.json")


def run_worker(verb: str, task: Record, threads: int) -> Record:
    """Return what a process of ``benchmarks.growth_worker`` found."""
    return run_child(
        verb,
        task,
        threads=threads,
        module="benchmarks.growth_worker",
        last_lines=LAST_LINES,
    )


if __name__ == "__main__":
    main()
