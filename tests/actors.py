"""Handles of one index beside what each of its versions held, for `test_actors.py`.

What every version held is known, and at which version each handle is. Answers are
compared with a float64 scan. What is done to the index is not decided here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import conftest
import naive
import numpy as np
import pyarrow as pa
from hypothesis.stateful import RuleBasedStateMachine

from funnel import FunnelIndex
from funnel.results import Hits

DIM, TAGS, READERS = 24, 3, 5
POOL = conftest.turned_rows(400, DIM, 17, rank=16)
CLOSE = 4e-6

State = dict[Any, tuple[int, str]]  # id → row of `POOL`, and tag


@dataclass
class Actor:
    """A handle, and the version that it must show."""

    index: FunnelIndex
    version: int


class Known(RuleBasedStateMachine):
    """Handles of one index, beside what each of its versions held."""

    text = False
    merging = False

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="funnel-test-"))
        self.path = self.folder / "index"
        FunnelIndex.create(
            self.path, DIM, dims=(8, 16, DIM), M=4, ef_construction=20
        ).close()
        self.states: dict[int, State] = {1: {}}
        self.kept = [1]
        self.changes = 0
        self.draft: State | None = None  # within a transaction
        self.transaction: AbstractContextManager[FunnelIndex]
        self.writer = Actor(self.open_writer(), 1)
        self.readers = [Actor(FunnelIndex.open(self.path), 1)]

    def teardown(self) -> None:
        if self.draft is not None:
            self.transaction.__exit__(None, None, None)
        for actor in (self.writer, *self.readers):
            actor.index.close()
        shutil.rmtree(self.folder)

    def open_writer(self) -> FunnelIndex:
        how = {"durability": "fast", "auto_compact": self.merging}
        return FunnelIndex.open(self.path, "rw", **how)

    # ---- what is known

    @property
    def newest(self) -> int:
        return max(self.states)

    @property
    def held(self) -> State:
        """Return what the next change is made to."""
        return self.states[self.newest] if self.draft is None else self.draft

    def named(self, numbers: Iterable[int]) -> list[Any]:
        return [f"t{n}" if self.text else n for n in numbers]

    def new_rows(self, ids: list[Any]) -> State:
        """Return other rows and tags for ids than any change before gave them."""
        self.changes += 1
        rows = [int(str(i).lstrip("t")) * 7 + self.changes * 61 for i in ids]
        held = [(row % len(POOL), f"g{row % TAGS}") for row in rows]
        return dict(zip(ids, held, strict=True))

    def given(self, rows: State) -> dict[str, Any]:
        return {
            "data": POOL[[row for row, _ in rows.values()]],
            "ids": list(rows),
            "metadata": {"tag": [tag for _, tag in rows.values()]},
        }

    def changed(self, state: State) -> None:
        """Note what the writer's change has made."""
        self.writer.version = self.newest
        if self.draft is not None:
            self.draft = state
            assert self.writer.index.versions() == self.kept
            return
        if self.merging:
            self.writer.index._merger.wait()
        before, now = self.newest, self.writer.index.versions()[-1]
        assert now > before or state == self.states[before]
        assert now <= before + 1 or self.merging
        self.states |= dict.fromkeys(range(before + 1, now + 1), state)
        self.kept += range(before + 1, now + 1)
        self.writer.version = now

    def actor(self, which: int) -> Actor:
        actors = [*self.readers, self.writer]
        return actors[which % len(actors)]

    def enter(self, reader: Actor) -> None:
        if len(self.readers) == READERS:
            self.readers.pop(0).index.close()
        self.readers.append(reader)

    # ---- what is answered

    def check(
        self, hits: Hits, actor: Actor, query: np.ndarray, k: int, among: list[Any]
    ) -> None:
        """Compare an answer with a scan of what some rows of a version held."""
        assert hits.version == actor.version
        state, ids = self.states[actor.version], sorted(among)
        assert hits.ids.shape == (min(k, len(ids)),)
        assert set(hits.ids.tolist()) <= set(ids)
        if ids:
            places = np.array([ids.index(i) for i in hits.ids.tolist()], int)
            values = POOL[[state[i][0] for i in ids]].astype(np.float64)
            oracle = naive.prefix_cosines(values, query, DIM)
            naive.assert_same_ranking(places, hits.scores, oracle, CLOSE)

    def check_rows(self, table: pa.Table, state: State, ids: list[Any]) -> None:
        assert table["id"].to_pylist() == ids
        if ids:
            assert table["tag"].to_pylist() == [state[i][1] for i in ids]
            stored = np.array(table["vector"].to_pylist(), np.float32)
            np.testing.assert_array_equal(stored, POOL[[state[i][0] for i in ids]])
