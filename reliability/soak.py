"""Kill a writer of random changes at random moments, again and again, for a time.

`python -m reliability.soak [--seconds S] [--seed N] [--out FILE]`. A round forks the
writer of `changes.py` and kills it after some milliseconds, or in the middle of a
merge. What it left must be what its log says, whole, found by searches and writable at
once; the next round goes on with it. Now and then nothing but what the manifest names
may be left on disk. `kill.py` kills at each call instead, of one script.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import mmap
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from funnel import FunnelIndex
from funnel.store.commit import (
    DATA,
    MANIFESTS,
    MARKER,
    kept_versions,
    manifest_of,
)
from funnel.store.disk import LOCK, MERGING
from reliability.changes import (
    IDS,
    Plan,
    count_merges,
    drawn,
    lower_thresholds,
    write,
)
from reliability.concurrent import left_open
from reliability.trace import scratch
from reliability.workload import (
    INDEX,
    LOG,
    PROBE,
    Promise,
    State,
    built,
    check,
    promised,
    vector,
)

BOUNDED_EVERY = 10  # rounds
LAST_S = 0.5  # the latest kill after the fork
MERGE_S, RUN_S = 0.03, 60.0  # … after a merge began; how long to wait for one
STDERR = "stderr"
CLOSE = 1e-5
STAGING = ".funnel-*"  # what was being built, or was replaced


@dataclass(frozen=True)
class Round:
    """What came of a round.

    Parameters
    ----------
    number, seed : int
    durability : str
    auto_compact : bool
    acknowledged : int
        Operations that returned.
    under_way : str
        The kind of the operation that did not; empty if there was none.
    merges : int
        That were begun.
    in_merge : bool
        Whether one was under way.
    ended : int
        The writer's exit status; minus the signal that killed it.
    left_folders, left_files : int
        Of builds, and of changes, that were cut short.
    outcome : str
        As `check` returns it, or "violation: …".
    """

    number: int
    seed: int
    durability: str
    auto_compact: bool
    acknowledged: int
    under_way: str
    merges: int
    in_merge: bool
    ended: int
    left_folders: int
    left_files: int
    outcome: str

    @property
    def failed(self) -> bool:
        """Tell whether it shows a fault."""
        return self.outcome not in ("acknowledged", "intended")


# ---- a round


def run_killed(folder: Path, state: State, plan: Plan, counts: memoryview) -> int:
    """Run a writer in a fork and kill it; return its exit status, or minus the signal.

    What it says is in ``stderr``.
    """
    child = os.fork()
    if child == 0:
        _write(folder, state, plan, counts)
    try:
        _await_moment(child, plan, counts)
    finally:  # it may have ended, but nobody has waited for it
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _write(folder: Path, state: State, plan: Plan, counts: memoryview) -> None:
    """Be the writer."""
    status = 1
    try:
        said = os.open(folder / STDERR, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 2)
        logging.getLogger("funnel").addHandler(logging.StreamHandler())
        count_merges(counts)
        write(folder, state, plan)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)  # nothing of the parent's is to be tidied up here


def _await_moment(child: int, plan: Plan, counts: memoryview) -> None:
    """Wait until a writer is to be killed, or has ended."""
    rng, began = plan.rng(1), time.monotonic()
    end = began + (RUN_S if plan.in_merge else rng.uniform(0, LAST_S))
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        if plan.in_merge and counts[0] > counts[1]:
            time.sleep(rng.uniform(0, MERGE_S))
            break
        time.sleep(0.0005)


def judge(folder: Path, before: State) -> tuple[str, State]:
    """Check what a writer left; return the outcome, and what the index holds.

    Raises
    ------
    AssertionError
    """
    promise = promised(folder / LOG, Promise(before))
    outcome = check(folder / INDEX, promise.acknowledged, promise.intended)
    held = promise.intended if outcome == "intended" else promise.acknowledged
    assert held is not None, "the index is gone"
    with FunnelIndex.open(folder / INDEX, "rw", auto_compact=False) as index:
        index.delete([PROBE])
        _check_found(index, held)
    for step in steps_of(folder / LOG):
        if step["kind"] in ("backup", "slice"):
            side = folder / f"side-{step['intent']}"
            copied = {int(i): (row, tag) for i, (row, tag) in step["state"].items()}
            found = check(side, *((copied, None) if step["done"] else (None, copied)))
            assert found != "absent" or not side.exists(), f"{side} is there in part"
            shutil.rmtree(side, ignore_errors=True)
    return outcome, held


def steps_of(log: Path) -> list[dict[str, Any]]:
    """Return what a log says of each step, and whether it is done."""
    steps: list[dict[str, Any]] = []
    for line in log.read_bytes().split(b"\n")[:-1] if log.exists() else ():
        noted = json.loads(line)
        if "done" in noted:
            steps[-1]["done"] = True
        else:
            steps.append(noted | {"done": False})
    return steps


def _check_found(index: FunnelIndex, state: State) -> None:
    """Search for each row: it, or one that equals it, must be the best."""
    if not state:
        return
    ids = sorted(state)
    queries = np.stack([vector(state[i][0]) for i in ids])
    for mode in ("exact", "funnel"):
        hits = index.search(queries, 1, mode=mode, shortlist=IDS, threads=1)
        for i, query, found, score in zip(
            ids, queries, hits.ids[:, 0].tolist(), hits.scores[:, 0], strict=True
        ):
            best = found in state and vector(state[found][0]).tolist()
            assert best == query.tolist(), f"{mode}: for row {i}, {found} is found"
            assert abs(score - 1) < CLOSE, f"{mode}: row {i} scores {score}"


def check_bounded(path: Path) -> None:
    """Make all files old, compact, and see that nothing is left that nobody names."""
    for file in (path / DATA).iterdir():
        os.utime(file, (1, 1))
    with FunnelIndex.open(path, "rw", auto_compact=False) as index:
        index.compact(keep_versions=1)
        named = {entry.name for entry in index._manifest.all_files()}
    held = {file.name for file in (path / DATA).iterdir()}
    assert held == named, f"nobody names {held - named}; there is no {named - held}"
    kept = [file.name for file in (path / MANIFESTS).iterdir()]
    assert [re.sub("[0-9]{20}", "", name) for name in kept] == [".fm"], kept
    entries = {file.name for file in path.iterdir()}
    unknown = entries - {MARKER, DATA, MANIFESTS, LOCK, MERGING}
    assert not unknown, f"nobody knows {unknown}"


def play(
    folder: Path, state: State, plan: Plan, counts: memoryview
) -> tuple[Round, State]:
    """Run a writer, kill it and judge what it left; return what the index holds too."""
    for name in (LOG, STDERR):
        (folder / name).unlink(missing_ok=True)
    counts[0] = counts[1] = 0
    ended = run_killed(folder, state, plan, counts)
    in_merge, steps = counts[0] > counts[1], steps_of(folder / LOG)
    unnamed = 0
    try:
        _check_said(folder, ended, steps)
        outcome, state = judge(folder, state)
        unnamed = _unnamed(folder / INDEX)
        if plan.number % BOUNDED_EVERY == BOUNDED_EVERY - 1:
            check_bounded(folder / INDEX)
    except Exception as error:
        outcome = f"violation: {error!r}"
    staging = list(folder.glob(STAGING))
    for left in staging:
        shutil.rmtree(left)
    done = sum(step["done"] for step in steps)
    return Round(
        plan.number, plan.seed, **plan.opening, acknowledged=done,
        under_way=steps[-1]["kind"] if done < len(steps) else "", merges=counts[0],
        in_merge=in_merge, ended=ended, left_folders=len(staging), left_files=unnamed,
        outcome=outcome,
    ), state  # fmt: skip


def _check_said(folder: Path, ended: int, steps: list[dict[str, Any]]) -> None:
    """Check that a writer had nothing to say, but of a merge that a build overtook."""
    said = (folder / STDERR).read_text() if (folder / STDERR).exists() else ""
    assert ended in (0, -signal.SIGKILL), f"the writer ended with {ended}: {said}"
    lines = said.splitlines()
    assert all("were not merged" in line for line in lines), said
    assert not lines or any(step["kind"] == "build" for step in steps), said


def _unnamed(path: Path) -> int:
    """Return how many data files no kept version names."""
    named = set()
    for version in kept_versions(path):
        named |= {entry.name for entry in manifest_of(path, version).all_files()}
    return len({file.name for file in (path / DATA).iterdir()} - named)


# ---- all rounds


def soak(seconds: float, seed: int) -> Iterator[Round]:
    """Play rounds until the time is over, or one shows a fault."""
    lower_thresholds()
    logging.getLogger("funnel").addHandler(logging.NullHandler())  # but see `_write`
    with (
        tempfile.TemporaryDirectory(prefix="funnel-", dir=scratch()) as made,
        mmap.mmap(-1, mmap.PAGESIZE) as shared,
        memoryview(shared).cast("I") as counts,
    ):
        folder = Path(made)
        first = drawn("build", {}, np.random.default_rng(seed))
        built(folder / INDEX, first).close()
        state, warm = first.after({}), Plan(seed, 2**31)
        write(folder, state, warm)  # loads what the forks would each load
        _, state = judge(folder, state)
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            found, state = play(folder, state, Plan(seed, number), counts)
            yield found
            number += 1
            if found.failed:
                break
        left = left_open(folder)
        assert not any(left.values()), f"the judge left open: {left}"


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON line for each round")
    return parser.parse_args()


def main() -> int:
    """Soak; return 1 if an index is not what it must be."""
    asked, lines, counts = _asked(), [], collections.Counter[str]()
    for found in soak(asked.seconds, asked.seed):
        lines.append(json.dumps(asdict(found)) + "\n")
        counts["operations"] += found.acknowledged
        counts["killed"] += found.ended == -signal.SIGKILL
        counts["killed in a merge"] += found.ended != 0 and found.in_merge
        counts["merges"] += found.merges
        counts["folders of killed builds"] += found.left_folders
        counts["violations"] += found.failed
        if found.failed:
            sys.stdout.write(lines[-1])
    if asked.out:
        asked.out.write_text("".join(lines))
    said = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    sys.stdout.write(f"{len(lines)} rounds: {said}\n")
    return int(counts["violations"] > 0 or not lines)


if __name__ == "__main__":
    sys.exit(main())
