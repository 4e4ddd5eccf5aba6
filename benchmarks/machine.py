"""What the figures were measured on: processor, memory, versions, commit.

No names of hosts, users or folders: only what changes a figure. Called by
`benchmarks.run` and `benchmarks.builds`.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = (
    "numpy",
    "numba",
    "llvmlite",
    "pyarrow",
    "faiss-cpu",
    "hnswlib",
    "scikit-learn",
    "pytrec_eval-terrier",
)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def _vector_extensions() -> list[str]:
    """List the widest instruction sets that the processor has."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    return [
        name
        for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")
        if name in flags
    ]


def describe(threads: int, build_threads: int) -> dict[str, object]:
    """Return the machine and the threads given to every system.

    Parameters
    ----------
    threads, build_threads : int
        Threads that search and that build, the same for all systems.

    Returns
    -------
    dict
        Values that JSON can hold.
    """
    return {
        "cpu": _cpu_model(),
        "vector_extensions": _vector_extensions(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.system() + " " + ".".join(platform.release().split(".")[:2]),
        "threads": threads,
        "build_threads": build_threads,
        "load_average": round(os.getloadavg()[0], 2),
    }


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Return Python's version, ours, and those of `packages`; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    try:
        from funnel.version import __version__ as ours
    except ImportError:
        ours = None
    return found | {"funnel-index": ours}


def commit() -> str | None:
    """Return the checkout's commit, with ``+changes`` if files differ from it."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "funnel", "benchmarks")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
