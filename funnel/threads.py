"""The threads that a batch is shared among; they belong to one open handle.

Knows nothing of what they do. Called by `search.py` and `exact.py` through a snapshot.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from funnel.errors import ClosedError

PIECES = 8  # of a batch, a thread: the last ones even out what the others took


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
        pieces = min(count, threads * PIECES)
        edges = [count * i // pieces for i in range(pieces + 1)]
        waiting = collections.deque(itertools.pairwise(edges))

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
