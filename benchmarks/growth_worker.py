"""What a process of `benchmarks.growth` does: measure one point, or a large build.

``python -m benchmarks.growth_worker VERB TASK OUT`` reads a task from a JSON file and
writes what it found to another. "point" builds and sweeps one index of synthetic data;
"stream" and "search" build and search one that is larger than the memory they let
themselves have. Each process does one of these, so that its memory is its own.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import (
    Point,
    Timing,
    answer_points,
    has_ended,
    quiet,
    time_batch,
    time_round,
)
from benchmarks.memory import PeakMemory, anonymous_bytes
from benchmarks.synthetic import BLOCK_ROWS, TEST, Generator
from funnel import FunnelIndex

KEY, RUN = "funnel-pca", "funnel_pca"
COUNTED_QUERIES = 200

Record = dict[str, Any]


def measure_point(task: Record) -> Record:
    """Build an index, or find it in the cache, and sweep its shortlist."""
    from benchmarks import datasets
    from benchmarks.builds import Builder
    from benchmarks.systems import BuildSettings, make
    from benchmarks.truth import load_or_find, make_workload

    cache, k = Path(task["cache"]), task["k"]
    given = {name: task[name] for name in ("n", "dim", "queries")}
    data = datasets.load("synthetic", cache=cache, progress=False, **given)
    workload = make_workload(data, None)
    builder = Builder(
        workload,
        cache / "cache",
        BuildSettings(task["build_threads"], workload.dims),
        rebuild=task["rebuild"],
        any_source=task["any_source"],
    )
    built = builder.find_or_build(make(KEY))
    workload = replace(workload, dims=workload.dims[-1:])  # no other is judged
    truth = load_or_find(workload, k, cache / "cache", lambda rows: None)
    return sweep(built.path, workload, truth, task) | built.record()


def sweep(path: Path, workload: Any, truth: Any, task: Record) -> Record:
    """Answer, time and count every shortlist, until more of it is of no use."""
    from benchmarks.metrics import knn_recall
    from benchmarks.systems import make

    k, queries = task["k"], workload.queries
    system = make(KEY)
    system.open(path, task["threads"])
    run = next(run for run in system.runs if run.name == RUN)
    efforts = [s for s in run.efforts(task["sweep"], k) if s <= workload.shape[0]]
    points = [Point(system, RUN, run.knob, shortlist) for shortlist in efforts]
    judge = partial(knn_recall, workload, truth)
    with quiet(task["threads"]), FunnelIndex.open(path / "index.funnel") as index:
        answered = list(answer_points(points, queries, k, judge))
        timings = {point: Timing() for point, _, _ in answered}
        for _ in range(task["rounds"]):
            for _ in time_round(list(timings), queries, k, timings):
                pass
        few = queries[:COUNTED_QUERIES]
        swept = [
            {
                "shortlist": point.effort,
                "knn_recall": recall,
                "us": float(np.median(timings[point].batch_us)),
                "us_of_rounds": timings[point].batch_us,
                "single_p50_us": timings[point].single_stats()["p50"],
                **read_by(index, few, k, point.effort),
            }
            for point, _, recall in answered
        ]
    return {"sweep": swept}


def read_by(index: FunnelIndex, queries: np.ndarray, k: int, shortlist: int) -> Record:
    """Return the rows that a query scores on the way, and those it reranks."""
    given = {"k": k, "shortlist": shortlist, "threads": 1}
    trace = index.search(queries, trace=True, **given).trace
    reranked = [stage.rows_in for stage in trace if stage.name == "rerank"]
    return {
        "rows_scored": trace[0].rows_in / len(queries),
        "rows_reranked": sum(reranked) / len(queries),
        "bytes_read": trace.bytes_read / len(queries),
    }


def stream(task: Record) -> Record:
    """Build an index from an iterator, with less memory than its vectors take."""
    limited = limit_memory(task)
    path = Path(task["path"])
    path.mkdir(parents=True, exist_ok=True)
    with PeakMemory() as peak:
        blocks = generated(task, path / "queries.npy")
        start = time.perf_counter()
        index = FunnelIndex.build(
            blocks,
            path=path / "index.funnel",
            projection="pca",
            dtype=task["dtype"],
            graph_dim=task["graph_dim"],
            builder=task["builder"],
            threads=task["build_threads"],
            overwrite=True,
        )
        build_s = time.perf_counter() - start
    chosen = ("graph_dim", "code_dim", "projection")
    return limited | {
        "build_s": build_s,
        "disk_bytes": index.info["disk_bytes"],
        "params": {name: getattr(index, name) for name in chosen}
        | {"builder": index.info["graph"].get("builder")},
        **peaks(limited, peak),
    }


def generated(task: Record, queries: Path) -> Iterator[np.ndarray]:
    """Save the queries, then return an iterator over the corpus's blocks.

    It alone holds the generator, which is gone when the last block has been taken.
    """
    generator = Generator(task["n"], task["dim"])
    np.save(queries, generator.queries(TEST, task["queries"])[0])
    dtype = np.dtype(task["dtype"])
    numbers = range(-(-task["n"] // BLOCK_ROWS))
    return (generator.block(number).astype(dtype) for number in numbers)


def search(task: Record) -> Record:
    """Open what `stream` built, sweep the shortlist, judge by the engine's own scan."""
    limited = limit_memory(task)
    path, k, threads = Path(task["path"]), task["k"], task["threads"]
    queries = np.load(path / "queries.npy")
    with PeakMemory() as peak, FunnelIndex.open(path / "index.funnel") as index:
        with quiet(threads):
            swept, answers = time_shortlists(index, queries, task)
            resident = (anonymous_bytes() or 0) - limited["anon_bytes_before"]
        few = queries[: task["judged"]]
        with quiet(task["build_threads"]):
            start = time.perf_counter()
            exact = index.search(few, k=k, mode="exact", threads=threads).ids
            exact_us = (time.perf_counter() - start) * 1e6 / len(few)
    for one, rows in zip(swept, answers, strict=True):
        one["knn_recall"] = shared(rows[: len(few)], exact)
    kept = [one["knn_recall"] for one in swept]
    ends = [at for at in range(1, len(kept)) if has_ended(kept[:at])]
    found = {"sweep": swept[: ends[0]] if ends else swept, "judged": len(few)}
    found |= {"anon_bytes": resident, "exact_us": exact_us}
    return limited | found | peaks(limited, peak)


def time_shortlists(
    index: FunnelIndex, queries: np.ndarray, task: Record
) -> tuple[list[Record], list[np.ndarray]]:
    """Return what each shortlist took and read, and what it answered."""
    swept, answers = [], []
    for shortlist in (s for s in task["sweep"] if task["k"] <= s <= len(index)):
        given = {"k": task["k"], "shortlist": shortlist, "threads": task["threads"]}

        def ask(some: np.ndarray, given: Record = given) -> np.ndarray:
            return index.search(some, **given).ids

        faults, start = major_faults(), time.perf_counter()
        answers.append(ask(queries))
        first_us = (time.perf_counter() - start) * 1e6 / len(queries)
        times = [time_batch(ask, queries) for _ in range(task["rounds"])]
        one = {"shortlist": shortlist, "first_us": first_us}
        one |= {"us": float(np.median(times)), "us_of_rounds": times}
        one["major_faults"] = major_faults() - faults
        few = queries[:COUNTED_QUERIES]
        swept.append(one | read_by(index, few, task["k"], shortlist))
    return swept, answers


def shared(rows: np.ndarray, exact: np.ndarray) -> float:
    """Return the share of the exact rows (q, k) that are among the found ones."""
    hit = (exact[:, :, None] == rows[:, None, :]).any(axis=2)
    return float(hit.mean())


def limit_memory(task: Record) -> Record:
    """Let this process have no more writable memory of its own than the task says.

    Maps of files do not count. Says what it had before, and whether an array as large
    as the vectors is refused now.

    Raises
    ------
    SystemExit
        If Python and the libraries alone take more.
    """
    limit, vectors = task["limit_bytes"], task["vector_bytes"]
    taken = status_bytes("VmData")
    if taken is not None and taken >= limit:
        sys.exit(f"a limit of {limit:,} bytes is below the {taken:,} of bare Python")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        np.empty(vectors, np.uint8)
        refused = False
    except MemoryError:
        refused = True
    before = anonymous_bytes() or 0
    return {"refuses_the_vectors": refused, "anon_bytes_before": before}


def status_bytes(field: str) -> int | None:
    """Return a size that /proc tells of this process; None where there is none.

    ``VmData`` is what RLIMIT_DATA counts, ``VmHWM`` the most that was resident.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith(field)]
    return int(found[0].split()[1]) * 1024 if found else None


def major_faults() -> int:
    """Pages that this process had to wait for the disk for."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def peaks(limited: Record, peak: PeakMemory) -> Record:
    """Return the most memory that was resident: of its own, and with mapped files."""
    added = peak.added_bytes
    anon = None if added is None else limited["anon_bytes_before"] + added
    return {"peak_anon_bytes": anon, "peak_rss_bytes": status_bytes("VmHWM")}


VERBS = {"point": measure_point, "stream": stream, "search": search}


def main(verb: str, task: str, out: str) -> None:
    """Do what the parent asked."""
    found = VERBS[verb](json.loads(Path(task).read_text()))
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
