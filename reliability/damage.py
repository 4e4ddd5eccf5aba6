"""Damage files at random and see: a crash, a wrong answer, an error, or no matter.

``python -m reliability.damage [--trials N] [--systems funnel,hnswlib,…] [--out FILE]``.
Each trial copies a small index, damages one of its files, and opens and searches it in
a process of its own; for funnel once more after ``verify("full")``. The same for other
libraries' files, where they are installed. Some rows are equal and some have no code:
there are files of every type. What is printed is a row a system and kind of damage, and
how many files there are of each type of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

ROWS, DIM, K = 5_000, 32, 10
CODE_DIM = 24  # what lies beyond has no code
EQUAL_EVERY, LOOSE_EVERY = 20, 500  # rows: equal to the one before; without a code
PAGE_BYTES = 4096
LIMIT_S, LIMIT_BYTES = 10, 4 << 30  # of an answer: time, and memory beside what is
RIGHT, ERROR, WRONG, OTHER = 0, 10, 11, 12
Others: TypeAlias = list[bytes]  # the contents of an index's other files
OUTCOMES = {RIGHT: "right", ERROR: "error", WRONG: "wrong", OTHER: "other error"}


# ---- kinds of damage


def flip_bits(data: bytearray, rng: np.random.Generator, others: Others) -> None:
    """Flip one bit."""
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))


def flip_early(data: bytearray, rng: np.random.Generator, others: Others) -> None:
    """Flip one bit of the first 4 KiB: headers are there."""
    data[int(rng.integers(min(len(data), PAGE_BYTES)))] ^= 1 << int(rng.integers(8))


def zero_page(data: bytearray, rng: np.random.Generator, others: Others) -> None:
    """Fill a page with zeros."""
    start = int(rng.integers(-(-len(data) // PAGE_BYTES))) * PAGE_BYTES
    stop = min(len(data), start + PAGE_BYTES)
    data[start:stop] = bytes(stop - start)


def random_page(data: bytearray, rng: np.random.Generator, others: Others) -> None:
    """Fill a page with random bytes."""
    start = int(rng.integers(-(-len(data) // PAGE_BYTES))) * PAGE_BYTES
    stop = min(len(data), start + PAGE_BYTES)
    data[start:stop] = rng.bytes(stop - start)


def cut_short(data: bytearray, rng: np.random.Generator, others: Others) -> None:
    """Cut the file short."""
    del data[int(rng.integers(len(data))) :]


def swap(data: bytearray, rng: np.random.Generator, others: Others) -> None:
    """Put the bytes of another file of the index in the place of the file's own."""
    data[:] = others[int(rng.integers(len(others)))]


DAMAGE: dict[str, Callable[[bytearray, np.random.Generator, Others], None]] = {
    "one bit": flip_bits,
    "one bit of the first page": flip_early,
    "zeroed page": zero_page,
    "random page": random_page,
    "cut short": cut_short,
    "another file": swap,
}


# ---- systems


class Stored(Protocol):
    """A library that saves an index below a folder and answers from it."""

    def build(self, vectors: np.ndarray, folder: Path) -> None:
        """Save an index."""

    def answer(self, folder: Path, queries: np.ndarray) -> Any:
        """Open it and search; raises what the library raises."""


class Funnel:
    """Ours, with rows added and deleted: two segments; verified first, or not."""

    def __init__(self, *, verified: bool) -> None:
        self.verified = verified

    def build(self, vectors: np.ndarray, folder: Path) -> None:
        """Build over most rows, add the rest, delete some."""
        from funnel import FunnelIndex

        most = len(vectors) * 9 // 10
        names = [f"row {i}" for i in range(len(vectors))]
        with FunnelIndex.build(
            vectors[:most], ids=names[:most], path=folder / "index", threads=1,
            metadata={"n": range(most)}, projection="pca", code_dim=CODE_DIM,
        ) as index:  # fmt: skip
            index.add(vectors[most:], ids=names[most:])
            index.delete(names[::50])

    def answer(self, folder: Path, queries: np.ndarray) -> Any:
        """Search, and read rows with their metadata."""
        from funnel import FunnelIndex

        with FunnelIndex.open(folder / "index") as index:
            if self.verified:
                index.verify("full")
            hits = index.search(queries, K, threads=1)
            rows = index.get(hits.ids[0].tolist(), vectors=True)
            return hits.ids.tolist(), hits.scores.tolist(), rows.to_pylist()


class Hnswlib:
    """hnswlib's own file."""

    def build(self, vectors: np.ndarray, folder: Path) -> None:
        """Build with its defaults."""
        import hnswlib

        index = hnswlib.Index("ip", DIM)
        index.init_index(len(vectors), random_seed=1)
        index.add_items(vectors, num_threads=1)
        index.save_index(str(folder / "index"))

    def answer(self, folder: Path, queries: np.ndarray) -> Any:
        """Load and search."""
        import hnswlib

        index = hnswlib.Index("ip", DIM)
        index.load_index(str(folder / "index"))
        index.set_ef(50)
        return [part.tolist() for part in index.knn_query(queries, K, num_threads=1)]


class Usearch:
    """usearch's own file."""

    def build(self, vectors: np.ndarray, folder: Path) -> None:
        """Build with its defaults."""
        from usearch.index import Index

        index = Index(ndim=DIM, metric="ip", dtype="f32")
        index.add(np.arange(len(vectors)), vectors, threads=1)
        index.save(str(folder / "index"))

    def answer(self, folder: Path, queries: np.ndarray) -> Any:
        """Load and search."""
        from usearch.index import Index

        found = Index.restore(str(folder / "index")).search(queries, K, threads=1)
        return found.keys.tolist(), found.distances.tolist()


class Faiss:
    """faiss's HNSW, as it writes an index."""

    def build(self, vectors: np.ndarray, folder: Path) -> None:
        """Build with its defaults."""
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT)
        index.add(vectors)
        faiss.write_index(index, str(folder / "index"))

    def answer(self, folder: Path, queries: np.ndarray) -> Any:
        """Read and search."""
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.read_index(str(folder / "index"))
        return [part.tolist() for part in index.search(queries, K)]


SYSTEMS: dict[str, Callable[[], Stored]] = {
    "funnel": lambda: Funnel(verified=False),
    "funnel-verified": lambda: Funnel(verified=True),
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "faiss": Faiss,
}


# ---- trials


def outcome(system: Stored, folder: Path, queries: np.ndarray, right: Any) -> str:
    """Answer in a forked process and say how it ended."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        signal.alarm(LIMIT_S)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + LIMIT_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        os._exit(_answered(system, folder, queries, right))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "hung" if number == signal.SIGALRM else "crash"
    return OUTCOMES.get(os.WEXITSTATUS(status), "crash")


def _answered(system: Stored, folder: Path, queries: np.ndarray, right: Any) -> int:
    """Return the exit status of a trial; errors of ours are told from others."""
    try:
        found = system.answer(folder, queries)
    except BaseException as error:
        ours = isinstance(system, Funnel)
        expected = type(error).__module__ == "funnel.errors" if ours else True
        return ERROR if expected else OTHER
    return RIGHT if found == right else WRONG


def corpus() -> np.ndarray:
    """Return unit rows, float32 (ROWS, DIM): some are equal, some have no code."""
    rows = np.random.default_rng(1).standard_normal((ROWS, DIM)).astype(np.float32)
    rows[:, CODE_DIM:] = 0
    last = slice(EQUAL_EVERY - 1, None, EQUAL_EVERY)
    rows[last] = rows[EQUAL_EVERY - 2 :: EQUAL_EVERY]
    for place, row in enumerate(range(LOOSE_EVERY - 1, ROWS, LOOSE_EVERY)):
        rows[row] = np.eye(DIM)[CODE_DIM + place % (DIM - CODE_DIM)]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def types_of(folder: Path) -> dict[str, int]:
    """Return how many files that are not empty an index of ours has of each type."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = [
        {"data": path.name.split(".")[1:2], "manifest": ["manifest"]}.get(
            path.parent.name, [path.name]
        )[0]
        for path in files
        if path.stat().st_size
    ]
    return dict(sorted(Counter(names).items()))


def run(name: str, trials: int, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Damage a system's files `trials` times a kind; return a row a kind."""
    system, rng = SYSTEMS[name](), np.random.default_rng(seed)
    vectors = corpus()
    queries = vectors[[*range(EQUAL_EVERY), LOOSE_EVERY - 1]] + np.float32(0.1)
    whole = folder / "whole"
    whole.mkdir()
    system.build(vectors, whole)
    right = system.answer(whole, queries)
    files = [path for path in sorted(whole.rglob("*")) if path.is_file()]
    files = [path for path in files if path.stat().st_size]
    held = [path.read_bytes() for path in files]
    rows = []
    for kind, spoil in DAMAGE.items():
        if spoil is swap and len(files) == 1:
            continue
        counts: Counter[str] = Counter()
        for at in range(trials):
            place = folder / "trial"
            shutil.copytree(whole, place)
            path = place / files[at % len(files)].relative_to(whole)
            data = bytearray(path.read_bytes())
            others = [one for one in held if one != data]
            spoil(data, rng, others)
            path.write_bytes(data)
            counts[outcome(system, place, queries, right)] += 1
            shutil.rmtree(place)
        rows.append({"system": name, "damage": kind, "trials": trials, **counts})
    return rows


def main() -> int:
    """Run as a command; fails if funnel crashed, or was wrong though verified."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=400, help="a kind of damage")
    parser.add_argument("--peer-trials", type=int, default=100, help="of the others")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for name in args.systems.split(","):
        with tempfile.TemporaryDirectory(prefix="funnel-") as folder:
            try:
                ours = name.startswith("funnel")
                trials = args.trials if ours else args.peer_trials
                found = run(name, trials, args.seed, Path(folder))
                if ours:
                    types = types_of(Path(folder) / "whole")
                    found.append({"system": name, "files": types})
            except ImportError as error:
                found = [{"system": name, "missing": str(error)}]
        rows += found
        for row in found:
            sys.stdout.write(json.dumps(row) + "\n")
    if args.out:
        args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad = [row for row in rows if row["system"].startswith("funnel")]
    return int(
        any(
            row.get("crash", 0)
            + row.get("hung", 0)
            + row.get("other error", 0)
            + (row.get("wrong", 0) if row["system"] != "funnel" else 0)
            for row in bad
        )
    )


if __name__ == "__main__":
    sys.exit(main())
