"""What the memory alone would take for a search: ``python -m benchmarks.roofline``.

Measures what one thread can read on this machine (`benchmarks.memory_speed`), counts
what searches read from their traces, and sets the time they took beside the time that
reading takes at least. It judges no answers. benchmarks/README.md explains the columns.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from benchmarks.run import ROOT, load_data, numbers, positive
from benchmarks.tables import MISSING, Table, number, size, to_rich

KEY = "funnel-pca"
EFFORTS = (14, 20, 40, 80, 200)
MEMORY_BYTES = 1 << 30
SCANNED_TOGETHER = 100
LINK_BYTES = 4
NARROWEST = 130

Record = dict[str, Any]


class Rates(NamedTuple):
    """What reading takes: a code and a list of links, ns; whole rows, GB/s."""

    code_ns: float
    links_ns: float
    row_gb_s: float


class Shape(NamedTuple):
    """What an index consists of, in rows and bytes."""

    rows: int
    row_bytes: int
    nodes: int
    code_bytes: int
    degree: int
    entries: int

    @property
    def links_bytes(self) -> int:
        """Bytes of the links of one node."""
        return LINK_BYTES * self.degree

    @property
    def walked_bytes(self) -> int:
        """Bytes that walks choose from: all codes and all links."""
        return self.nodes * (self.code_bytes + self.links_bytes)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    out = argparse.ArgumentParser(
        prog="python -m benchmarks.roofline", description=__doc__.split("\n\n")[1]
    )
    add = out.add_argument
    add("--dataset", default="synthetic", metavar="SPEC", help="as benchmarks.run")
    add("--n", type=positive, metavar="ROWS", help="corpus rows")
    add("--dim", type=positive, help="full width")
    add("--queries", type=positive, default=1000, metavar="Q", help="(%(default)s)")
    add("--k", type=positive, default=10, help="neighbours (%(default)s)")
    add("--efforts", type=numbers, default=EFFORTS, metavar="S,S,…", help="shortlists")
    add("--rounds", type=positive, default=5, help="medians of so many (%(default)s)")
    add(
        "--memory-mb",
        type=positive,
        default=MEMORY_BYTES >> 20,
        metavar="MB",
        help="of the array that memory is measured on, far beyond the L3 (%(default)s)",
    )
    add("--out", type=Path, default=Path("results") / "roofline.json", metavar="FILE")
    add("--cache", type=Path, default=ROOT / "data", metavar="DIR")
    add("--any-source", action="store_true", help="as benchmarks.run")
    out.set_defaults(dims=None)
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write and show."""
    arguments = parser()
    args = arguments.parse_args(argv)
    if args.efforts[0] < args.k:
        arguments.error(f"--efforts {args.efforts[0]} cannot hold --k {args.k}")
    from benchmarks.results import write_json
    from funnel.errors import InvalidArgumentError

    try:
        found = measure(args)
    except InvalidArgumentError as error:
        arguments.error(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(found, args.out)
    show(found)
    print(f"\nwritten to {args.out}")


def measure(args: argparse.Namespace) -> Record:
    """Build or find the index, then measure memory, walks and scans."""
    from benchmarks import machine, memory_speed
    from benchmarks.measure import quiet
    from benchmarks.truth import make_workload
    from funnel import FunnelIndex

    workload = make_workload(load_data(args), None)
    path = saved_index(workload, args)
    shape = shape_of(path)
    n_bytes = args.memory_mb << 20
    with quiet(1), FunnelIndex.open(path) as index:
        memory = memory_speed.measure(n_bytes, shape.row_bytes)
        huge = memory_speed.measure(n_bytes, shape.row_bytes, huge=True)
        rates = rates_of(shape, memory["random_rows_gb_s"])
        searches = Searches(index, workload.queries, args.k, args.rounds)
        scans = searches.scans(shape)
        efforts = [
            searches.at(effort, shape, rates)
            for effort in args.efforts
            if effort <= shape.rows
        ]
    return {
        "dataset": workload.data.name,
        "queries": len(workload.queries),
        "k": args.k,
        "machine": machine.describe(1, machine.cores()),
        "versions": machine.versions(),
        "commit": machine.commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "index": shape._asdict() | {"walked_bytes": shape.walked_bytes},
        "memory": [memory, *([huge] if huge["pages"] == "huge" else [])],
        "rates": rates._asdict(),
        "scans": scans,
        "efforts": efforts,
    }


def saved_index(workload: Any, args: argparse.Namespace) -> Path:
    """Return the index, built or found in the benchmarks' cache."""
    from benchmarks import machine
    from benchmarks.builds import Builder
    from benchmarks.systems import BuildSettings, make

    settings = BuildSettings(machine.cores(), workload.dims)
    cache = args.cache / "cache"
    builder = Builder(workload, cache, settings, any_source=args.any_source)
    return builder.find_or_build(make(KEY)).path / "index.funnel"


def shape_of(path: Path) -> Shape:
    """Read what an index consists of from its manifest.

    Raises
    ------
    InvalidArgumentError
        If it has no graph.
    """
    from funnel.errors import InvalidArgumentError
    from funnel.store.commit import newest_manifest

    manifest = newest_manifest(path)
    segment = manifest.segments[0]
    files = segment.files
    if "links" not in files:
        raise InvalidArgumentError(
            f"{segment.nodes} rows are scanned, not walked: take 1,000 at least"
        )
    return Shape(
        rows=segment.rows,
        row_bytes=manifest.full_dim * np.dtype(manifest.dtype).itemsize,
        nodes=segment.nodes,
        code_bytes=files["codes"].width,
        degree=files["links"].width,
        entries=files["entries"].rows,
    )


def rates_of(shape: Shape, row_gb_s: float) -> Rates:
    """Time random codes and lists of links in a working set as large as all of them."""
    from benchmarks import memory_speed

    words = memory_speed.allocate(shape.walked_bytes)
    code_ns, _ = memory_speed.record_ns(words, shape.code_bytes)
    links_ns, _ = memory_speed.record_ns(words, shape.links_bytes)
    return Rates(code_ns, links_ns, row_gb_s)


def walk_floor_us(scored: float, expanded: float, shape: Shape, rates: Rates) -> float:
    """Return what reading the codes and links of a walk takes at least, µs.

    The entries' codes lie together and are read by every query: they are left out.
    """
    codes = max(0.0, scored - shape.entries)
    return (codes * rates.code_ns + expanded * rates.links_ns) / 1e3


def rerank_floor_us(n_bytes: float, rates: Rates) -> float:
    """Return what reading whole rows takes at least, µs."""
    return n_bytes / rates.row_gb_s / 1e3


class Searches:
    """Searches an open index and says what it read and took, a query.

    Parameters
    ----------
    index : FunnelIndex
    queries : (q, d) float32
    k, rounds : int
    """

    def __init__(self, index: Any, queries: np.ndarray, k: int, rounds: int) -> None:
        self._index, self._queries = index, queries
        self._k, self._rounds = k, rounds

    def at(self, effort: int, shape: Shape, rates: Rates) -> Record:
        """Measure one shortlist, beside its floor."""
        given = {"k": self._k, "shortlist": effort, "threads": 1}
        us = self._us(self._queries, **given)
        traces = [
            self._index.search(self._queries, trace=True, **given).trace
            for _ in range(self._rounds)
        ]
        walk = _stage(traces, ("walk",))
        rerank = _stage(traces, ("rerank",))
        walk["bytes"] += walk["kept"] * shape.links_bytes
        walk["floor_us"] = walk_floor_us(walk["rows"], walk["kept"], shape, rates)
        rerank["floor_us"] = rerank_floor_us(rerank["bytes"], rates)
        floor_us = walk["floor_us"] + rerank["floor_us"]
        found = {"effort": effort, "us": us, "floor_us": floor_us}
        return found | {"times": us / floor_us, "walk": walk, "rerank": rerank}

    def scans(self, shape: Shape) -> Record:
        """Measure the exact scan, by one query and by many together."""
        n_bytes = shape.rows * shape.row_bytes
        some = self._queries[:SCANNED_TOGETHER]
        given = {"k": self._k, "mode": "exact", "threads": 1}
        one_us, many_us = self._us(some[:1], **given), self._us(some, **given)
        return {
            "bytes": n_bytes,
            "one_query_gb_s": n_bytes / one_us / 1e3,
            "together": len(some),
            "together_gb_s": n_bytes / many_us / 1e3,
        }

    def _us(self, queries: np.ndarray, **given: Any) -> float:
        """Return the median time of a batch, µs a query."""
        from benchmarks.measure import time_batch

        def search(some: np.ndarray) -> Any:
            return self._index.search(some, **given)

        search(queries)
        times = [time_batch(search, queries) for _ in range(self._rounds)]
        return float(np.median(times))


def _stage(traces: Sequence[Any], names: tuple[str, ...]) -> Record:
    """Sum the stages of a name: counts of one query, the median time of the traces."""
    first, queries = traces[0], traces[0].queries
    mine = [stage for stage in first if stage.name in names]
    spent = [sum(s.time_us for s in trace if s.name in names) for trace in traces]
    return {
        "rows": sum(stage.rows_in for stage in mine) / queries,
        "kept": sum(stage.rows_kept for stage in mine) / queries,
        "bytes": sum(stage.bytes_read for stage in mine) / queries,
        "us": float(np.median(spent)) / queries,
    }


def memory_table(found: Record) -> Table:
    """Return what one thread reads of this machine's memory."""
    kinds, scans = found["memory"], found["scans"]
    header = ["one thread", *(f"{one['pages']} pages" for one in kinds)]
    rows = [
        [f"{name}, GB/s", *(number(one[key]) for one in kinds)]
        for name, key in (
            (f"read {size(kinds[0]['bytes'])} in order", "in_order_gb_s"),
            ("scan int8 codes in order", "code_scan_gb_s"),
            (f"random rows of {size(kinds[0]['row_bytes'])}", "random_rows_gb_s"),
        )
    ]
    for at, one in enumerate(kinds[0]["working_sets"]):
        where = f"{one['name']}, {size(one['bytes'])}"
        for kind in ("chain", "independent"):
            cells = [number(k["working_sets"][at][f"{kind}_ns"]) for k in kinds]
            rows.append([f"{kind} random line in {where}, ns", *cells])
    empty = [MISSING] * (len(kinds) - 1)
    alone, many = scans["one_query_gb_s"], scans["together_gb_s"]
    rows.append(["exact search, one query, GB/s", number(alone), *empty])
    title = f"exact search, {scans['together']} queries together, GB/s of each"
    rows.append([title, number(many), *empty])
    return Table("memory", header, rows)


def effort_table(found: Record) -> Table:
    """Return what each effort took, beside what reading alone takes."""
    header = ["shortlist"]
    for name in ("walk", "rerank"):
        header += [f"{name}: rows", "kB", "µs", "floor", "×"]
    header += ["all: µs", "floor", "×"]
    rows = []
    for one in found["efforts"]:
        cells = [str(one["effort"])]
        for part in (one["walk"], one["rerank"]):
            times = part["us"] / part["floor_us"]
            cells += [number(part["rows"]), number(part["bytes"] / 1e3)]
            cells += [number(part["us"]), number(part["floor_us"]), number(times)]
        cells += [number(one["us"]), number(one["floor_us"]), number(one["times"])]
        rows.append(cells)
    shape, rates = found["index"], found["rates"]
    about = (
        f"{found['dataset']}: {shape['rows']:,} rows of {size(shape['row_bytes'])}, "
        f"{found['queries']:,} queries a batch"
    )
    note = (
        f"Codes and links are {size(shape['walked_bytes'])}; of a set that large a "
        f"random code takes {number(rates['code_ns'])} ns and a list of links "
        f"{number(rates['links_ns'])} ns. A walk's µs hold the query's preparation."
    )
    return Table(about, header, rows, [note])


def show(found: Record, console: Console | None = None) -> None:
    """Print the tables."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    for table in (memory_table(found), effort_table(found)):
        console.print(to_rich(table))
        for note in table.notes:
            console.print(f"[dim]{note}[/dim]", highlight=False)


if __name__ == "__main__":
    main()
