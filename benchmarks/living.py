"""What change costs: ``python -m benchmarks.living --dataset bible-mrl``.

Adds, replaces and deletes rows of an index and times that; searches it with one
segment and with twenty, with filters of several shares, and while it is compacted. It
judges filtered answers against an exact scan of what passes. benchmarks/README.md
explains the rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import living_page as page
from benchmarks import machine
from benchmarks.run import ROOT, load_data, positive
from benchmarks.tables import to_rich
from benchmarks.truth import make_workload
from funnel import FunnelIndex

ADDED, CHANGES = 1_000, 10
# After the first: what is left between merges, and twice what got a graph.
ORDINARY = (8_000, 4_500, *([400] * 5), *([150] * 12))
SHARES = (0.01, 0.1, 0.5)
VERSIONS = 100
SHORTLISTS = (40, 200)
REPEATS = 7
WARM_S = 1.0
NOISE = 0.01  # of an added row's length: near a row of the corpus, equal to none

Record = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    out = argparse.ArgumentParser(
        prog="python -m benchmarks.living", description=__doc__.split("\n\n")[1]
    )
    add = out.add_argument
    add("--dataset", default="synthetic", metavar="SPEC", help="as benchmarks.run")
    add("--n", type=positive, metavar="ROWS", help="corpus rows")
    add("--dim", type=positive, help="full width")
    add("--queries", type=positive, default=500, metavar="Q", help="(%(default)s)")
    add("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    add("--doc", action="store_true", help="write the tables of docs/living.md")
    add("--cache", type=Path, default=ROOT / "data", metavar="DIR", help="made data")
    return out


class Living:
    """Measures one index that changes.

    Parameters
    ----------
    corpus : (n, d) float32
    queries : (q, d) float32
    folder : Path
        Where the index goes.
    """

    def __init__(self, corpus: np.ndarray, queries: np.ndarray, folder: Path) -> None:
        self.corpus, self.queries, self.path = corpus, queries, folder / "index"
        self.rng = np.random.default_rng(0)
        metadata = {"share": self.rng.random(len(corpus))}
        FunnelIndex.build(corpus, path=self.path, metadata=metadata).close()

    def measure(self) -> Record:
        """Measure everything, in an order that leaves the index as it is needed."""
        with FunnelIndex.open(self.path, "rw", auto_compact=False) as index:
            index.warmup()
            found: Record = {"filters": self.filters(index)}
            found["changes_ms"] = self.changes(index)
            index.compact()
            for rows in ORDINARY:
                index.add(self.fresh(rows))
            found["segments"] = index.info["segments"]
            found["searches"] = self.side_by_side(index)
            found["versions"] = VERSIONS
            found["open_ms"] = self.versions(index)
            found["compacting"] = self.compacting(index)
            found["bytes"] = self.sizes(index)
        return found

    def fresh(self, rows: int) -> np.ndarray:
        """Return new rows, each near one of the corpus."""
        near = self.corpus[self.rng.integers(0, len(self.corpus), rows)]
        moved = self.rng.standard_normal(near.shape) * NOISE
        return (near + moved / np.sqrt(near.shape[1])).astype(np.float32)

    def side_by_side(self, many: FunnelIndex) -> list[Record]:
        """Time searches of many segments, and of one that holds the same rows, in turn.

        Batches at each shortlist and single calls, µs a query: medians of rounds, and
        the median of the rounds' ratios.
        """
        path = self.path.with_name("one")
        many.backup(path)
        with FunnelIndex.open(path, "rw") as one:
            one.compact()
            one.warmup()
            kinds: dict[str, Callable[[FunnelIndex], float]] = {
                f"a batch, shortlist {shortlist}": partial(
                    self.batch_us, shortlist=shortlist
                )
                for shortlist in SHORTLISTS
            }
            kinds["single calls, p50"] = self.single_us
            found = []
            for name, work in kinds.items():
                both = [(work(one), work(many)) for _ in range(REPEATS)]
                ratios = [second / first for first, second in both]
                us = np.median(both, axis=0).tolist()
                ratio = float(np.median(ratios))
                found.append({"name": name, "us": us, "ratio": ratio})
        shutil.rmtree(path)
        return found

    def single_us(self, index: FunnelIndex) -> float:
        """Return the median time of a single call, µs."""
        times = []
        for query in self.queries:
            start = time.perf_counter_ns()
            index.search(query, threads=1)
            times.append(time.perf_counter_ns() - start)
        return float(np.median(times)) / 1e3

    def batch_us(self, index: FunnelIndex, **given: Any) -> float:
        """Return what a batch takes after another of its kind, µs a query."""
        for _ in range(2):
            start = time.perf_counter()
            index.search(self.queries, threads=1, **given)
        return 1e6 * (time.perf_counter() - start) / len(self.queries)

    def filters(self, index: FunnelIndex) -> list[Record]:
        """Time searches with filters, and judge them."""
        found = []
        for share in SHARES:
            condition = {"share": {"$lt": share}}
            start = time.perf_counter()
            index.search(self.queries[:1], filter=condition)
            made_ms = (time.perf_counter() - start) * 1e3
            answers = index.search(self.queries, filter=condition).ids
            exact = index.search(self.queries, filter=condition, mode="exact").ids
            same = [len(set(a) & set(b)) for a, b in zip(answers, exact, strict=True)]
            both = [
                (self.batch_us(index), self.batch_us(index, filter=condition))
                for _ in range(REPEATS)
            ]
            found.append(
                {
                    "share": share,
                    "made_ms": made_ms,
                    "batch_us": float(np.median([own for _, own in both])),
                    "ratio": float(np.median([own / none for none, own in both])),
                    "knn_recall": float(np.mean(same)) / exact.shape[1],
                }
            )
        return found

    def changes(self, index: FunnelIndex) -> Record:
        """Time changes, ms: the median of some of each."""
        few, some = self.fresh(1), self.fresh(100)
        ids = iter(range(len(self.corpus)))
        return {
            f"add {ADDED:,} rows": median_ms(lambda: index.add(self.fresh(ADDED))),
            "add 1 row": median_ms(lambda: index.add(few)),
            "upsert 100 rows": median_ms(
                lambda: index.upsert(some, ids=range(len(some)))
            ),
            "delete 1 row": median_ms(lambda: index.delete([next(ids)])),
        }

    def versions(self, index: FunnelIndex) -> float:
        """Return the time to open an index that keeps 100 versions, ms."""
        last = int(index.to_arrow().column("id").to_numpy()[-1])
        while len(index.versions()) < VERSIONS:
            index.delete([last])
            last -= 1
        return median_ms(lambda: FunnelIndex.open(self.path).close())

    def compacting(self, index: FunnelIndex) -> Record:
        """Time single calls of a reader before and during a compaction, µs."""
        reader = FunnelIndex.open(self.path)
        times: list[tuple[bool, int]] = []
        stop, busy = threading.Event(), threading.Event()

        def read() -> None:
            while not stop.is_set():
                for query in self.queries:
                    start = time.perf_counter_ns()
                    reader.search(query, threads=1)
                    times.append((busy.is_set(), time.perf_counter_ns() - start))

        thread = threading.Thread(target=read)
        thread.start()
        time.sleep(WARM_S)
        busy.set()
        start = time.perf_counter()
        index.compact()
        seconds = time.perf_counter() - start
        stop.set()
        thread.join()
        reader.close()
        calm = [ns for during, ns in times if not during]
        loaded = [ns for during, ns in times if during]
        return {
            "seconds": seconds,
            "p99_before_us": float(np.percentile(calm, 99)) / 1e3,
            "p99_during_us": float(np.percentile(loaded, 99)) / 1e3,
        }

    def sizes(self, index: FunnelIndex) -> Record:
        """Compare the compacted index on disk with a fresh build of the same rows."""
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder) / "fresh"
            rows = index.vectors()
            FunnelIndex.build(rows, path=fresh, metadata=metadata_of(index)).close()
            return {"compacted": disk(self.path), "fresh": disk(fresh)}


def metadata_of(index: FunnelIndex) -> Any:
    """Return the metadata columns of all rows."""
    return index.to_arrow().drop_columns(["id"])


def disk(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def median_ms(work: Callable[[], object]) -> float:
    """Return the median time of some calls after one that is not counted, ms."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and show."""
    args = parser().parse_args(arguments)
    args.dims, args.k = None, 10
    workload = make_workload(load_data(args), None)
    data, queries = workload.data, workload.queries
    corpus = np.ascontiguousarray(data.corpus[:], dtype=np.float32)
    folder = Path(tempfile.mkdtemp(prefix="funnel-", dir=args.cache))
    try:
        found = Living(corpus, queries, folder).measure()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found["about"] = f"{data.name}: {len(corpus):,} × {corpus.shape[1]:,}"
    found["machine"], found["commit"] = machine.describe(1, 2), machine.commit()
    console = Console(width=110)
    for table in page.tables(found):
        console.print(to_rich(table))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    if args.doc:
        page.write(found, ROOT / "docs" / "living.md")


if __name__ == "__main__":
    main()
