"""One writer, many readers: every answer is right for the version it was read at.

``python -m reliability.concurrent [--seconds S] [--readers N] [--processes]``. The
writer adds, replaces and deletes rows, with merges behind its back and compactions in
between; readers search without a lock. What they find is compared with a scan of what
the index held at that version. At the end nothing may be left open. Talks to nobody,
and stops by itself.

n = rows, d = dims.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import functools
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from funnel import FunnelIndex

DIM, START_ROWS, MOST_ROWS, K = 32, 400, 1500, 5
CLOSE = 1e-5
State = dict[int, int]  # id → number of its vector


@functools.cache
def vector(number: int) -> np.ndarray:
    """Return the vector of a number, float32 (d,)."""
    return np.random.default_rng(number).standard_normal(DIM).astype(np.float32)


@dataclass
class History:
    """What the index held at each version that the writer looked at."""

    versions: list[int] = field(default_factory=list)
    states: list[State] = field(default_factory=list)

    def add(self, version: int, state: State) -> None:
        """Note what a version holds."""
        self.versions.append(version)
        self.states.append(dict(state))

    def around(self, version: int) -> list[State]:
        """Return what a version may hold: nobody looked at those that merges made."""
        at = bisect.bisect_left(self.versions, version)
        return self.states[max(0, at - 1) : at + 1]


@dataclass(frozen=True)
class Answer:
    """What a reader found: for the vector of a number, at a version."""

    number: int
    version: int
    ids: list[int]
    scores: list[float]


def is_right(answer: Answer, state: State) -> bool:
    """Compare an answer with a scan of a state, by the scores of the returned rows."""
    ids = np.array(sorted(state))
    rows = np.array([vector(state[i]) for i in ids.tolist()], np.float64)
    query = vector(answer.number).astype(np.float64)
    scores = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    if len(answer.ids) != min(K, len(ids)) or not set(answer.ids) <= set(state):
        return False
    found = scores[np.searchsorted(ids, answer.ids)]
    best = np.sort(scores)[::-1][: len(found)]
    return bool(
        np.allclose(found, answer.scores, atol=CLOSE)
        and np.allclose(found, best, atol=CLOSE)
    )


def write(path: Path, seconds: float, seed: int) -> History:
    """Change the index until the time is over; return what it held."""
    rng, history = np.random.default_rng(seed), History()
    state = {i: i for i in range(START_ROWS)}
    with FunnelIndex.open(path, "rw") as index:
        history.add(index.versions()[-1], state)
        end, step, fresh = time.monotonic() + seconds, 0, START_ROWS
        while time.monotonic() < end:
            step += 1
            fresh = change(index, state, fresh, rng)
            if step % 60 == 0:
                index.compact(keep_versions=3)
            history.add(index.versions()[-1], state)
    return history


def change(
    index: FunnelIndex, state: State, fresh: int, rng: np.random.Generator
) -> int:
    """Make one change to the index and to the state; return the next fresh number."""
    count, kind = int(rng.integers(1, 20)), rng.integers(3)
    numbers = list(range(fresh, fresh + count))
    rows = np.array([vector(number) for number in numbers])
    known = rng.permutation(sorted(state))[:count].tolist()
    if kind == 0 and len(state) < MOST_ROWS:
        index.add(rows, ids=numbers)
        state |= dict(zip(numbers, numbers, strict=True))
    elif kind == 1 and known:
        index.upsert(rows[: len(known)], ids=known)
        state |= dict(zip(known, numbers, strict=False))
    else:
        index.delete(known)
        for one in known:
            del state[one]
    return fresh + count


def read(path: Path, seconds: float, seed: int) -> list[Answer]:
    """Search until the time is over; return a sample of what was found."""
    rng, answers = np.random.default_rng(seed), []
    end, asked = time.monotonic() + seconds, 0
    with FunnelIndex.open(path) as index:
        while time.monotonic() < end:
            number = int(rng.integers(0, 3000))
            hits = index.search(vector(number), K, shortlist=MOST_ROWS * 2, threads=1)
            asked += 1
            index.refresh()
            if asked % 10 == 1:
                answers.append(
                    Answer(
                        number, hits.version, hits.ids.tolist(), hits.scores.tolist()
                    )
                )
    return answers


def left_open(path: Path) -> dict[str, int]:
    """Return how many descriptors and maps this process has of files of an index."""
    held = []
    for link in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            held.append(str(link.readlink()))
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {
        "left_descriptors": sum(str(path) in one for one in held),
        "left_maps": sum(str(path) in line for line in maps),
    }


def run(
    folder: Path, seconds: float, readers: int, *, processes: bool
) -> dict[str, Any]:
    """Run a writer beside readers; return counts: answers, wrong ones, what leaked."""
    path = folder / "index"
    rows = np.array([vector(number) for number in range(START_ROWS)])
    FunnelIndex.build(rows, ids=range(START_ROWS), path=path).close()
    with FunnelIndex.open(path) as index:
        index.warmup()
    found: list[list[Answer]] = []
    if processes:
        context = multiprocessing.get_context("spawn")
        with context.Pool(readers) as pool:
            waiting = pool.starmap_async(
                read, [(path, seconds, seed) for seed in range(readers)]
            )
            history = write(path, seconds, 0)
            found = waiting.get(timeout=seconds + 120)
    else:
        threads = [
            threading.Thread(target=lambda s=seed: found.append(read(path, seconds, s)))
            for seed in range(readers)
        ]
        for thread in threads:
            thread.start()
        history = write(path, seconds, 0)
        for thread in threads:
            thread.join()
    answers = [answer for some in found for answer in some]
    wrong = [
        answer
        for answer in answers
        if not any(is_right(answer, state) for state in history.around(answer.version))
    ]
    return {
        "readers": readers,
        "processes": processes,
        "seconds": seconds,
        "versions": history.versions[-1],
        "versions_read": len({answer.version for answer in answers}),
        "answers": len(answers),
        "wrong": len(wrong),
        **left_open(path),
    }


def main() -> int:
    """Run as a command; fails if an answer was wrong or something was left open."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--readers", type=int, default=16)
    parser.add_argument("--processes", action="store_true")
    parser.add_argument("--out", type=Path, help="a JSON line of counts")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="funnel-") as folder:
        found = run(Path(folder), args.seconds, args.readers, processes=args.processes)
    sys.stdout.write(json.dumps(found) + "\n")
    if args.out:
        args.out.write_text(json.dumps(found) + "\n")
    bad = found["wrong"] or found["left_descriptors"] or found["left_maps"]
    return int(bool(bad) or found["answers"] == 0)


if __name__ == "__main__":
    sys.exit(main())
