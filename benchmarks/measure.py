"""Times searches so that they can be compared: warmed up, interleaved, medians.

Every system gets the same queries and threads, in one process. A round measures every
point once, in an order of its own; a figure is the median of the rounds. Compiling and
first calls happen before the first round. It does not judge answers, and it measures
no memory and no start-up (`benchmarks.probe` does, in fresh processes). Called by
`benchmarks.run`.

q = queries, k = rows asked for.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.systems import Search, System

ROW_BUDGET_S, CURVE_BUDGET_S = 1.0, 0.05  # single calls of a point in a round
FEWEST_SINGLES = 20
WARM_QUERIES = 16
SHORTEST_BATCH_S = 0.02
GOOD_ENOUGH = 0.998
NO_GAIN, NO_GAIN_POINTS = 0.0002, 4


@dataclass(frozen=True)
class Point:
    """One system, run and effort; `effort` is None for a run without a knob.

    `chosen` points are rows of the results, the others only points of a curve.
    """

    system: System
    run: str
    knob: str | None
    effort: int | None
    chosen: bool = False

    def search(self, k: int) -> Search:
        """Set the effort and return the search."""
        return self.system.prepare(self.run, k, self.effort or k)


@dataclass
class Timing:
    """What the rounds gave, one entry a round."""

    batch_us: list[float] = field(default_factory=list)
    """One batch of all queries, µs a query."""
    single_us: list[np.ndarray] = field(default_factory=list)
    """Each single call, µs."""

    def single_stats(self) -> dict[str, float]:
        """Mean, p50, p95 and p99 of the single calls: each a median of the rounds."""
        found = {"mean": [np.mean(us) for us in self.single_us]}
        for share in (50, 95, 99):
            found[f"p{share}"] = [np.percentile(us, share) for us in self.single_us]
        return {name: float(np.median(values)) for name, values in found.items()}


@contextlib.contextmanager
def quiet(threads: int) -> Iterator[None]:
    """Hold BLAS and OpenMP to `threads`, and the garbage collector off.

    OpenBLAS and OpenMP start a thread a core when they are loaded. The limit is set
    while the clock runs, not by environment variables, because builds and the search
    for the exact answers may use every core, and because this reaches every copy
    that NumPy, faiss and scikit-learn bring along.
    """
    gc.collect()
    gc.disable()
    try:
        with threadpool_limits(limits=threads):
            yield
    finally:
        gc.enable()


def answer_points(
    points: Iterable[Point],
    queries: np.ndarray,
    k: int,
    knn_recall: Callable[[np.ndarray], float],
) -> Iterator[tuple[Point, np.ndarray, float]]:
    """Answer all queries at every point: the answers to judge, and the warm-up.

    A curve ends at its first point with knn_recall of 0.998, and where four points in
    a row gained less than 0.0002: from there on, more effort only costs time.
    Chosen points are answered in any case. `points` holds each curve in order of
    effort.

    Yields
    ------
    point, rows, knn_recall
        The answers (q, k) with their share of the exact neighbours.
    """
    curves: dict[tuple[str, str], list[float]] = {}
    for point in points:
        curve = curves.setdefault((point.system.key, point.run), [])
        if has_ended(curve) and not point.chosen:
            continue
        rows = np.asarray(point.search(k)(queries)).astype(np.int64)
        curve.append(knn_recall(rows))
        yield point, rows, curve[-1]


def has_ended(curve: list[float]) -> bool:
    """Tell whether more effort is of no use, from a curve's knn_recall so far."""
    last = curve[-NO_GAIN_POINTS:]
    stuck = len(last) == NO_GAIN_POINTS and last[-1] - last[0] < NO_GAIN
    return bool(curve) and (max(curve) >= GOOD_ENOUGH or stuck)


def time_round(
    points: list[Point], queries: np.ndarray, k: int, timings: dict[Point, Timing]
) -> Iterator[Point]:
    """Measure every point once and append to its timing; yield it when done.

    The order differs from round to round, so that no point always follows another.
    """
    n_round = len(next(iter(timings.values())).batch_us) if timings else 0
    order = np.random.default_rng(n_round).permutation(len(points))
    for point in (points[i] for i in order):
        budget_s = ROW_BUDGET_S if point.chosen else CURVE_BUDGET_S
        time_point(point.search(k), queries, timings[point], budget_s, n_round)
        yield point


def time_point(
    search: Search, queries: np.ndarray, timing: Timing, budget_s: float, n_round: int
) -> None:
    """Warm up, time one batch and as many single calls as fit in `budget_s`."""
    search(queries[:WARM_QUERIES])
    timing.batch_us.append(time_batch(search, queries))
    singles = _some_queries(queries, budget_s, search, n_round)
    timing.single_us.append(time_singles(search, singles))


def time_batch(search: Search, queries: np.ndarray) -> float:
    """Return the time of one call with all queries, µs a query.

    A mean of as many calls as take 20 ms: few queries are over before the clock and
    the scheduler can be told from the search.
    """
    calls, start, taken_s = 0, time.perf_counter(), 0.0
    while taken_s < SHORTEST_BATCH_S:
        search(queries)
        calls += 1
        taken_s = time.perf_counter() - start
    return taken_s * 1e6 / calls / len(queries)


def time_singles(search: Search, queries: np.ndarray) -> np.ndarray:
    """Return the time of one call for each query, µs, shape (q,)."""
    calls = [queries[i : i + 1] for i in range(len(queries))]
    times = np.empty(len(calls), dtype=np.int64)
    clock = time.perf_counter_ns
    for i, query in enumerate(calls):
        start = clock()
        search(query)
        times[i] = clock() - start
    return times / 1e3


def _some_queries(
    queries: np.ndarray, budget_s: float, search: Search, n_round: int
) -> np.ndarray:
    """All queries, or as many as fit in `budget_s`: other ones in each round.

    A few calls are timed first: a scan's single call can cost ten times its share of
    a batch.
    """
    once_us = np.median(time_singles(search, queries[:3]))
    affordable = max(FEWEST_SINGLES, int(budget_s * 1e6 / once_us))
    if affordable >= len(queries):
        return queries
    step = len(queries) // affordable
    return np.ascontiguousarray(queries[n_round % step :: step][:affordable])


def call_overhead_us(point: Point, queries: np.ndarray, k: int) -> float | None:
    """Return what one Python call costs beyond its kernels, µs; None if not known.

    For each query: the time of a single call minus the time that the same call spent
    in compiled code, by the system's own trace; the median of `queries`.
    """
    traced = getattr(point.system, "traced", None)
    if traced is None:
        return None
    search = traced(point.run, k, point.effort or k)
    search(queries[:1])
    found = []
    for i in range(len(queries)):
        query, start = queries[i : i + 1], time.perf_counter_ns()
        kernel_us = search(query)
        found.append((time.perf_counter_ns() - start) / 1e3 - kernel_us)
    return float(np.median(found))
