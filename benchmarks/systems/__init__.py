"""The systems that are compared: what an adapter has to offer, and where each one is.

It does not time, judge or cache anything: `benchmarks.builds`, `benchmarks.measure`
and `benchmarks.probe` do, in the same way for every system, so that no system reports
its own speed or size. To add a peer, write one file with a class that fits `System`
and add its line to `REGISTRY`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

Search = Callable[[np.ndarray], np.ndarray]
"""Normalised float32 queries, shape (q, full_dim) → rows, int64 (q, k), −1 pads."""


class Run(NamedTuple):
    """One way to search a system: its name, and the knob that sets the effort.

    `knob` is the field's name of the number (``"ef_search"``, ``"shortlist"``), or
    None for an exhaustive search that has none; less than `least` × k changes nothing.
    `sweep` holds the efforts of a knob that the plan's do not suit. A system with a
    second knob has a run for each of its values; only `benchmarks.peers` asks for
    those that are `extra`.
    """

    name: str
    knob: str | None = None
    least: float = 1
    sweep: tuple[int, ...] = ()
    extra: bool = False

    def efforts(self, planned: Iterable[int], k: int) -> list[int | None]:
        """Return the efforts to sweep, ascending: its own, or those `planned`."""
        if self.knob is None:
            return [None]
        if self.sweep:
            return list(self.sweep)
        return sorted(effort for effort in planned if effort >= self.least * k)

    def near(self, effort: int) -> int:
        """Return `effort`, or what comes nearest to it in a sweep of its own."""
        return min(self.sweep, key=lambda one: abs(one - effort), default=effort)


def family(run: str) -> str:
    """Return the run that `run` is a curve of: "funnel_pca" of "funnel_pca+20"."""
    return run.partition("+")[0]


def grid(main: str, runs: Iterable[Run]) -> tuple[Run, ...]:
    """Return `runs` over a second knob, all `extra` but the one named `main`."""
    return tuple(run._replace(extra=run.name != main) for run in runs)


class BuildSettings(NamedTuple):
    """What every build is told: threads, the nested dims of the data set, the seed."""

    threads: int
    dims: tuple[int, ...]
    seed: int = 0


class Work(NamedTuple):
    """What a query costs beside time; None where a library does not say.

    `mflops` counts a multiply and add as one, as the MRL paper does: dims × rows of
    the first scoring, plus dims × rows of each rerank. `bytes` are those of the codes
    and vectors that were read.
    """

    mflops: float | None
    bytes: float | None


class System(Protocol):
    """One library with one way to build an index, saved in one folder."""

    key: str
    """Names the folder and the registry's entry, e.g. ``"funnel-pca"``."""
    name: str
    """Names the library in the results, e.g. ``"funnel"``."""
    params: dict[str, object]
    """What the index was built with; part of the folder's name and of every row."""
    runs: tuple[Run, ...]
    """The ways to search it."""

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Build over normalised float32 rows and save into the empty folder `path`.

        Returns what the library chose itself (to be shown beside `params`).
        """
        ...

    def open(self, path: Path, threads: int) -> None:
        """Open what `build` saved, to be searched with `threads` threads."""
        ...

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Set the effort of `run` and return its search, valid until the next call.

        The caller times the returned function alone: everything that a user would do
        once (setting ``ef``, making a plan) belongs here.
        """
        ...

    def work(self, run: str, k: int, effort: int, queries: np.ndarray) -> Work:
        """Count what one query costs on average: a mean over `queries`."""
        ...


class CompiledSystem(System, Protocol):
    """A system that compiles on first use and times its own kernels: ours."""

    def warm(self) -> float:
        """Compile all that a search of the open index needs; seconds."""
        ...

    def traced(self, run: str, k: int, effort: int) -> Callable[[np.ndarray], float]:
        """Return a search that says how long it was in compiled code, µs."""
        ...


class Uncounted:
    """For libraries that do not say what a query read."""

    def work(self, run: str, k: int, effort: int, queries: np.ndarray) -> Work:
        """Unknown."""
        return Work(None, None)


class Entry(NamedTuple):
    """Where an adapter is: import `module`, call `factory`; who publishes its library.

    The plain command takes the entries that are `main`, ``--peers`` all but `funnel`.
    """

    key: str
    name: str
    module: str
    factory: str
    package: str = "faiss-cpu"
    main: bool = False


def _peer(
    key: str, module: str, factory: str, package: str = "faiss-cpu", main: bool = False
) -> Entry:
    return Entry(key, key, module, factory, package, main)


def _ours(key: str, factory: str, main: bool = True) -> Entry:
    return Entry(key, "funnel", "funnel_index", factory, "funnel-index", main)


REGISTRY = (
    _ours("funnel-prefix", "over_prefix"),
    _ours("funnel-pca", "over_principal_axes"),
    _ours("funnel-paper", "as_in_the_paper"),
    _ours("funnel-f16", "stored_as_halves", main=False),
    _peer("faiss-flat", "faiss_flat", "FaissFlat", main=True),
    _peer("faiss-hnsw-sq8", "faiss_hnsw", "FaissHnswSq8", main=True),
    _peer("hnswlib", "hnswlib_full", "HnswlibFull", "hnswlib", main=True),
    _peer("diy", "diy", "Diy"),
    _peer("two-stage", "two_stage", "TwoStage", "hnswlib"),
    _peer("faiss-hnsw", "faiss_hnsw", "FaissHnsw"),
    _peer("faiss-hnsw-rabitq", "faiss_hnsw", "FaissHnswRabitq"),
    _peer("faiss-hnsw-panorama", "faiss_hnsw", "FaissHnswPanorama"),
    _peer("faiss-ivfpq-fs", "faiss_ivfpq", "FaissIvfPqFastScan"),
    _peer("usearch-f32", "usearch_index", "in_float32", "usearch"),
    _peer("usearch-f16", "usearch_index", "in_float16", "usearch"),
    _peer("usearch-i8", "usearch_index", "in_int8", "usearch"),
    _peer("voyager-f32", "voyager_index", "in_float32", "voyager"),
    _peer("voyager-e4m3", "voyager_index", "in_e4m3", "voyager"),
    _peer("scann", "scann_index", "Scann", "scann"),
    _peer("ngt-anng", "ngt_index", "anng", "ngt"),
    _peer("ngt-onng", "ngt_index", "onng", "ngt"),
    _peer("ngt-qg", "ngt_index", "qg", "ngt"),
    _peer("lancedb-ivf-hnsw-sq", "lancedb_index", "hnsw_sq", "lancedb"),
    _peer("lancedb-ivf-pq", "lancedb_index", "ivf_pq", "lancedb"),
    _peer("zvec", "zvec_index", "in_float32", "zvec"),
    _peer("zvec-int8", "zvec_index", "in_int8", "zvec"),
    _peer("zvec-rabitq", "zvec_index", "in_rabitq", "zvec"),
    _peer("pynndescent", "pynndescent_index", "in_float32", "pynndescent"),
    _peer("pynndescent-int8", "pynndescent_index", "in_int8", "pynndescent"),
)

NAMES = tuple(dict.fromkeys(entry.name for entry in REGISTRY))
"""What ``--systems`` accepts."""

MAIN = tuple(dict.fromkeys(entry.name for entry in REGISTRY if entry.main))
"""What the plain command measures."""

PEERS = tuple(name for name in NAMES if name != "funnel")
"""What ``--peers`` measures `funnel` against."""


def entry_of(key: str) -> Entry:
    """Return the registry's line of a system's key."""
    return next(entry for entry in REGISTRY if entry.key == key)


def make(key: str) -> System:
    """Return a new, unopened adapter; ImportError if its library is missing."""
    entry = entry_of(key)
    module = importlib.import_module(f"{__name__}.{entry.module}")
    return getattr(module, entry.factory)()


def main_run(system: System) -> Run:
    """Return the run that stands for a system where one has to: the last main one."""
    return [run for run in system.runs if not run.extra][-1]


def available(names: Iterable[str]) -> tuple[list[System], dict[str, str]]:
    """Return adapters of the systems `names`, and why others cannot be had.

    Returns
    -------
    systems : list of System
        In the registry's order.
    missing : dict
        Name of a system → the message of its ImportError.
    """
    wanted, systems, missing = set(names), [], {}
    for entry in REGISTRY:
        only_beside_peers = entry.name == "funnel" and not entry.main
        if entry.name not in wanted or only_beside_peers:
            continue
        try:
            systems.append(make(entry.key))
        except ImportError as error:
            missing[entry.name] = str(error)
    return systems, missing
