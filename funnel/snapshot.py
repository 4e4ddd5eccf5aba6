"""One version of an index, open: mapped arrays, threads, and scratch for walks.

What a search reads; searches nothing itself.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from funnel.errors import ClosedError, CorruptIndexError
from funnel.kernels.codes import code_width, rows_as_codes
from funnel.store.commit import DATA
from funnel.store.manifest import Manifest
from funnel.store.segment import SegmentFiles, map_file

REMEMBERED = 256  # plans
PIECES = 8  # of a batch, a thread: the last ones even out what the others took


class Snapshot:
    """One version of an index, open: mapped arrays, and scratch for walks.

    Parameters
    ----------
    folder : Path
    manifest : Manifest
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        data = folder / DATA
        self.manifest = manifest
        self.segment = SegmentFiles(
            data, manifest.segments[0], manifest.id_kind, code_width(manifest.code_dim)
        )
        self.axes = np.empty((0, 0), np.float32)
        self.axes.flags.writeable = False
        if "axes" in manifest.files:
            self.axes = map_file(data, manifest.files["axes"])
        self.coded_axes = (self.axes, *rows_as_codes(self.axes))
        s = self.segment
        if ((s.entries < 0) | (s.entries >= len(s.codes))).any():
            name = manifest.segments[0].files["entries"].name
            raise CorruptIndexError(f"{data / name}: an entry of the graph is no node")
        entry_codes = s.codes[s.entries]
        entry_codes.flags.writeable = False
        s.entries.flags.writeable = False
        self.graph = (
            s.codes,
            s.neighbours,
            s.entries,
            entry_codes,
            s.node_starts,
            s.node_rows,
            s.loose,
        )
        self.vectors = (s.blocks, s.block_starts, s.norms)
        # Not a method of ours: a cycle would keep the maps after `close`.
        self._remembered = functools.lru_cache(REMEMBERED, typed=True)(
            functools.partial(_make, manifest)
        )
        self._scratch: list[npt.NDArray[np.uint8]] = []
        self._pool: ThreadPoolExecutor | None = None
        self._pool_lock, self._closed = threading.Lock(), False

    def remember(self, make: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``make(manifest, *arguments)``, made once for equal arguments.

        Equal also means of equal type: True is not 1.
        """
        try:
            return self._remembered(make, *arguments)
        except TypeError:  # an argument that has no hash: let `make` judge it
            return make(self.manifest, *arguments)

    def borrow_scratch(self) -> npt.NDArray[np.uint8]:
        """Return a `visited` array that no other thread has."""
        try:
            return self._scratch.pop()
        except IndexError:
            return np.zeros(len(self.segment.codes) + 1, np.uint8)

    def return_scratch(self, visited: npt.NDArray[np.uint8]) -> None:
        """Give a `visited` array back for the next search."""
        self._scratch.append(visited)

    def pool(self) -> ThreadPoolExecutor:
        """Return the threads that batches are shared among."""
        with self._pool_lock:
            if self._closed:
                raise ClosedError("the index was closed while it was searched")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(cpu_count(), "funnel")
            return self._pool

    def close(self) -> None:
        """Stop the threads."""
        with self._pool_lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)


def _make(manifest: Manifest, make: Callable[..., Any], *arguments: Any) -> Any:
    return make(manifest, *arguments)


def cpu_count() -> int:
    """Return the CPUs that this process may run on."""
    return (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else (os.cpu_count() or 1)
    )


def share_queries(
    snapshot: Snapshot, count: int, threads: int, work: Callable[[int, int], Any]
) -> list[Any]:
    """Run ``work(start, stop)`` over slices of `count` queries, in threads.

    The calling thread is one of them. Returns what the calls returned, in any order.
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
        pool = snapshot.pool()
        others = [pool.submit(take) for _ in range(threads - 1)]
    except RuntimeError as error:  # shut down between the two lines
        raise ClosedError("the index was closed while it was searched") from error
    try:
        found = take()
    finally:
        waiting.clear()
        concurrent.futures.wait(others)
    return found + [one for other in others for one in other.result()]
