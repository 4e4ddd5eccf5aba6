"""One writer, many readers: every answer is right for the version it was read at.

``python -m reliability.concurrent [--seconds S] [--readers N] [--processes]``. The
writer adds, replaces and deletes rows, with merges behind its back and compactions in
between; segments have graphs from 20 rows on. Readers search without a lock. Each of
their answers is compared with a scan of what the index held at that version. Whoever
read may have nothing open at the end, and no more memory than before; how long the
slowest answers take beside a compaction is told. Talks to nobody, and stops by itself.

n = rows, d = dims, q = answers.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import functools
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import funnel.merging
from funnel import FunnelIndex
from reliability.changes import lowered_thresholds

DIM, START_ROWS, MOST_ROWS, K = 32, 400, 1500, 5
NUMBERS = 3000  # of vectors that are searched for
CLOSE = 1e-5
COMPACT_EVERY = 20  # changes
WARM = 0.25  # the share of the time after which memory may not grow
GROWTH_BYTES = 32 << 20  # … but by this: what an allocator keeps
START_S = 120.0  # how long readers wait for each other
FEW = 100  # answers: of less there is no 99th percentile
State = dict[int, int]  # id → number of its vector
Span = tuple[float, float]  # of the system's clock, s
RECORD = np.dtype(
    [("number", "i4"), ("version", "i8"), ("began", "f8"), ("took", "f4"),
     ("count", "i4"), ("ids", "i8", (K,)), ("scores", "f4", (K,))]
)  # fmt: skip


@functools.cache
def vector(number: int) -> np.ndarray:
    """Return the vector of a number, float32 (d,)."""
    return np.random.default_rng(number).standard_normal(DIM).astype(np.float32)


@dataclass
class History:
    """What the index held at each version that the writer looked at."""

    versions: list[int] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)  # (2, n): ids, and numbers

    def add(self, version: int, state: State) -> None:
        """Note what a version holds."""
        self.versions.append(version)
        self.states.append(np.array([[*state], [*state.values()]], np.int32))

    def around(self, version: int) -> list[State]:
        """Return what a version may hold: nobody looked at those that merges made."""
        at = bisect.bisect_left(self.versions, version)
        some = self.states[max(0, at - 1) : at + 1]
        return [dict(zip(*state.tolist(), strict=True)) for state in some]

    def of(self, version: int) -> list[State]:
        """Return what a version held; what it may have held if nobody looked at it."""
        at = bisect.bisect_left(self.versions, version)
        known = self.versions[at : at + 1] == [version]
        return self.around(version)[-1:] if known else self.around(version)


@dataclass(frozen=True)
class Answer:
    """What a reader found: for the vector of a number, at a version."""

    number: int
    version: int
    ids: list[int]
    scores: list[float]

    def record(self, began: float = 0.0, took: float = 0.0) -> np.ndarray:
        """Return it as a `RECORD`, (1,)."""
        record, count = np.zeros(1, RECORD), len(self.ids)
        record[0] = (
            self.number, self.version, began, took, count,
            [*self.ids, *[-1] * K][:K], [*self.scores, *[0.0] * K][:K],
        )  # fmt: skip
        return record


def are_right(records: np.ndarray, state: State) -> np.ndarray:
    """Compare answers with a scan of a state, by the scores of the returned rows.

    Parameters
    ----------
    records : (q,) RECORD
    state : State

    Returns
    -------
    (q,) bool
    """
    ids, count = np.array(sorted(state), np.int64), min(K, len(state))
    right = records["count"] == count
    if not count:
        return right
    rows = np.array([vector(state[i]) for i in ids.tolist()], np.float64)
    asked = np.array([vector(number) for number in records["number"].tolist()])
    queries = asked.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scores = queries @ rows.T
    best = -np.sort(np.partition(-scores, count - 1, axis=1)[:, :count], axis=1)
    given, told = records["ids"][:, :count], records["scores"][:, :count]
    at = np.minimum(np.searchsorted(ids, given), len(ids) - 1)
    found = np.take_along_axis(scores, at, axis=1)
    distinct = np.diff(np.sort(given, axis=1), axis=1) > 0
    right &= (ids[at] == given).all(axis=1) & distinct.all(axis=1)
    right &= np.isclose(found, told, rtol=0, atol=CLOSE).all(axis=1)
    right &= np.isclose(found, best, rtol=0, atol=CLOSE).all(axis=1)
    return right


def is_right(answer: Answer, state: State) -> bool:
    """Compare one answer, as `are_right` does many."""
    return bool(are_right(answer.record(), state)[0])


def count_wrong(records: np.ndarray, history: History) -> int:
    """Return how many answers are wrong for the version that they show."""
    wrong = 0
    for version in np.unique(records["version"]).tolist():
        some = records[records["version"] == version]
        right = np.zeros(len(some), bool)
        for state in history.of(version):
            right |= are_right(some, state)
        wrong += int((~right).sum())
    return wrong


# ---- the writer


@dataclass
class Written:
    """What a writer did.

    Parameters
    ----------
    history : History
    merges, compactions : list of Span
        When they were under way.
    graphs : int
        The most segments with a graph in one version.
    """

    history: History = field(default_factory=History)
    merges: list[Span] = field(default_factory=list)
    compactions: list[Span] = field(default_factory=list)
    graphs: int = 0


@contextlib.contextmanager
def noted_merges(spans: list[Span]) -> Iterator[None]:
    """Note when merges of this process are under way."""
    merge_once = funnel.merging.Merger._merge_once

    def noted(*args: Any) -> bool:
        began = time.monotonic()
        merged = merge_once(*args)
        if merged:
            spans.append((began, time.monotonic()))
        return merged

    funnel.merging.Merger._merge_once = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        funnel.merging.Merger._merge_once = merge_once  # type: ignore[method-assign]


def write(path: Path, seconds: float, seed: int) -> Written:
    """Change the index until the time is over; return what it held."""
    rng, done = np.random.default_rng(seed), Written()
    state = {i: i for i in range(START_ROWS)}
    with noted_merges(done.merges), FunnelIndex.open(path, "rw") as index:
        done.history.add(index.versions()[-1], state)
        end, step, fresh = time.monotonic() + seconds, 0, START_ROWS
        while time.monotonic() < end:
            step += 1
            fresh = change(index, state, fresh, rng)
            if step % COMPACT_EVERY == 0:
                began = time.monotonic()
                index.compact(keep_versions=3)
                done.compactions.append((began, time.monotonic()))
            done.history.add(index.versions()[-1], state)
            graphs = sum(bool(one.graph) for one in index._manifest.segments)
            done.graphs = max(done.graphs, graphs)
    return done


def change(
    index: FunnelIndex, state: State, fresh: int, rng: np.random.Generator
) -> int:
    """Make one change to the index and to the state; return the next fresh number."""
    count, kind = int(rng.integers(1, 20)), rng.integers(3)
    numbers = list(range(fresh, fresh + count))
    rows = np.array([vector(number) for number in numbers])
    known = rng.permutation(sorted(state))[:count].tolist()
    if kind == 0 and len(state) < MOST_ROWS:
        index.add(rows, ids=numbers)
        state |= dict(zip(numbers, numbers, strict=True))
    elif kind == 1 and known:
        index.upsert(rows[: len(known)], ids=known)
        state |= dict(zip(known, numbers, strict=False))
    else:
        index.delete(known)
        for one in known:
            del state[one]
    return fresh + count


# ---- readers


@dataclass(frozen=True)
class Read:
    """What a reader is left with; its answers are in a file.

    Parameters
    ----------
    warm_bytes, end_bytes : int
        Anonymous memory of its process: once warm, and at the end.
    left_descriptors, left_maps : int
        Of files of the index, in its process.
    """

    warm_bytes: int
    end_bytes: int
    left_descriptors: int
    left_maps: int


def read(path: Path, out: Path, seconds: float, seed: int) -> Read:
    """Search until the time is over; write each answer to a file."""
    rng, warm_bytes = np.random.default_rng(seed), 0
    for number in range(NUMBERS):
        vector(number)
    with FunnelIndex.open(path) as index, out.open("wb") as answers:
        index.search(vector(0), K, threads=1)
        _wait_for_all()
        start = time.monotonic()
        began, end = start, start + seconds
        while began < end:
            number = int(rng.integers(0, NUMBERS))
            began = time.monotonic()
            hits = index.search(vector(number), K, shortlist=MOST_ROWS * 2, threads=1)
            took = time.monotonic() - began
            found = hits.ids.tolist(), hits.scores.tolist()
            answers.write(Answer(number, hits.version, *found).record(began, took))
            index.refresh()
            if not warm_bytes and began > start + seconds * WARM:
                warm_bytes = anonymous_bytes()
        end_bytes = anonymous_bytes()
    return Read(warm_bytes or end_bytes, end_bytes, **left_open(path))


def anonymous_bytes() -> int:
    """Return this process's own memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the kernel does not say")


def left_open(path: Path) -> dict[str, int]:
    """Return how many descriptors and maps this process has of files of an index."""
    held = []
    for link in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            held.append(str(link.readlink()))
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {
        "left_descriptors": sum(str(path) in one for one in held),
        "left_maps": sum(str(path) in line for line in maps),
    }


_all: list[Any] = []  # the barrier of this process's readers


def _join(barrier: Any) -> None:
    _all[:] = [barrier]


def _wait_for_all() -> None:
    """Wait until all readers and the writer are ready."""
    _all[0].wait(START_S)


def readers_of(count: int, *, processes: bool) -> tuple[Executor, Any]:
    """Return what runs readers, and a barrier for them and the writer."""
    if not processes:
        barrier: Any = threading.Barrier(count + 1)
        return ThreadPoolExecutor(
            count, initializer=_join, initargs=(barrier,)
        ), barrier
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count + 1)
    return ProcessPoolExecutor(count, context, _join, (barrier,)), barrier


def p99_ms(records: np.ndarray, spans: list[Span]) -> dict[str, Any]:
    """Return the 99th percentile of answers that began in a span, and of the others."""
    within = np.zeros(len(records), bool)
    for began, ended in spans:
        within |= (records["began"] >= began) & (records["began"] < ended)
    found: dict[str, Any] = {"answers_in_compaction": int(within.sum())}
    for name, some in (("in_compaction", within), ("otherwise", ~within)):
        took = records["took"][some]
        enough = len(took) >= FEW
        p99 = round(float(np.percentile(took, 99)) * 1e3, 3) if enough else None
        found[f"p99_ms_{name}"] = p99
    return found


def run(
    folder: Path, seconds: float, readers: int, *, processes: bool
) -> dict[str, Any]:
    """Run a writer beside readers; return counts: answers, wrong ones, what leaked."""
    path = folder / "index"
    rows = np.array([vector(number) for number in range(START_ROWS)])
    files = [folder / f"answers-{seed}" for seed in range(readers)]
    with lowered_thresholds():
        FunnelIndex.build(rows, ids=range(START_ROWS), path=path).close()
        with FunnelIndex.open(path) as index:
            index.warmup()
        executor, barrier = readers_of(readers, processes=processes)
        with executor:
            waiting = [
                executor.submit(read, path, file, seconds, seed)
                for seed, file in enumerate(files)
            ]
            barrier.wait(START_S)
            written = write(path, seconds, 0)
            done = [one.result() for one in waiting]
    records = np.concatenate([np.fromfile(file, RECORD) for file in files])
    here = left_open(path)
    grown = max(done, key=lambda one: one.end_bytes - one.warm_bytes)
    left = {n: here[n] + (sum(getattr(one, n) for one in done) if processes else 0)
            for n in here}  # fmt: skip
    return {
        "readers": readers,
        "processes": processes,
        "seconds": seconds,
        "versions": written.history.versions[-1],
        "versions_read": len(np.unique(records["version"])),
        "merges": len(written.merges),
        "compactions": len(written.compactions),
        "graphs": written.graphs,
        "answers": len(records),
        "wrong": count_wrong(records, written.history),
        **left,
        "warm_bytes": grown.warm_bytes,
        "grown_bytes": grown.end_bytes - grown.warm_bytes,
        **p99_ms(records, written.merges + written.compactions),
    }


def is_bad(found: dict[str, Any], slower: float) -> bool:
    """Tell whether counts show a fault.

    Parameters
    ----------
    found : dict
        As `run` returns them.
    slower : float
        How many times slower the slowest answers may be beside a compaction.
    """
    slow, p99 = found["p99_ms_in_compaction"], found["p99_ms_otherwise"]
    return bool(
        found["wrong"]
        or found["left_descriptors"]
        or found["left_maps"]
        or found["answers"] == 0
        or found["grown_bytes"] > GROWTH_BYTES
        or (slow is not None and p99 is not None and slow > slower * p99)
    )


def main() -> int:
    """Run as a command; fails if an answer was wrong or something was left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--readers", type=int, default=16)
    parser.add_argument("--processes", action="store_true")
    slower = "fail if answers' p99 is so many times as much beside compactions"
    parser.add_argument("--slower", type=float, default=float("inf"), help=slower)
    parser.add_argument("--out", type=Path, help="a JSON line of counts")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="funnel-") as folder:
        found = run(Path(folder), args.seconds, args.readers, processes=args.processes)
    sys.stdout.write(json.dumps(found) + "\n")
    if args.out:
        args.out.write_text(json.dumps(found) + "\n")
    return int(is_bad(found, args.slower))


if __name__ == "__main__":
    sys.exit(main())
