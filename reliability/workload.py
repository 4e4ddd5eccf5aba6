"""A writer that follows a script, and what must hold of its index after a crash.

`python -m reliability.workload FOLDER SEED` writes `FOLDER/index`, and beside it
`log.jsonl`: what each change is to give, before it, and that it returned, after it.
`kill.py` and `powerloss.py` cut it short; `check` judges what is left. It cuts nothing
itself.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import funnel.build.segment
from funnel import FunnelIndex
from funnel.errors import IndexNotFoundError, NotAnIndexError

DIM, CODE_DIM, ROWS = 16, 8, 60
INDEX, LOG = "index", "log.jsonl"
GRAPH_ROWS = 20  # the built and compacted segments have graphs, the added ones none
PROBE = 10_000  # id and row number of the row that `check` adds

State = dict[int, tuple[int, str]]  # id → number of its vector, and tag


@dataclass(frozen=True)
class Edit:
    """One call of the writer.

    Parameters
    ----------
    verb : str
        A method of `FunnelIndex`; "delete_where" is `delete` by the filter of a tag.
    ids : tuple of int
    rows : tuple of int
        Numbers of the vectors that the ids get, if they get any.
    tag : str
        The metadata that they get, or that those which are deleted have.
    """

    verb: str
    ids: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    tag: str = ""

    def after(self, state: State) -> State:
        """Return what an index that held `state` holds after this."""
        if self.verb == "delete":
            return {i: held for i, held in state.items() if i not in self.ids}
        if self.verb == "delete_where":
            return {i: held for i, held in state.items() if held[1] != self.tag}
        if self.verb == "update_metadata":
            return state | {i: (state[i][0], self.tag) for i in self.ids}
        new = zip(self.ids, self.rows, strict=True)
        return state | {i: (row, self.tag) for i, row in new}

    def apply(self, index: FunnelIndex) -> None:
        """Do it to an open index."""
        if self.verb == "compact":
            index.compact()
        elif self.verb == "delete":
            index.delete(list(self.ids))
        elif self.verb == "delete_where":
            index.delete(filter={"tag": self.tag})
        elif self.verb == "update_metadata":
            index.update_metadata(list(self.ids), {"tag": [self.tag] * len(self.ids)})
        else:
            getattr(index, self.verb)(**self.given())

    def given(self) -> dict[str, Any]:
        """Return the rows as `build`, `add` and `upsert` take them."""
        tags = [self.tag] * len(self.ids)
        return {
            "data": np.stack([vector(row) for row in self.rows]),
            "ids": np.array(self.ids),
            "metadata": {"tag": tags},
        }


@functools.cache
def vector(row: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return vector number `row`: every eighth equals the one before it.

    Every 29th lies on an axis that no other has, and so has no node: an index of these
    rows has files of every role.
    """
    drawn = np.random.default_rng(row - (row % 8 == 7)).standard_normal(DIM)
    drawn[CODE_DIM:] = 0
    if row % 29 == 28:
        drawn = np.eye(DIM)[-1]
    return drawn.astype(np.float32)


def script(seed: int) -> list[tuple[Edit, ...]]:
    """Return the changes, the build first; those of more than one edit are atomic."""
    rng, fresh = np.random.default_rng(seed), iter(range(1_000))

    def edit(verb: str, ids: Iterable[int], tag: str) -> Edit:
        named = tuple(int(i) for i in ids)
        given = verb in ("build", "add", "upsert")
        return Edit(verb, named, tuple(next(fresh) for _ in named if given), tag)

    old, new = rng.permutation(ROWS), 100 + rng.permutation(40)
    return [
        (edit("build", range(ROWS), "built"),),
        (edit("add", new[:10], "added"),),
        (edit("upsert", [*old[:3], *new[8:12]], "upserted"),),
        (edit("delete", [*old[3:8], new[0]], ""),),
        (edit("update_metadata", [*old[10:13], new[1]], "updated"),),
        (
            edit("delete", [old[20], new[2]], ""),
            edit("add", new[12:17], "added within"),
            edit("update_metadata", [old[13], new[13]], "updated within"),
        ),
        (Edit("compact"),),
        (edit("add", new[20:24], "added last"),),
    ]


def run(folder: Path, seed: int) -> None:
    """Follow the script in `folder`, which exists and is empty."""
    funnel.build.segment.SCAN_ROWS = GRAPH_ROWS
    state: State = {}
    with (folder / LOG).open("ab", buffering=0) as log:
        for number, edits in enumerate(script(seed)):
            for edit in edits:
                state = edit.after(state)
            note(log, {"intent": number, "state": state})
            if number == 0:
                index = built(folder / INDEX, edits[0], auto_compact=False)
            elif len(edits) == 1:
                edits[0].apply(index)
            else:
                with index.transaction():
                    for edit in edits:
                        edit.apply(index)
            note(log, {"done": number})
    index.close()


def built(
    path: Path, edit: Edit, *, overwrite: bool = False, **opening: Any
) -> FunnelIndex:
    """Build an index of the rows of an edit; return it, opened as asked."""
    how = {"dims": [CODE_DIM, DIM], "projection": "pca", "code_dim": CODE_DIM}
    how |= {"M": 4, "ef_construction": 20, "overwrite": overwrite}
    FunnelIndex.build(path=path, **edit.given(), **how).close()
    return FunnelIndex.open(path, "rw", **opening)


def note(log: BinaryIO, line: dict[str, Any]) -> None:
    """Write a line to a log, durably."""
    log.write(json.dumps(line).encode() + b"\n")
    os.fsync(log.fileno())


# ---- what must hold


@dataclass(frozen=True)
class Promise:
    """What the writer's log says that an index must hold.

    Parameters
    ----------
    acknowledged : State or None
        After the last change that returned; None before the build did.
    intended : State or None
        After the change that was under way; None if there was none.
    lines : int
        Of the log.
    """

    acknowledged: State | None = None
    intended: State | None = None
    lines: int = 0

    def after(self, line: bytes) -> Promise:
        """Return what it says with one line more."""
        noted = json.loads(line)
        if "done" in noted:
            return Promise(self.intended, None, self.lines + 1)
        held = noted["state"].items()
        intended = {int(i): (row, tag) for i, (row, tag) in held}
        return Promise(self.acknowledged, intended, self.lines + 1)


def promised(log: Path, promise: Promise = Promise()) -> Promise:
    """Return what a log says; a last line that was cut short says nothing.

    Parameters
    ----------
    log : Path
    promise : Promise
        What was promised before the log begins; by default nothing.
    """
    for line in log.read_bytes().split(b"\n")[:-1] if log.exists() else ():
        promise = promise.after(line)
    return promise


def check(folder: Path, acknowledged: State | None, intended: State | None) -> str:
    """Judge the index that a crash left: no row lost, no change by half, writable.

    Adds a row to it.

    Parameters
    ----------
    folder : Path
        The index.
    acknowledged, intended : State or None
        As in `Promise`.

    Returns
    -------
    {"acknowledged", "intended", "absent"}
        What it holds.

    Raises
    ------
    AssertionError
        Saying what is wrong.
    """
    try:
        with FunnelIndex.open(folder) as index:
            found = _judge(index, acknowledged, intended)
        _check_versions(folder)
        _check_writable(folder)
    except (IndexNotFoundError, NotAnIndexError) as error:
        if acknowledged is None:
            return "absent"
        raise AssertionError(f"the index is gone: {error}") from error
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    return found


def _judge(
    index: FunnelIndex, acknowledged: State | None, intended: State | None
) -> str:
    index.verify("full")
    table = index.to_arrow(vectors=True)
    ids = table["id"].to_pylist()
    tags = table["tag"].to_pylist() if ids else []  # an empty index has no columns
    stored = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
    assert len(set(ids)) == len(ids) == len(index), f"ids repeat, or not all: {ids}"
    rows = {i: (stored[at].tobytes(), tags[at]) for at, i in enumerate(ids)}
    for name, state in (("acknowledged", acknowledged), ("intended", intended)):
        if state is not None and rows == _expected(state):
            return name
    wanted = _expected(acknowledged or {})
    lost, extra = sorted(wanted.keys() - rows), sorted(rows.keys() - wanted)
    other = sorted(i for i in wanted.keys() & rows if wanted[i] != rows[i])
    raise AssertionError(
        f"version {index.info['version']} is neither what was acknowledged nor what was"
        f" intended: of the former, ids {lost} lack, {extra} are new, {other} differ"
    )


def _expected(state: State) -> dict[int, tuple[bytes, str]]:
    return {i: (vector(row).tobytes(), tag) for i, (row, tag) in state.items()}


def _check_versions(folder: Path) -> None:
    """Open every version that is kept: nothing that it names may be gone."""
    with FunnelIndex.open(folder) as index:
        versions = index.versions()
    for version in versions[:-1]:
        with FunnelIndex.open(folder, version=version) as old:
            old.verify("full")


def _check_writable(folder: Path) -> None:
    probe = Edit("add", (PROBE,), (PROBE,), "probe")
    with FunnelIndex.open(folder, "rw", lock_timeout=0, auto_compact=False) as index:
        before = len(index)
        probe.apply(index)
    with FunnelIndex.open(folder) as index:
        index.verify("full")
        added = index.get([PROBE], vectors=True)["vector"][0].as_py()
        assert len(index) == before + 1, (
            f"{len(index)} rows after one more than {before}"
        )
        assert added == vector(PROBE).tolist(), "the row that was added is another"


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
