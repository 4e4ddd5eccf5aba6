"""What only a fresh process can show: start-up, opening, memory, compiling.

`run_probe` starts ``python -m benchmarks.probe`` for one saved index, `funnel` and
peers alike. The child imports one adapter, opens, answers one query (the first hit),
then forgets everything and opens again to weigh the index without the library's own
code. It measures no query times. Called by `benchmarks.run`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.memory import anonymous_bytes
from benchmarks.systems import make

CACHE_VARIABLES = ("NUMBA_CACHE_DIR", "FUNNEL_CACHE_DIR")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
    "LANCE_CPU_THREADS",
)


@dataclass(frozen=True)
class Task:
    """What a child opens and asks: a system's key, its index, one point."""

    key: str
    path: str
    run: str
    effort: int
    k: int
    threads: int


@dataclass(frozen=True)
class Startup:
    """What a fresh process measured; None where the platform cannot say."""

    first_hit_s: float
    """From starting Python to the first answer: imports, opening, one query."""
    open_ms: float
    """Opening alone, files in the page cache."""
    anon_bytes: int | None
    """Memory that is not mapped from files, of an open index that has searched."""


def run_probe(task: Task, queries: np.ndarray) -> Startup:
    """Return what a fresh process measures with a few `queries` (q, full_dim)."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "queries.npy", queries)
        return Startup(**_child("startup", task, folder, os.environ))


def compile_seconds(task: Task) -> float | None:
    """Return what compiling takes in a process with an empty cache of kernels.

    None for a system that was compiled ahead.
    """
    if not hasattr(make(task.key), "warm"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        empty = {name: str(Path(folder) / "cache") for name in CACHE_VARIABLES}
        found = _child("compile", task, folder, os.environ | empty)
    return found["compile_s"]


def _child(verb: str, task: Task, folder: str, env: dict[str, str]) -> dict[str, float]:
    """Run one child and read the JSON that it prints last."""
    env = {**env, **dict.fromkeys(THREAD_VARIABLES, str(task.threads))}
    given = json.dumps(task.__dict__ | {"folder": folder, "start": time.monotonic()})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.probe", verb, given],
        cwd=Path(__file__).parents[1],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the probe of {task.key} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _startup(task: Task, folder: Path, start: float) -> dict[str, float | None]:
    """In the child: first hit, opening, memory."""
    queries = np.load(folder / "queries.npy")
    _open_and_ask(task, queries[:1])
    first_hit_s = time.monotonic() - start
    _forget()
    before = anonymous_bytes()
    system = make(task.key)
    clock = time.perf_counter()
    system.open(Path(task.path), task.threads)
    open_ms = (time.perf_counter() - clock) * 1e3
    search = system.prepare(task.run, task.k, task.effort)
    for at in range(len(queries)):
        search(queries[at : at + 1])
    _forget()
    after = anonymous_bytes()
    anon = None if before is None or after is None else max(0, after - before)
    return {"first_hit_s": first_hit_s, "open_ms": open_ms, "anon_bytes": anon}


def _open_and_ask(task: Task, queries: np.ndarray) -> None:
    """Open, search once, and let the index go."""
    system = make(task.key)
    system.open(Path(task.path), task.threads)
    system.prepare(task.run, task.k, task.effort)(queries)


def _forget() -> None:
    """Give freed memory back to the system, so that it is not weighed."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return


def _compile(task: Task) -> dict[str, float]:
    """In the child: compile everything into an empty cache."""
    system = make(task.key)
    system.open(Path(task.path), task.threads)
    return {"compile_s": system.warm()}


def main(verb: str, given: str) -> None:
    """Do what the parent asked and print the findings as JSON."""
    values = json.loads(given)
    folder, start = Path(values.pop("folder")), values.pop("start")
    task = Task(**values)
    found = _compile(task) if verb == "compile" else _startup(task, folder, start)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
