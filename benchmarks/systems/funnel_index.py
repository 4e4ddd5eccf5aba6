"""`funnel` itself, over its own prefix, over principal axes, and as in the MRL paper.

The only file of the benchmarks that knows the engine's API. Three indexes of the same
vectors, seven runs and the exact scan. Used by `benchmarks.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.systems import BuildSettings, Run, Search, Work, family
from funnel import Cascade, FunnelIndex, Stage

M, EF_CONSTRUCTION = 16, 200
RERANKED = (11, 12, 13, 16, 22, 34, 50, 80)
SLACK_RERANKED = (11, 12, 13, 16, 22, 34, 50, 80)
SLACKS = (20, 50, 80, 110, 150, 200, 260)  # thousandths
LONGEST_WALK = 1000
PAPER_DIMS = (16, 32, 64, 128, 256)


class Funnel:
    """One index and its runs.

    Parameters
    ----------
    key : str
        Names the index in the cache.
    params : dict
        Arguments of `FunnelIndex.build` that differ between the indexes.
    modes : mapping
        Name of each run → the mode of `FunnelIndex.search`; a run with a shortlist
        walks with ``ef_search = shortlist``.
    """

    name = "funnel"

    def __init__(
        self, key: str, params: dict[str, object], modes: Mapping[str, str]
    ) -> None:
        self.key, self._modes = key, dict(modes)
        self.params = params | {"M": M, "ef_construction": EF_CONSTRUCTION}
        knobs = {"exact": None, "prefix": None, "prefix_ann": "ef_search"}
        self.runs = tuple(
            Run(run, knobs.get(mode, "shortlist")) for run, mode in modes.items()
        ) + tuple(
            one
            for run, mode in modes.items()
            if mode == "funnel" and run != "funnel_paper"
            for one in _grid(run)
        )

    def build(
        self, vectors: np.ndarray, path: Path, settings: BuildSettings
    ) -> dict[str, object]:
        """Build and save; says which graph_dim and code_dim the engine took."""
        given = {"dims": settings.dims, "seed": settings.seed} | self.params
        saved, threads = path / "index.funnel", settings.threads
        with FunnelIndex.build(vectors, path=saved, threads=threads, **given) as index:
            names = ("graph_dim", "code_dim", "projection", "builder")
            return {n: getattr(index, n) for n in names if hasattr(index, n)}

    def open(self, path: Path, threads: int) -> None:
        """Map the saved index."""
        self._index = FunnelIndex.open(path / "index.funnel")
        self._threads = threads

    def prepare(self, run: str, k: int, effort: int) -> Search:
        """Make the plan; `effort` is the shortlist, or ef_search without a rerank."""
        search = self._search(run, k, effort)
        return lambda queries: search(queries).ids

    def _search(self, run: str, k: int, effort: int, **more: Any) -> Any:
        """Bind the engine's search to a run: a function of queries that gives hits."""
        mode, given = self._modes[family(run)], {"threads": self._threads, **more}
        if "+" in run:
            return partial(
                self._index.search, k=k, **given, **self._told(run, k, effort)
            )
        if mode == "prefix_ann":
            given["ef_search"] = effort
        elif mode in ("rerank", "funnel"):
            given["shortlist"] = effort
        if run == "funnel_paper":
            full_dim = self._index.dims[-1]
            dims = (*(d for d in PAPER_DIMS if d < full_dim), full_dim)
            given["cascade"] = Cascade.halving(effort, dims, k)
        return partial(self._index.search, k=k, mode=mode, **given)

    def _told(self, run: str, k: int, effort: int) -> dict[str, Any]:
        """Return the arguments of a run of the grid."""
        rows = int(run.partition("+")[2].rstrip("s"))
        cascade = Cascade([Stage(self._index.full_dim, k)])
        walk = {"ef_search": effort}
        if run.endswith("s"):
            walk = {"ef_search": LONGEST_WALK, "slack": effort / 1000}
        return {"shortlist": rows, "cascade": cascade} | walk

    def work(self, run: str, k: int, effort: int, queries: np.ndarray) -> Work:
        """Count as the MRL paper does, from the trace; axes cost a projection too.

        A stage counts all its dims, though the engine only reads the new ones; the
        bytes are those that were really read.
        """
        trace = self._search(run, k, effort, trace=True)(queries).trace
        scored = sum(s.rows_in * s.dim for s in trace if s.name != "cut")
        mflops = scored / len(queries) / 1e6
        if self.params["projection"] == "pca":
            mflops += self._index.dims[-1] * trace[0].dim / 1e6
        return Work(mflops, trace.bytes_read / len(queries))

    def traced(self, run: str, k: int, effort: int) -> Callable[[np.ndarray], float]:
        """Return a search that says how long it was in compiled code, µs."""
        search = self._search(run, k, effort, trace=True)
        return lambda queries: search(queries).trace.kernel_us

    def warm(self) -> float:
        """Compile every kernel; seconds."""
        return self._index.warmup()


def _grid(run: str) -> tuple[Run, ...]:
    """Return the curves that a second knob, the rows reranked, gives a run.

    "funnel_pca+20" reranks 20 rows at full width at once, whatever the walk's
    ef_search; "funnel_pca+20s" ends its walk by slack instead.
    """
    listed = (
        Run(f"{run}+{rows}", "ef_search", rows / 10, extra=True) for rows in RERANKED
    )
    ended = (
        Run(f"{run}+{rows}s", "slack_thousandths", 1, SLACKS, extra=True)
        for rows in SLACK_RERANKED
    )
    return (*listed, *ended)


def over_prefix() -> Funnel:
    """Graph and codes over the embedding's own prefix: the runs of both experiments."""
    modes = ("exact", "prefix", "prefix_ann", "rerank", "funnel")
    same = dict(zip(modes, modes, strict=True))
    return Funnel("funnel-prefix", {"projection": "prefix"}, same)


def over_principal_axes() -> Funnel:
    """Graph and codes over the corpus's principal axes."""
    modes = {"rerank_pca": "rerank", "funnel_pca": "funnel"}
    return Funnel("funnel-pca", {"projection": "pca"}, modes)


def stored_as_halves() -> Funnel:
    """Graph and codes over principal axes, the vectors stored as float16."""
    given = {"projection": "pca", "dtype": "float16"}
    return Funnel("funnel-f16", given, {"funnel_pca_f16": "funnel"})


def as_in_the_paper() -> Funnel:
    """Retrieve at 16 dims, then 200→100→50→25→10 over 32, 64, 128, 256 and all dims.

    The fixed cascade of Kusupati et al. 2022, arXiv:2205.13147, section 4.3.1.
    """
    params = {"projection": "prefix", "graph_dim": 16, "code_dim": 16}
    return Funnel("funnel-paper", params, {"funnel_paper": "funnel"})
