"""How fast one thread reads memory: in order, by random records, and by a chain.

Small kernels over made-up arrays. They do nothing with what they read but add it up,
one number a cache line where the order is random, so that their time is the memory's;
a figure is the best of a few passes. Pages are small, as those of a mapped file are,
unless huge ones are asked for. It knows no index. Called by `benchmarks.roofline`.
"""

from __future__ import annotations

import contextlib
import mmap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from funnel.kernels.codes import code_offset
from funnel.kernels.fours import FOUR
from funnel.kernels.jit import LINE_BYTES, prefetch_far
from funnel.kernels.pool import LOWEST_SCORE, ROOM
from funnel.kernels.sweep import scan

WORDS = LINE_BYTES // 8  # of 8 bytes, in a line
PASSES = 5
MOST_READS, MOST_READ_BYTES = 2_000_000, 1 << 29
CHAIN_STEPS = 1_000_000
AHEAD = (0, 1, 2, 4, 8, 16, 32)  # records that are asked for before they are read
CODE_BYTES, CODES_KEPT = 64, 10
USUAL_CACHES = {"L2": 1 << 20, "L3": 32 << 20}
CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@numba.njit(nogil=True)
def read_in_order(words: Any) -> Any:
    """Add up all words."""
    total = np.uint64(0)
    for i in range(len(words)):
        total += words[i]
    return total


@numba.njit(nogil=True)
def read_records(records: Any, order: Any, ahead: int) -> Any:
    """Touch every line of the records of `order`, asking for one `ahead` of it.

    Parameters
    ----------
    records : (r, w) uint64
    order : (reads,) uint32
    ahead : int
        Zero leaves it to the processor to look ahead.
    """
    total, last = np.uint64(0), len(order) - 1
    n_bytes = 8 * records.shape[1]
    for i in range(len(order)):
        if ahead > 0:
            coming = order[min(i + ahead, last)]
            for byte in range(0, n_bytes, LINE_BYTES):
                prefetch_far(records, coming, byte)
        record = records[order[i]]
        for j in range(0, len(record), WORDS):
            total += record[j]
    return total


@numba.njit(nogil=True)
def follow(lines: Any, steps: int) -> Any:
    """Follow a chain: the first word of a line is the number of the next one."""
    at = np.uint64(0)
    for _ in range(steps):
        at = lines[at, 0]
    return at


def allocate(n_bytes: int, *, huge: bool = False) -> np.ndarray:
    """Return words of memory whose pages exist, small or (where it is let) huge ones.

    Where the platform has no such advice, pages are what they are by default.
    """
    size = max(mmap.PAGESIZE, n_bytes // mmap.PAGESIZE * mmap.PAGESIZE)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    words = np.frombuffer(memory, np.uint64)
    words[:] = np.arange(len(words), dtype=np.uint64)
    return words


def huge_bytes() -> int:
    """Bytes of this process in huge pages; 0 where that is not known."""
    try:
        text = Path("/proc/self/smaps_rollup").read_text()
    except OSError:
        return 0
    found = [line for line in text.splitlines() if line.startswith("AnonHugePages")]
    return int(found[0].split()[1]) * 1024 if found else 0


def cache_sizes() -> dict[str, int]:
    """Bytes of the second and third cache; usual sizes where nobody says."""
    sizes = dict(USUAL_CACHES)
    for folder in sorted(CPU_CACHES.glob("index*")):
        with contextlib.suppress(OSError, ValueError):
            level = "L" + (folder / "level").read_text().strip()
            if level in sizes:
                kib = (folder / "size").read_text().strip().removesuffix("K")
                sizes[level] = int(kib) << 10
    return sizes


def best_ns(work: Callable[[], Any], passes: int = PASSES) -> float:
    """Return the time of the fastest pass, after one that does not count."""
    work()
    times = []
    for _ in range(passes):
        start = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - start)
    return float(max(1, min(times)))


def in_order_gb_s(words: np.ndarray) -> float:
    """Return how fast an array is read from end to end, GB/s."""
    return words.nbytes / best_ns(lambda: read_in_order(words))


def record_ns(words: np.ndarray, record_bytes: int, seed: int = 0) -> tuple[float, int]:
    """Return the time of an independent random record, and the best look-ahead.

    Parameters
    ----------
    words : uint64 array
        The working set.
    record_bytes : int
        Rounded up to whole lines.
    """
    width = -(-record_bytes // LINE_BYTES) * WORDS
    records = words[: len(words) // width * width].reshape(-1, width)
    order = _order(len(records), 8 * width, seed)
    found = {
        ahead: best_ns(lambda ahead=ahead: read_records(records, order, ahead))
        for ahead in AHEAD
    }
    best = min(found, key=lambda ahead: found[ahead])
    return found[best] / len(order), best


def _order(records: int, record_bytes: int, seed: int) -> np.ndarray:
    """Draw as many records as are read in a pass: each once or, of few, often."""
    most = min(MOST_READS, max(256, MOST_READ_BYTES // record_bytes))
    rng = np.random.default_rng(seed)
    wanted = min(most, 8 * records)
    if wanted <= records:
        return rng.choice(records, wanted, replace=False).astype(np.uint32)
    rounds = [rng.permutation(records) for _ in range(-(-wanted // records))]
    return np.concatenate(rounds)[:wanted].astype(np.uint32)


def chain_ns(words: np.ndarray, steps: int = CHAIN_STEPS, seed: int = 0) -> float:
    """Return the time of a random line whose address the line before it holds.

    Writes one cycle through all lines into `words`.
    """
    lines = words[: len(words) // WORDS * WORDS].reshape(-1, WORDS)
    cycle = np.random.default_rng(seed).permutation(len(lines))
    lines[cycle, 0] = np.roll(cycle, -1)
    return best_ns(lambda: follow(lines, steps), passes=3) / steps


def code_scan_gb_s(words: np.ndarray, seed: int = 0) -> float:
    """Return how fast the engine's own kernel scans int8 codes, GB/s."""
    n_lines = words.nbytes // CODE_BYTES
    codes = words.view(np.int8)[: n_lines * CODE_BYTES].reshape(-1, CODE_BYTES)
    rng = np.random.default_rng(seed)
    query = rng.integers(-127, 128, CODE_BYTES).astype(np.int8)
    pool, offset = np.empty(CODES_KEPT + ROOM, np.int64), code_offset(query)
    all_pass, four = np.empty(0, np.uint8), np.empty(FOUR, np.int32)
    taken = best_ns(
        lambda: scan(
            query, offset, codes, all_pass, CODES_KEPT, LOWEST_SCORE, pool, four
        ),
        passes=3,
    )
    return codes.nbytes / taken


def measure(n_bytes: int, row_bytes: int, *, huge: bool = False) -> dict[str, Any]:
    """Measure all of it over `n_bytes` of memory, which should be far beyond the L3.

    Parameters
    ----------
    n_bytes : int
        The largest working set.
    row_bytes : int
        Of a stored vector.
    huge : bool
        Ask for huge pages.

    Returns
    -------
    dict
        GB/s of reading in order, of random rows and of scanning codes; ns of a random
        line, in a chain and independent, for working sets of half the second cache,
        half the third, and `n_bytes`.
    """
    before, words = huge_bytes(), allocate(n_bytes, huge=huge)
    got_huge = huge_bytes() - before > n_bytes // 2
    row_ns, ahead = record_ns(words, row_bytes)
    found = {
        "pages": "huge" if got_huge else "small",
        "bytes": words.nbytes,
        "in_order_gb_s": in_order_gb_s(words),
        "code_scan_gb_s": code_scan_gb_s(words),
        "row_bytes": row_bytes,
        "random_rows_gb_s": row_bytes / row_ns,
        "rows_ahead": ahead,
        "working_sets": [],
    }
    halves = {f"half of {name}": size // 2 for name, size in cache_sizes().items()}
    for name, size in (halves | {"memory": n_bytes}).items():
        part = words[: min(size, n_bytes) // 8]
        line_ns, ahead = record_ns(part, LINE_BYTES)
        one = {"name": name, "bytes": part.nbytes, "lines_ahead": ahead}
        one |= {"independent_ns": line_ns, "chain_ns": chain_ns(part)}
        found["working_sets"].append(one)
    return found
