"""What a power cut may leave of an index, at every point of a writer's run.

`python -m reliability.powerloss` records the workload and makes, for each point, states
that a disk may be in, as ALICE does (Pillai et al., OSDI 2014, section 3): what was
synced is there; of the rest, each entry of a folder and each file's bytes may be there,
or not, or in part. A rename is all or nothing. There are too many such states for all:
a seeded sample is checked. With `--mutants` each kind of sync is ignored in turn, by
the role of what is synced, which must be noticed; with `--calls`, each single sync.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reliability import failpoints
from reliability.trace import (
    AGAIN,
    ROOT,
    Change,
    Enter,
    Move,
    Note,
    Op,
    Sync,
    Trace,
    Write,
    cannot_trace,
    record,
    scratch,
)
from reliability.workload import INDEX, LOG, Promise, check

SECTORS = 512, 4096  # bytes that a disk, or the page cache, writes at once
VIOLATION = "violation"
PARTS = 3  # ways of each kind in which a file may be there in part
Entries = dict[int, dict[str, int]]  # folder → name → file or folder
Tree = dict[str, bytes | None]  # path → bytes of a file; None for a folder


# ---- the disk


@dataclass(frozen=True)
class Unit:
    """What survives or not on its own.

    Parameters
    ----------
    owner : int
        The file or folder.
    change : Change or None
        To a folder; None stands for all that is pending of a file.
    variants : sequence of bytes
        Of a file: as it was, as it should be, and then in part. Of a folder's change
        there are the first two.
    """

    owner: int
    change: Change | None
    variants: Sequence[bytes] = (b"", b"")


@dataclass
class Disk:
    """What is durable and what is pending, after some operations.

    Parameters
    ----------
    folders : set of int
        The numbers that are folders.
    seed : int
        Draws the parts in which a file may be there.
    """

    folders: frozenset[int]
    seed: int
    entries: Entries = field(default_factory=lambda: {ROOT: {}})
    files: dict[int, bytes] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    pending: dict[int, list[Change]] = field(default_factory=dict)
    _variants: dict[tuple[int, int], list[bytes]] = field(default_factory=dict)

    def do(self, op: Op) -> None:
        """Go on by one operation."""
        if isinstance(op, Sync):
            self._sync(op.owner)
        elif not isinstance(op, Note):
            self.pending.setdefault(op.owner, []).append(op)
            if isinstance(op, Enter):
                self.names.setdefault(op.inode, op.name)

    def _sync(self, owner: int) -> None:
        changes = self.pending.pop(owner, [])
        if owner not in self.folders:
            self.files[owner] = written(self.files.get(owner, b""), changes)
            return
        for change in changes:
            rearrange(self.entries, change)

    def units(self) -> list[Unit]:
        """Return what is pending; a folder's changes in their order."""
        units = []
        for owner, changes in self.pending.items():
            if owner in self.folders:
                units += [Unit(owner, change) for change in changes]
            else:
                units.append(Unit(owner, None, self._parts(owner, changes)))
        return units

    def _parts(self, owner: int, changes: list[Change]) -> list[bytes]:
        key = owner, len(changes)
        if key not in self._variants:
            rng = random.Random(f"{self.seed} {key}")
            self._variants[key] = parts_of(self.files.get(owner, b""), changes, rng)
        return self._variants[key]

    def tree(self, units: Sequence[Unit], picks: Sequence[int]) -> Tree:
        """Return the state in which the picked variant of each unit is there."""
        entries = {folder: dict(inside) for folder, inside in self.entries.items()}
        files = dict(self.files)
        for unit, pick in zip(units, picks, strict=True):
            if unit.change is None:
                files[unit.owner] = unit.variants[pick]
            elif pick:
                rearrange(entries, unit.change)

        def walk(folder: int, above: str) -> Iterator[tuple[str, bytes | None]]:
            for name, inode in sorted(entries.get(folder, {}).items()):
                if inode in self.folders:
                    yield above + name, None
                    yield from walk(inode, f"{above}{name}/")
                else:
                    yield above + name, files.get(inode, b"")

        return dict(walk(ROOT, ""))

    def label(self, unit: Unit) -> str:
        """Say what a unit is."""
        if unit.change is None or isinstance(unit.change, Write):
            return f"bytes of {self.names[unit.owner]}"
        return f"{type(unit.change).__name__.lower()} {unit.change.name}"


def rearrange(entries: Entries, change: Change) -> None:
    """Change a folder's entries; what was lost before cannot be moved."""
    assert not isinstance(change, Write)
    inside = entries.setdefault(change.owner, {})
    if isinstance(change, Enter):
        inside[change.name] = change.inode
    elif change.name in inside:
        inode = inside.pop(change.name)
        if isinstance(change, Move):
            inside[change.new_name] = inode


def written(before: bytes, changes: Sequence[Change]) -> bytes:
    """Return a file's bytes after writes; gaps are zeros."""
    data = bytearray(before)
    for write in changes:
        assert isinstance(write, Write)
        end = write.at + len(write.data)
        data.extend(bytes(max(0, end - len(data))))
        data[write.at : end] = write.data
    return bytes(data)


def parts_of(
    before: bytes, changes: Sequence[Change], rng: random.Random
) -> list[bytes]:
    """Return what may be left of a file's writes: none, all, or a part."""
    whole = written(before, changes)
    size = len(whole)
    parts = [bytes(size)]  # the length came first
    counts = range(1, len(changes))
    few = rng.sample(counts, min(PARTS, len(counts)))
    parts += [written(before, changes[:count]) for count in few]
    for sector in SECTORS:
        edges = range(sector, size, sector)
        for edge in rng.sample(edges, min(PARTS, len(edges))):
            parts += [whole[:edge], whole[:edge].ljust(size, b"\0")]
        if edges:
            there = [rng.random() < 0.5 for _ in range(-(-size // sector))]
            pieces = [whole[i * sector :][:sector] for i in range(len(there))]
            some = zip(pieces, there, strict=True)
            parts.append(b"".join(p if kept else bytes(len(p)) for p, kept in some))
    return [before, whole, *(p for p in dict.fromkeys(parts) if p != whole)]


# ---- states


@dataclass(frozen=True)
class State:
    """What a disk may be left with.

    Parameters
    ----------
    cut : int
        How many operations had been done.
    label : str
        What became of those that were pending, for people.
    tree : Tree
    promise : Promise
        What the writer had said by then.
    """

    cut: int
    label: str
    tree: Tree
    promise: Promise

    def key(self) -> bytes:
        """Return a hash: equal states need to be checked once."""
        digest = hashlib.blake2b(b"%d" % self.promise.lines)
        for path, data in self.tree.items():
            digest.update(f"{path}\0{-1 if data is None else len(data)}\0".encode())
            digest.update(data or b"")
        return digest.digest()

    def outcome(self) -> str:
        """Make it, check it, and say what it holds or how it is wrong."""
        with tempfile.TemporaryDirectory(prefix="funnel-", dir=scratch()) as made:
            for path, data in self.tree.items():
                if data is None:
                    (Path(made) / path).mkdir()
                else:
                    (Path(made) / path).write_bytes(data)
            said = self.promise.acknowledged, self.promise.intended
            try:
                return check(Path(made) / INDEX, *said)
            except AssertionError as error:
                return f"{VIOLATION}: {error}".replace(made, "…")


Way = tuple[str, int | None, list[int]]  # what to call it, which unit is alone, picks


def alone(units: Sequence[Unit], *, partly: bool) -> Iterator[Way]:
    """Yield ways in which units may survive: each one unlike all others.

    Parameters
    ----------
    units : sequence of Unit
    partly : bool
        Each file in part, all else there; otherwise each unit lost, and there.
    """
    for at, unit in enumerate(units):
        own = range(2, len(unit.variants)) if partly else (0, 1)
        for pick in own:
            picks = [int(pick != 1)] * len(units)
            picks[at] = pick
            yield ("lost", "there")[pick] if pick < 2 else "in part", at, picks


def ways_of(
    units: Sequence[Unit], most: int, rng: random.Random, *, all_alone: bool
) -> Iterator[Way]:
    """Yield ways in which units may survive: `most` of them, and others if asked.

    Parameters
    ----------
    units : sequence of Unit
    most : int
        How many to draw from the systematic ones and as many random ones.
    rng : random.Random
    all_alone : bool
        Yield besides all there, and each one alone lost, and alone there.
    """
    ways: list[Way] = [("all there", None, [1] * len(units))]
    ways += alone(units, partly=False)
    if all_alone:
        yield from ways
    if not most:
        return
    ways += alone(units, partly=True)
    for _ in range(len(ways)):
        share, sizes = rng.random(), [len(unit.variants) for unit in units]
        picks = [rng.randrange(size) if rng.random() < share else 1 for size in sizes]
        ways.append(("at random", None, picks))
    yield from rng.sample(ways, min(most, len(ways)))


def replay(
    trace: Trace, seed: int, ignored: frozenset[int]
) -> Iterator[tuple[int, Disk, Promise]]:
    """Yield the disk and the promise at each point; the same disk, as it goes on.

    Parameters
    ----------
    trace : Trace
    seed : int
    ignored : set of int
        Operations that do nothing: syncs, for mutants.
    """
    disk, promise = Disk(frozenset(trace.folders), seed), Promise()
    yield 0, disk, promise
    for at, op in enumerate(trace.ops):
        if at not in ignored:
            disk.do(op)
        if isinstance(op, Note):
            promise = promise.after(op.line)
        yield at + 1, disk, promise


def states_of(
    trace: Trace, most: int, seed: int, ignored: frozenset[int] = frozenset()
) -> Iterator[State]:
    """Yield states, equal ones each time.

    At each point all is lost. Where most is pending, before a sync or a line of the
    log, each entry and each file is lost alone, and there alone. Of all points and all
    ways, `most` more are drawn.
    """
    for cut, disk, promise in replay(trace, seed, ignored):
        units = disk.units()
        yield State(cut, "all lost", disk.tree(units, [0] * len(units)), promise)
    rng, points = random.Random(seed), len(trace.ops) + 1
    quotas = collections.Counter(rng.choices(range(points), k=most))
    for cut, disk, promise in replay(trace, seed, ignored):
        units, ahead = disk.units(), trace.ops[cut : cut + 1]
        full = any(isinstance(op, Sync | Note) for op in ahead)
        for label, at, picks in ways_of(units, quotas[cut], rng, all_alone=full):
            said = label if at is None else f"{disk.label(units[at])} {label}"
            yield State(cut, said, disk.tree(units, picks), promise)


def explore(states: Iterator[State], passed: set[bytes]) -> Iterator[tuple[State, str]]:
    """Check states that have not `passed` yet; yield each with its outcome."""
    for state in states:
        key = state.key()
        if key in passed:
            continue
        outcome = state.outcome()
        if not outcome.startswith(VIOLATION):
            passed.add(key)
        yield state, outcome


# ---- mutants


def mutants_of(trace: Trace, *, each_call: bool = False) -> dict[str, frozenset[int]]:
    """Return which operations to ignore, by a name: all syncs of a role, or one."""
    mutants: dict[str, frozenset[int]] = {}
    for at, op in enumerate(trace.ops):
        if isinstance(op, Sync):
            name = f"{op.role} #{at}" if each_call else op.role.removesuffix(AGAIN)
            mutants[name] = mutants.get(name, frozenset()) | {at}
    return mutants


def first_violation(
    states: Iterator[State], passed: set[bytes]
) -> tuple[State, str] | None:
    """Return the first state that is wrong, and how; None if all are right."""
    found = explore(states, set(passed))
    return next((f for f in found if f[1].startswith(VIOLATION)), None)


def is_doubled(trace: Trace, ignored: frozenset[int]) -> bool:
    """Tell whether a sync is one of two of the same thing without a change between."""
    again = {op.owner for op in trace.ops if isinstance(op, Sync) and AGAIN in op.role}
    ops = [trace.ops[at] for at in ignored]
    return len(ops) == 1 and isinstance(ops[0], Sync) and ops[0].owner in again


# ---- the command


def recorded(seed: int, *, traced: bool = True) -> Trace:
    """Record the workload: by strace, or in Python alone.

    Raises
    ------
    AssertionError
        If replaying all operations does not give what is on disk: one was not seen.
    """
    with tempfile.TemporaryDirectory(prefix="funnel-", dir=scratch()) as made:
        folder = Path(made) / "run"
        folder.mkdir()
        trace = (record if traced else failpoints.record)(folder, seed)
        disk = Disk(frozenset(trace.folders), seed)
        for op in trace.ops:
            disk.do(op)
        units = disk.units()
        found = {
            str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
            for path in folder.rglob("*")
            if path.name != LOG
        }
        assert disk.tree(units, [1] * len(units)) == found, "the trace lacks something"
    return trace


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--states", type=int, default=2_000, help="drawn at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON line a state or mutant")
    parser.add_argument(
        "--mutants", action="store_true", help="ignore each kind of sync"
    )
    parser.add_argument("--calls", action="store_true", help="… each single sync")
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _run_mutants(
    trace: Trace, asked: argparse.Namespace, passed: set[bytes]
) -> list[dict[str, Any]]:
    """Print what each ignored sync leads to, and return it."""
    noticed, unexplained, lines = 0, 0, []
    mutants = mutants_of(trace, each_call=asked.calls)
    _say(f"\n{'ignored':28} {'noticed':8} by")
    for name, ignored in mutants.items():
        states = states_of(trace, asked.states, asked.seed, ignored)
        found = first_violation(states, passed)
        by = "redundant: the same is synced twice"
        if found is not None:
            by = f"point {found[0].cut}, {found[0].label}: {found[1]}"[:120]
            noticed += 1
        elif not is_doubled(trace, ignored):
            by, unexplained = "redundant, or a blind spot", unexplained + 1
        _say(f"{name:28} {'yes' if found else 'no':8} {by}")
        doubled = found is None and is_doubled(trace, ignored)
        lines.append({"ignored": name, "noticed": bool(found), "doubled": doubled})
    _say(f"{noticed} of {len(mutants)} mutants noticed, {unexplained} not explained")
    return lines


def main() -> int:
    """Explore; return 1 if a state is wrong or a mutant goes unnoticed."""
    asked, reason = _asked(), cannot_trace()
    if reason is not None:
        _say(f"{reason}: recorded in Python, where what C forbids is not seen")
    trace = recorded(asked.seed, traced=reason is None)
    for words in trace.forbidden:
        _say(f"forbidden: {words}")
    passed: set[bytes] = set()
    outcomes: collections.Counter[str] = collections.Counter()
    lines = []
    for state, outcome in explore(states_of(trace, asked.states, asked.seed), passed):
        kind = outcome.partition(":")[0]
        outcomes[kind] += 1
        lines.append({"cut": state.cut, "state": state.label, "outcome": outcome})
        if kind == VIOLATION:
            _say(f"point {state.cut}, {trace.ops[state.cut - 1]!r:.100}: {lines[-1]}")
    counts = ", ".join(f"{n} {kind}" for kind, n in sorted(outcomes.items()))
    _say(f"{len(trace.ops)} operations, {len(lines)} different states: {counts}")
    _say(f"{outcomes[VIOLATION]} violations, {len(trace.forbidden)} forbidden calls")
    mutants = []
    if asked.mutants or asked.calls:
        mutants = _run_mutants(trace, asked, passed)
    if asked.out:
        both = [json.dumps(line) + "\n" for line in [*lines, *mutants]]
        asked.out.write_text("".join(both))
    unnoticed = sum(not (one["noticed"] or one["doubled"]) for one in mutants)
    return int(bool(outcomes[VIOLATION] or trace.forbidden or unnoticed))


if __name__ == "__main__":
    sys.exit(main())
