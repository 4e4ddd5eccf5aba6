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
    """

    name: str
    knob: str | None = None
    least: int = 1


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


class Entry(NamedTuple):
    """Where an adapter is: import `module`, call `factory`."""

    key: str
    name: str
    module: str
    factory: str


REGISTRY = (
    Entry("funnel-prefix", "funnel", "funnel_index", "over_prefix"),
    Entry("funnel-pca", "funnel", "funnel_index", "over_principal_axes"),
    Entry("funnel-paper", "funnel", "funnel_index", "as_in_the_paper"),
    Entry("faiss-flat", "faiss-flat", "faiss_flat", "FaissFlat"),
    Entry("faiss-hnsw-sq8", "faiss-hnsw-sq8", "faiss_hnsw_sq8", "FaissHnswSq8"),
    Entry("hnswlib", "hnswlib", "hnswlib_full", "HnswlibFull"),
)

NAMES = tuple(dict.fromkeys(entry.name for entry in REGISTRY))
"""What ``--systems`` accepts."""


def make(key: str) -> System:
    """Return a new, unopened adapter; ImportError if its library is missing."""
    entry = next(entry for entry in REGISTRY if entry.key == key)
    module = importlib.import_module(f"{__name__}.{entry.module}")
    return getattr(module, entry.factory)()


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
        if entry.name not in wanted:
            continue
        try:
            systems.append(make(entry.key))
        except ImportError as error:
            missing[entry.name] = str(error)
    return systems, missing
