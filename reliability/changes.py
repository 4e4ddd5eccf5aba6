"""A writer of random changes, for `soak.py`: what it does, and how it says so.

As `workload.py`, whose edits and log it uses, but it never does the same twice: edits
alone and in transactions that may be given up, builds in the index's place, backups,
slices. It cuts nothing short and judges nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import funnel.build.segment
import funnel.changing
import funnel.merging
from funnel import FunnelIndex
from reliability.workload import DIM, GRAPH_ROWS, INDEX, LOG, Edit, State, built, note

IDS, VECTORS, TAGS, MOST = 300, 4_000, 9, 24  # ids, vectors, tags; rows of a change
STEPS = 150  # of a writer that is not killed before
WITHIN = ("add", "upsert", "delete", "delete_where", "update_metadata", "compact")
KINDS = {
    "add": 6, "upsert": 5, "delete": 4, "delete_where": 1, "update_metadata": 3,
    "compact": 2, "transaction": 4, "aborted": 2, "build": 1, "backup": 1, "slice": 1,
    "reopen": 1,
}  # fmt: skip
SHARES = np.array([*KINDS.values()]) / sum(KINDS.values())
EQUAL = np.full(len(KINDS), 1 / len(KINDS))  # builds and copies are most of the time


@dataclass(frozen=True)
class Plan:
    """How a writer is opened and when it is killed.

    Parameters
    ----------
    seed, number : int
        Of the soak, and of the round.
    """

    seed: int
    number: int

    @property
    def opening(self) -> dict[str, Any]:
        """Return options of `FunnelIndex.open`: two rounds of three merge."""
        fast, alone = self.number % 2 == 1, self.number % 3 == 0
        return {"durability": "fast" if fast else "full", "auto_compact": not alone}

    @property
    def in_merge(self) -> bool:
        """Tell whether the writer is killed while it merges."""
        return self.opening["auto_compact"] and self.number % 5 == 2

    @property
    def shares(self) -> np.ndarray:
        """Return how often each kind of step is drawn."""
        return EQUAL if self.number % 5 == 1 else SHARES

    def rng(self, part: int) -> np.random.Generator:
        """Return the numbers of one part of the round."""
        return np.random.default_rng([self.seed, self.number, part])


def drawn(verb: str, state: State, rng: np.random.Generator) -> Edit:
    """Return a random edit of an index that holds `state`."""
    verb = verb if state or verb == "build" else "upsert"
    known, every = rng.permutation(sorted(state)), rng.permutation(IDS)
    count, tag = int(rng.integers(1, MOST)), f"t{rng.integers(TAGS)}"
    chosen = {
        "add": every[~np.isin(every, known)], "upsert": every, "build": every,
        "delete": known, "update_metadata": known,
    }.get(verb, ())  # fmt: skip
    ids = [int(i) for i in chosen[: count * 4 if verb == "build" else count]]
    if verb == "compact" or (verb == "add" and not ids):
        return Edit("compact")
    given = len(ids) if verb in ("add", "upsert", "build") else 0
    rows = rng.integers(VECTORS, size=given).tolist()
    return Edit(verb, tuple(ids), tuple(rows), tag)


def drawn_step(
    state: State, rng: np.random.Generator, shares: np.ndarray = SHARES
) -> tuple[str, list[Edit], State]:
    """Return the kind of a step, its edits, and what an index holds after it."""
    kind = str(rng.choice(list(KINDS), p=shares))
    if not state and kind == "slice":
        kind = "backup"
    edits, after = [], {} if kind == "build" else state
    if kind in ("transaction", "aborted"):
        for verb in rng.choice(WITHIN, rng.integers(1, 6)):
            edits.append(drawn(str(verb), after, rng))
            after = edits[-1].after(after)
    elif kind in WITHIN or kind == "build":
        edits = [drawn(kind, after, rng)]
        after = edits[0].after(after)
    return kind, edits, state if kind == "aborted" else after


class AbortedError(Exception):
    """Ends a transaction without its changes."""


def write(folder: Path, state: State, plan: Plan, steps: int = STEPS) -> None:
    """Change the index in `folder`, which holds `state`, and say so in its log."""
    rng = plan.rng(0)
    index = FunnelIndex.open(folder / INDEX, "rw", **plan.opening)
    with (folder / LOG).open("ab", buffering=0) as log:
        for number in range(steps):
            kind, edits, state = drawn_step(state, rng, plan.shares)
            note(log, {"intent": number, "state": state, "kind": kind})
            index = perform(index, kind, edits, folder / f"side-{number}", plan)
            note(log, {"done": number})
    index.close()


def perform(
    index: FunnelIndex, kind: str, edits: list[Edit], side: Path, plan: Plan
) -> FunnelIndex:
    """Do a step; return the handle to go on with."""
    if kind == "backup":
        index.backup(side)
    elif kind == "slice":
        index.slice(DIM, side, M=4, ef_construction=20).close()
    elif kind == "reopen":
        index.close()
        return FunnelIndex.open(index.path, "rw", **plan.opening)
    elif kind == "build":
        new = built(index.path, edits[0], overwrite=True, **plan.opening)
        index.close()  # it may have been merging until here
        return new
    elif kind in ("transaction", "aborted"):
        try:
            with index.transaction():
                for edit in edits:
                    edit.apply(index)
                if kind == "aborted":
                    raise AbortedError  # noqa: TRY301
        except AbortedError:
            pass
    else:
        edits[0].apply(index)
    return index


THRESHOLDS = {
    funnel.build.segment: ("SCAN_ROWS",),
    funnel.merging: ("SCANNED_NODES", "SCANNED_SEGMENTS"),
    funnel.changing: ("KEPT_VERSIONS",),
}


def lower_thresholds() -> None:
    """Let small indexes have graphs, merge often, and keep few versions."""
    funnel.build.segment.SCAN_ROWS = GRAPH_ROWS
    funnel.merging.SCANNED_NODES, funnel.merging.SCANNED_SEGMENTS = 40, 3
    funnel.changing.KEPT_VERSIONS = 5


@contextlib.contextmanager
def lowered_thresholds() -> Iterator[None]:
    """As `lower_thresholds`, for a while."""
    kept = [
        (module, name, getattr(module, name))
        for module, names in THRESHOLDS.items()
        for name in names
    ]
    lower_thresholds()
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def count_merges(counts: memoryview) -> None:
    """Count in shared memory the merges of this process: begun, and ended."""
    merge, merge_once = funnel.merging.merge, funnel.merging.Merger._merge_once

    @functools.wraps(merge)
    def counted(*args: Any, **how: Any) -> Any:
        counts[0] += 1
        return merge(*args, **how)

    @functools.wraps(merge_once)
    def ended(*args: Any) -> bool:
        try:
            return merge_once(*args)
        finally:
            counts[1] = counts[0]

    funnel.merging.merge = counted
    funnel.merging.Merger._merge_once = ended
