"""Builds every index once, times it, and keeps it for the next run.

An index lives in ``<cache>/<data set>/<system>-<params>/index`` beside ``build.json``,
which is written last: a folder without it was interrupted and is built again. A kept
index is used again only if nothing that made it has changed (parameters, versions of
the libraries, for `funnel` its own source). It does not open or search. Called by
`benchmarks.run` and, in a process of its own, by `benchmarks.peer_worker`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
    """Builds what the cache does not hold.

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

    def build_all(
        self, systems: Iterable[System], announce: Callable[[str], None]
    ) -> dict[str, Built]:
        """Return a saved index for each system, by the system's key.

        Parameters
        ----------
        systems : iterable of System
            Unopened adapters.
        announce : callable
            Told the key of each system before it is built or found.

        Notes
        -----
        The normalised corpus is in memory while something is built, and only then.
        """
        vectors, built = None, {}
        for system in systems:
            announce(system.key)
            stamp = _stamp(system, self.settings)
            folder = _folder(system, self.workload, self.cache)
            kept = _kept(folder, stamp, any_source=self.any_source)
            if kept is None or self.rebuild:
                if vectors is None:
                    vectors = self.workload.vectors()
                kept = self._build(system, vectors, folder, stamp)
            built[system.key] = kept
        return built

    def _build(
        self,
        system: System,
        vectors: np.ndarray,
        folder: Path,
        stamp: dict[str, object],
    ) -> Built:
        """Time one build, after a small one that compiles and starts threads."""
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
