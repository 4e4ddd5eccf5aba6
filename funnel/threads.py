"""The threads that a batch is shared among; they belong to one open handle.

Knows nothing of what they do. Called by `search.py` and `exact.py` through a snapshot.
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from funnel.errors import ClosedError
from funnel.kernels.knobs import TOGETHER

LAST = 24  # the part of a thread's share that the last pieces of a batch are


def cpu_count() -> int:
    """Return the CPUs that this process may run on."""
    return (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else (os.cpu_count() or 1)
    )


def spare_cpus() -> int:
    """Return the CPUs that long work may have while others search: all but one."""
    return max(1, cpu_count() - 1)


def pieces(count: int, threads: int) -> Iterator[tuple[int, int]]:
    """Yield slices of `count` queries, ever shorter: the last ones even out the others.

    Each is half of a thread's share of what is left. A call costs some µs, so that the
    first are long; a thread waits for another as long as a last one takes.
    """
    whole = TOGETHER if count >= 2 * TOGETHER * threads else 1
    least, start = max(1, count // (LAST * threads)), 0
    while start < count:
        size = max(least, (count - start) // (2 * threads))
        stop = min(count, start + -(-size // whole) * whole)
        yield start, stop
        start = stop


class Threads:
    """Threads that start when they are first needed."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._lock, self._closed = threading.Lock(), False
        self._owner = os.getpid()

    def _started(self) -> ThreadPoolExecutor:
        if os.getpid() != self._owner:  # a fork has none of our threads
            self._lock, self._pool, self._owner = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._closed:
                raise ClosedError("the index was closed while it was searched")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(cpu_count(), "funnel")
            return self._pool

    def close(self) -> None:
        """Stop the threads."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)

    def share(
        self, count: int, threads: int, work: Callable[[int, int], Any]
    ) -> list[Any]:
        """Run ``work(start, stop)`` over slices of `count` queries.

        The calling thread is one of `threads`. Returns what the calls returned, in any
        order.
        """
        threads = max(1, min(threads, count))
        if threads == 1:
            return [work(0, count)]
        waiting = collections.deque(pieces(count, threads))

        def take() -> list[Any]:
            done: list[Any] = []
            while True:
                try:
                    start, stop = waiting.popleft()
                except IndexError:
                    return done
                done.append(work(start, stop))

        try:
            pool = self._started()
            others = [pool.submit(take) for _ in range(threads - 1)]
        except RuntimeError as error:  # shut down between the two lines
            raise ClosedError("the index was closed while it was searched") from error
        try:
            found = take()
        finally:
            waiting.clear()
            concurrent.futures.wait(others)
        return found + [one for other in others for one in other.result()]
