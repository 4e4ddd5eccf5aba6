"""A writer, another one, and readers in turn: each answers for the version it shows.

A state machine. A handle that is asked says at which version it answered, which must be
the one that it is known to show, and the answer must be that of a float64 scan of what
that version held (`actors.py`). `test_living.py` looks at what changes do,
`test_concurrent.py` at handles that are used at the same time.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable

import conftest
import hypothesis
import pytest
from actors import POOL, READERS, TAGS, Actor, Known
from hypothesis import strategies as st
from hypothesis.stateful import (
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import funnel.build.segment
import funnel.handle
import funnel.merging
from funnel import FunnelIndex
from funnel.errors import (
    ClosedError,
    InvalidArgumentError,
    LockedError,
    ReadOnlyError,
    UnknownIdError,
    UnknownVersionError,
)
from funnel.kernels.jit import COMPILED

IDS = 60
QUERIES = conftest.near_rows(POOL, 6, 18)
NEVER_S = 1e9  # handles look for newer versions when they are made to
MODES = ("exact", "rerank", "funnel")
COPIES: tuple[Callable[[FunnelIndex], FunnelIndex], ...] = (
    lambda index: pickle.loads(pickle.dumps(index)),
    copy.copy,
    copy.deepcopy,
)

some_ids = st.lists(st.integers(0, IDS - 1), unique=True, max_size=12)
anyone = st.integers(0, READERS)
asked = st.integers(0, len(QUERIES) - 1)
tags = st.integers(0, TAGS - 1)
modes = st.sampled_from(MODES)


class Actors(Known):
    """Actions of the handles, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.searches = 0
        self.upsert(range(0, IDS, 2))

    # ---- writers

    @rule(numbers=some_ids)
    def add(self, numbers: list[int]) -> None:
        ids = [i for i in self.named(numbers) if i not in self.held]
        rows = self.new_rows(ids)
        if rows:
            assert self.writer.index.add(**self.given(rows)) == len(rows)
            self.changed(self.held | rows)

    @rule(numbers=some_ids)
    def upsert(self, numbers: Iterable[int]) -> None:
        rows = self.new_rows(self.named(numbers))
        if rows:
            assert self.writer.index.upsert(**self.given(rows)) == len(rows)
            self.changed(self.held | rows)

    @rule(numbers=some_ids)
    def delete(self, numbers: list[int]) -> None:
        ids, held = self.named(numbers), self.held
        left = {i: row for i, row in held.items() if i not in ids}
        assert self.writer.index.delete(ids) == len(held) - len(left)
        self.changed(left)

    @rule(tag=tags)
    def delete_where(self, tag: int) -> None:
        held = self.held
        left = {i: row for i, row in held.items() if row[1] != f"g{tag}"}
        if held:
            gone = self.writer.index.delete(filter={"tag": f"g{tag}"})
            assert gone == len(held) - len(left)
            self.changed(left)

    @rule(numbers=some_ids)
    def update_metadata(self, numbers: list[int]) -> None:
        held = self.held
        ids = [i for i in self.named(numbers) if i in held]
        new = {i: (held[i][0], tag) for i, (_, tag) in self.new_rows(ids).items()}
        if new:
            columns = self.given(new)["metadata"]
            assert self.writer.index.update_metadata(ids, columns) == len(ids)
            self.changed(held | new)

    @rule(keep=st.integers(1, 4))
    def compact(self, keep: int) -> None:
        self.writer.index.compact(keep_versions=keep)
        self.changed(self.held)
        if self.draft is None:
            self.kept = self.kept[-keep:]
            assert self.writer.index.versions() == self.kept

    @precondition(lambda self: self.draft is None)
    @rule()
    def begin(self) -> None:
        self.transaction = self.writer.index.transaction()
        self.transaction.__enter__()
        self.draft, self.writer.version = self.held, self.newest

    @precondition(lambda self: self.draft is not None)
    @rule(fails=st.booleans())
    def end(self, fails: bool) -> None:
        with pytest.raises(InvalidArgumentError, match="within a transaction"):
            self.writer.index.close()
        error = KeyError("of the user's") if fails else None
        assert not self.transaction.__exit__(error and KeyError, error, None)
        state = self.states[self.newest] if fails else self.held
        self.draft = None
        self.changed(state)

    @precondition(lambda self: self.draft is None)
    @rule()
    def reopen(self) -> None:
        self.writer.index.close()
        self.writer = Actor(self.open_writer(), self.newest)

    @rule(numbers=some_ids.filter(bool))
    def another_writes(self, numbers: list[int]) -> None:
        rows = self.new_rows(self.named(numbers))
        how = {"lock_timeout": 0, "auto_compact": False, "durability": "fast"}
        with FunnelIndex.open(self.path, "rw", **how) as other:
            if self.draft is not None:
                with pytest.raises(LockedError):
                    other.upsert(**self.given(rows))
                return
            other.upsert(**self.given(rows))
        self.kept.append(self.newest + 1)
        self.states[self.newest + 1] = self.held | rows

    # ---- readers come and go

    @rule()
    def open_newest(self) -> None:
        self.enter(Actor(FunnelIndex.open(self.path), self.newest))

    @rule(which=st.integers(0, 9))
    def open_version(self, which: int) -> None:
        version = self.kept[which % len(self.kept)]
        self.enter(Actor(FunnelIndex.open(self.path, version=version), version))

    @rule(which=st.integers(0, 9))
    def open_gone(self, which: int) -> None:
        gone = sorted(self.states.keys() - self.kept)
        if gone:
            with pytest.raises(UnknownVersionError, match="kept are"):
                FunnelIndex.open(self.path, version=gone[which % len(gone)])

    @rule(which=anyone, copied=st.sampled_from(COPIES))
    def copy(self, which: int, copied: Callable[[FunnelIndex], FunnelIndex]) -> None:
        actor = self.actor(which)
        if actor.index.follows:
            self.enter(Actor(copied(actor.index), self.newest))
        elif actor.version in self.kept:
            self.enter(Actor(copied(actor.index), actor.version))
        else:
            with pytest.raises(UnknownVersionError, match="kept are"):
                copied(actor.index)

    @rule(which=anyone)
    def refresh(self, which: int) -> None:
        actor = self.actor(which)
        assert actor.index.refresh() == (actor.version < self.newest)
        actor.version = self.newest

    @rule(which=anyone)
    def a_second_passes(self, which: int) -> None:
        actor = self.actor(which)
        actor.index._looked -= 2 * NEVER_S
        assert actor.index.versions() == self.kept  # looks for newer ones
        if actor.index.follows:
            actor.version = self.newest

    @precondition(lambda self: len(self.readers) > 1)
    @rule(which=anyone)
    def leave(self, which: int) -> None:
        reader = self.readers.pop(which % len(self.readers))
        reader.index.close()
        with pytest.raises(ClosedError):
            reader.index.search(QUERIES[0])

    # ---- they are asked

    @invariant()
    def all_search(self) -> None:
        self.searches += 1
        query = QUERIES[self.searches % len(QUERIES)]
        k, mode = 1 + self.searches % 7, MODES[self.searches % len(MODES)]
        for actor in (*self.readers, self.writer):
            hits = actor.index.search(query, k, mode=mode)
            self.check(hits, actor, query, k, [*self.states[actor.version]])

    @rule(which=anyone, number=asked, tag=tags, numbers=some_ids, mode=modes)
    def search_some(
        self, which: int, number: int, tag: int, numbers: list[int], mode: str
    ) -> None:
        actor, query = self.actor(which), QUERIES[number]
        listed, state = self.named(numbers), self.states[actor.version]
        if state:
            tagged = [i for i, (_, held) in state.items() if held == f"g{tag}"]
            hits = actor.index.search(query, 4, mode=mode, filter={"tag": f"g{tag}"})
            self.check(hits, actor, query, 4, tagged)
            hits = actor.index.search(
                query, 4, mode=mode, filter={"id": {"$in": listed}}
            )
            self.check(hits, actor, query, 4, [i for i in listed if i in state])

    @rule(which=anyone, number=st.integers(0, IDS - 1), k=st.integers(1, 5))
    def similar(self, which: int, number: int, k: int) -> None:
        actor, (one,) = self.actor(which), self.named([number])
        state = self.states[actor.version]
        if one not in state:
            assert one not in actor.index
            with pytest.raises(UnknownIdError, match=str(one)):
                actor.index.similar(one, k)
            return
        others = [i for i in state if i != one]
        query = POOL[state[one][0]]
        self.check(actor.index.similar(one, k), actor, query, k, others)

    @rule(which=anyone, numbers=some_ids)
    def get(self, which: int, numbers: list[int]) -> None:
        actor = self.actor(which)
        state = self.states[actor.version]
        ids = [i for i in self.named(numbers) if i in state]
        self.check_rows(actor.index.get(ids, vectors=True), state, ids)
        table = actor.index.to_arrow(vectors=True)
        self.check_rows(table, state, table["id"].to_pylist())
        assert len(table) == len(actor.index) == len(state)

    @rule(which=anyone)
    def verify(self, which: int) -> None:
        actor = self.actor(which)
        if actor.version in self.kept:
            actor.index.verify()
        else:
            with pytest.raises(UnknownVersionError, match="kept are"):
                actor.index.verify()

    @invariant()
    def versions_are_those_that_are_known(self) -> None:
        reader = self.readers[0]
        assert reader.index.versions() == self.kept
        assert len(reader.index) == len(self.states[reader.version])
        with pytest.raises(ReadOnlyError):
            reader.index.delete([0])


@pytest.mark.parametrize("merging", [False, True], ids=["scanned", "merged"])
@pytest.mark.parametrize("text", [False, True], ids=["int64", "text"])
def test_actors__answer_for_the_version_that_they_show(
    text: bool, merging: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(funnel.handle, "REFRESH_S", NEVER_S)
    if merging:
        monkeypatch.setattr(funnel.build.segment, "SCAN_ROWS", 8)
        monkeypatch.setattr(funnel.merging, "SCANNED_NODES", 12)
        monkeypatch.setattr(funnel.merging, "SCANNED_SEGMENTS", 3)
    machine = type("Machine", (Actors,), {"text": text, "merging": merging})
    run_state_machine_as_test(
        hypothesis.seed(2 * text + merging)(machine),  # not the same draws four times
        settings=hypothesis.settings(
            max_examples=12 if COMPILED else 2, stateful_step_count=40, deadline=None
        ),
    )
