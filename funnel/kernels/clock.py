"""The kernels' clock: how many of its ticks make a microsecond.

Called by `search.py`.
"""

from __future__ import annotations

import functools
import time
from typing import Any

from funnel.kernels.jit import kernel, ticks

MEASURED_NS = 2_000_000


@kernel
def now() -> Any:
    """Return the kernels' count of time."""
    return ticks()


@functools.cache
def ticks_per_us() -> float:
    """Return how many ticks pass in a microsecond, as measured for two milliseconds."""
    now()  # compiled
    began, first = time.perf_counter_ns(), now()
    while time.perf_counter_ns() - began < MEASURED_NS:
        pass
    last, ended = now(), time.perf_counter_ns()
    return float(1e3 * (last - first) / (ended - began))
