"""Builds an index once, times it, and keeps it for the next run.

An index lives in ``<cache>/<data set>/<system>-<params>/index`` beside ``build.json``,
which is written last: a folder without it was interrupted and is built again. A kept
index is used again only if nothing that made it has changed (parameters, versions of
the libraries, for `funnel` its own source). It does not open or search. Called by
`benchmarks.peer_worker`, in a process for each index: `build_apart` starts one.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.children import run_child
from benchmarks.machine import versions
from benchmarks.memory import PeakMemory
from benchmarks.systems import BuildSettings, System, entry_of
from benchmarks.truth import Workload

BUILDERS = ("numpy", "numba", "faiss-cpu", "hnswlib")
WARM_UP_ROWS = 5_000  # enough that all of them make a graph


@dataclass(frozen=True)
class Built:
    """A saved index: where it is, how long it took, how large it is on disk."""

    path: Path
    build_s: float
    disk_bytes: int
    params: dict[str, object]
    peak_bytes: int | None = None
    """Anonymous memory that the build added at its peak; None where not known."""

    def record(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return asdict(self) | {"path": str(self.path)}


def bytes_below(path: Path) -> int:
    """Bytes of all files below `path`."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def source_digest() -> str:
    """Digest the engine's source: another engine may build another index."""
    digest = hashlib.blake2b(digest_size=8)
    package = Path(__file__).parents[1] / "funnel"
    for file in sorted(package.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _stamp(system: System, settings: BuildSettings) -> dict[str, object]:
    """Everything that decides what a build makes and how long it takes."""
    package = entry_of(system.key).package
    needed = (*BUILDERS, *(() if system.name == "funnel" else (package,)))
    found = versions(needed)
    return {
        "params": system.params,
        "settings": settings._asdict() | {"dims": list(settings.dims)},
        "versions": {name: found.get(name) for name in needed},
        "source": source_digest() if system.name == "funnel" else None,
    }


def _folder(system: System, workload: Workload, cache: Path) -> Path:
    given = ",".join(f"{name}={value}" for name, value in system.params.items())
    name = re.sub(r"[^\w=.,-]", "_", f"{system.key}-{given}".rstrip("-"))
    return cache / workload.slug / name


def _kept(folder: Path, stamp: dict[str, object], *, any_source: bool) -> Built | None:
    """Return the index of an earlier run if it may stand for a new build."""
    try:
        record = json.loads((folder / "build.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    old, new = dict(record["stamp"]), json.loads(json.dumps(stamp))
    if any_source:
        old["source"] = new["source"] = None
    if old != new:
        return None
    path, params = folder / "index", record["params"]
    peak_bytes = record.get("peak_bytes")
    return Built(path, record["build_s"], bytes_below(path), params, peak_bytes)


class Builder:
    """Builds an index, or finds it in the cache.

    Parameters
    ----------
    workload : Workload
        The data.
    cache : Path
        Folder for the indexes of all data sets.
    settings : BuildSettings
        What all systems are told alike.
    rebuild : bool, default False
        Build even if a kept index fits.
    any_source : bool, default False
        Use a kept `funnel` index although the engine's source has changed since.
    """

    def __init__(
        self,
        workload: Workload,
        cache: Path,
        settings: BuildSettings,
        *,
        rebuild: bool = False,
        any_source: bool = False,
    ) -> None:
        self.workload, self.cache, self.settings = workload, cache, settings
        self.rebuild, self.any_source = rebuild, any_source

    def find_or_build(self, system: System) -> Built:
        """Return the index of an earlier run, or build it here."""
        return self.find(system) or self.build(system)

    def find(self, system: System) -> Built | None:
        """Return the index of an earlier run; None if it is to be built."""
        if self.rebuild:
            return None
        folder = _folder(system, self.workload, self.cache)
        stamp = _stamp(system, self.settings)
        return _kept(folder, stamp, any_source=self.any_source)

    def build(self, system: System) -> Built:
        """Time one build, after a small one that compiles and starts threads.

        The normalised corpus is in memory meanwhile.
        """
        folder = _folder(system, self.workload, self.cache)
        stamp, vectors = _stamp(system, self.settings), self.workload.vectors()
        with tempfile.TemporaryDirectory() as small:
            system.build(vectors[:WARM_UP_ROWS], Path(small), self.settings)
        shutil.rmtree(folder, ignore_errors=True)
        path = folder / "index"
        path.mkdir(parents=True)
        with PeakMemory() as peak:
            start = time.perf_counter()
            chosen = system.build(vectors, path, self.settings)
            build_s = time.perf_counter() - start
        params = system.params | chosen
        record = {"stamp": stamp, "params": params, "build_s": build_s}
        record["peak_bytes"] = peak.added_bytes
        (folder / "build.json").write_text(json.dumps(record, indent=1))
        return Built(path, build_s, bytes_below(path), params, peak.added_bytes)


def build_apart(
    key: str,
    data: dict[str, Any],
    *,
    threads: int,
    rebuild: bool,
    any_source: bool,
    seconds: float | None = None,
) -> Built:
    """Build an index in a process of its own, or find it.

    What a library keeps of the memory that it has freed would stand beside whatever
    is measured next, and push the files of indexes out of the page cache.

    Parameters
    ----------
    key : str
        The system's.
    data : dict
        How a child loads the same data: spec, cache, n, dim, queries, dims.
    threads, rebuild, any_source
        See `Builder`.
    seconds : float or None
        How long the child may take.

    Raises
    ------
    ChildError
        If it fails, or takes longer.
    """
    flags = {"rebuild": rebuild, "any_source": any_source}
    task = {"key": key, "data": data, "build_threads": threads} | flags
    found = run_child("build", task, threads=threads, seconds=seconds)
    return Built(**found | {"path": Path(found["path"])})
