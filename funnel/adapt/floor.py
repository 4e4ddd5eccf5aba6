"""The least that reading takes: how fast one thread reads this machine's memory.

Called by `explain.py`. Measures no search.
"""

from __future__ import annotations

import functools
import time

import numpy as np

READ_BYTES = 64 << 20  # beyond the last cache of most machines
PASSES = 3


@functools.cache
def bytes_per_us() -> float:
    """Return how many bytes a µs one thread reads from memory, one after the other.

    The largest of 64 MB of numbers is looked for, and the fastest pass counts. Measured
    once a process, the first time that it is asked for: about a tenth of a second,
    most of it to get the memory.

    It is the speed of a long scan of cold memory. What lies in a cache is read faster,
    so that a step may beat it; rows that are far from each other are read slower. On a
    machine whose caches hold 64 MB, it is the speed of these.
    """
    numbers = np.ones(READ_BYTES // 4, np.float32)
    spent = []
    for _ in range(PASSES):
        began = time.perf_counter_ns()
        numbers.max()
        spent.append(time.perf_counter_ns() - began)
    return READ_BYTES / max(1, min(spent)) * 1e3


def floor_us(read_bytes: int) -> float:
    """Return the µs that reading so many bytes takes, by `bytes_per_us`."""
    return read_bytes / bytes_per_us()
