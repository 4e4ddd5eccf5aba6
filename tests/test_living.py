"""An index that changes: what was added, replaced and deleted is what a dict says.

A state machine against a NumPy oracle, and the laws of versions, transactions, locks
and garbage.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import conftest
import naive
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import funnel.build.segment
import funnel.merging
import funnel.store.commit
from funnel import FunnelIndex
from funnel.errors import (
    ClosedError,
    ConflictError,
    DimensionError,
    DuplicateIdError,
    FunnelError,
    InvalidArgumentError,
    InvalidTypeError,
    LockedError,
    NonFiniteError,
    ReadOnlyError,
    StorageError,
    UncertainCommitError,
    UnknownVersionError,
)
from funnel.kernels.jit import COMPILED
from funnel.store.lock import merge_lock
from funnel.store.manifest import Segment
from reliability.failpoints import Failpoints

DIM = 24
POOL = conftest.turned_rows(400, DIM, 7, rank=16)
QUERIES = conftest.near_rows(POOL, 3, 8)
CLOSE = 4e-6
GOLDEN = Path(__file__).parent / "golden"
KINDS = ("row", "int64", "text")


def named(kind: str, number: int) -> Any:
    return f"t{number}" if kind == "text" else number


class Living(RuleBasedStateMachine):
    """An index beside a dict of id → row of `POOL` and a tag."""

    kind = "row"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="funnel-test-"))
        self.path = self.folder / "living"
        self.rows: dict[Any, tuple[int, str | None]] = {}
        self.next_id = 0
        self.old: dict[int, set[Any]] = {}
        self.index = FunnelIndex.create(
            self.path, DIM, dims=(8, 16, DIM), M=4, ef_construction=20
        )
        self.reader = FunnelIndex.open(self.path)

    def teardown(self) -> None:
        self.index.close()
        self.reader.close()
        shutil.rmtree(self.folder)

    def drawn(self, data: st.DataObject, most: int = 30) -> list[int]:
        return data.draw(st.lists(st.integers(0, len(POOL) - 1), max_size=most))

    def remember(self) -> None:
        self.old[self.index.versions()[-1]] = set(self.rows)

    @initialize()
    def first(self) -> None:
        self.remember()

    @rule(data=st.data(), tagged=st.booleans())
    def add(self, data: st.DataObject, tagged: bool) -> None:
        at = self.drawn(data)
        given: dict[str, Any] = {}
        new = [named(self.kind, self.next_id + i) for i in range(len(at))]
        if self.kind != "row":
            given["ids"] = new
        tags = [f"g{row % 3}" for row in at] if tagged else [None] * len(at)
        if tagged and at:
            given["metadata"] = {"tag": tags}
        assert self.index.add(POOL[at], **given) == len(at)
        self.rows |= dict(zip(new, zip(at, tags, strict=True), strict=True))
        self.next_id += len(at)
        self.remember()

    @rule(data=st.data())
    def upsert(self, data: st.DataObject) -> None:
        at = self.drawn(data, 8)
        numbers = data.draw(st.permutations(range(self.next_id + 3)))[: len(at)]
        at = at[: len(numbers)]
        if not at or (self.kind == "row" and not self.rows and self.next_id == 0):
            return
        ids = [named(self.kind, n) for n in numbers]
        assert self.index.upsert(POOL[at], ids=ids) == len(at)
        self.rows |= {i: (row, None) for i, row in zip(ids, at, strict=True)}
        self.next_id = max(self.next_id, 1 + max(numbers))
        self.remember()

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        numbers = data.draw(st.lists(st.integers(0, self.next_id + 3), max_size=12))
        ids = [named(self.kind, n) for n in numbers]
        gone = {i for i in ids if i in self.rows}
        assert self.index.delete(ids) == len(gone)
        for i in gone:
            del self.rows[i]
        self.remember()

    @rule(data=st.data(), fails=st.booleans())
    def transact(self, data: st.DataObject, fails: bool) -> None:
        if not self.rows:
            return
        known = sorted(self.rows)
        victim, at = data.draw(st.sampled_from(known)), self.drawn(data, 4)
        before = dict(self.rows)
        try:
            with self.index.transaction():
                assert self.index.delete([victim]) == 1
                assert self.index.delete([victim]) == 0
                if at:
                    self.index.upsert(POOL[at[:1]], ids=[victim])
                if fails:
                    raise KeyError(victim)  # noqa: TRY301
        except KeyError:
            self.rows = before
            return
        del self.rows[victim]
        if at:
            self.rows[victim] = (at[0], None)
        self.remember()

    @rule(data=st.data())
    def add_what_is_there(self, data: st.DataObject) -> None:
        if self.rows:
            one = data.draw(st.sampled_from(sorted(self.rows)))
            with pytest.raises(DuplicateIdError, match=str(one)):
                self.index.add(POOL[:1], ids=[one])

    @rule()
    def compact(self) -> None:
        self.index.compact()
        self.old.clear()
        self.remember()

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = FunnelIndex.open(self.path, "rw")

    @rule(data=st.data(), nth=st.integers(1, 30))
    def crash(self, data: st.DataObject, nth: int) -> None:
        """Kill a fork at its n-th call that changes files; the index opens as it is.

        With all of what the fork was adding, or with none.
        """
        at = self.drawn(data, 8)
        new = [named(self.kind, self.next_id + i) for i in range(len(at))]
        given: dict[str, Any] = {} if self.kind == "row" else {"ids": new}
        self.index._merger.wait()
        self.index.close()
        self.index = FunnelIndex.open(self.path, "rw", auto_compact=False)
        before = self.index.versions()[-1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads that sleep
            child = os.fork()
        if not child:
            try:
                signal.alarm(60)
                Failpoints(nth).install()
                self.index.add(POOL[at], **given)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        self.index.close()
        self.index = FunnelIndex.open(self.path, "rw")
        if self.index.versions()[-1] > before:
            self.rows |= {i: (row, None) for i, row in zip(new, at, strict=True)}
            self.next_id += len(at)
        self.remember()

    @rule(data=st.data())
    def look_back(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.old)))
        with FunnelIndex.open(self.path, version=version) as index:
            assert set(index.to_arrow().column("id").to_pylist()) == self.old[version]

    @rule()
    def wait(self) -> None:
        self.index._merger.wait()
        self.remember()

    @rule()
    def verify(self) -> None:
        self.index._merger.wait()
        self.index.verify()

    @invariant()
    def answers_are_right(self) -> None:
        self.reader.refresh()
        for index in (self.index, self.reader):
            assert len(index) == len(self.rows)
            ids = sorted(self.rows)
            table = index.to_arrow(vectors=True)
            assert sorted(table.column("id").to_pylist()) == ids
            k = min(5, len(ids))
            values = POOL[[self.rows[i][0] for i in ids]].astype(np.float64)
            for mode in ("exact", "funnel"):
                hits = index.search(QUERIES, k=5, mode=mode)
                assert hits.ids.shape == (len(QUERIES), k)
                for query, found, scores in zip(
                    QUERIES, hits.ids, hits.scores, strict=True
                ):
                    places = np.array([ids.index(i) for i in found.tolist()], int)
                    if len(ids):
                        oracle = naive.prefix_cosines(values, query, DIM)
                        naive.assert_same_ranking(places, scores, oracle, CLOSE)

    @invariant()
    def rows_are_what_was_given(self) -> None:
        ids = sorted(self.rows)[:7]
        table = self.index.get(ids, vectors=True)
        assert table.column("id").to_pylist() == ids
        held = np.array(table.column("vector").to_pylist(), np.float32)
        np.testing.assert_array_equal(
            held.reshape(-1, DIM), POOL[[self.rows[i][0] for i in ids]]
        )
        if "tag" in table.column_names:
            tags = table.column("tag").to_pylist()
            assert tags == [self.rows[i][1] for i in ids]
        missing = named(self.kind, self.next_id + 5)
        assert missing not in self.index


@pytest.mark.parametrize("way", ["scanned", "walked", "merged"])
@pytest.mark.parametrize("kind", KINDS)
def test_living__equals_a_dict(
    kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "scanned":
        monkeypatch.setattr(funnel.build.segment, "SCAN_ROWS", 8)
    if way == "merged":
        monkeypatch.setattr(funnel.merging, "SCANNED_NODES", 8)
        monkeypatch.setattr(funnel.merging, "SCANNED_SEGMENTS", 2)
    machine = type("Machine", (Living,), {"kind": kind})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12 if COMPILED else 3, stateful_step_count=12, deadline=None
        ),
    )


# ---- versions, transactions, locks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def index(path: Path) -> Iterator[FunnelIndex]:
    with FunnelIndex.build(POOL[:50], path=path, metadata={"n": range(50)}) as built:
        yield built


def test_open__for_reading_refuses_every_change(index: FunnelIndex, path: Path) -> None:
    with FunnelIndex.open(path) as reader:
        for change in (
            lambda: reader.add(POOL[:1]),
            lambda: reader.upsert(POOL[:1], ids=[0]),
            lambda: reader.delete([0]),
            lambda: reader.compact(),
            lambda: reader.transaction().__enter__(),
        ):
            with pytest.raises(ReadOnlyError, match="mode='rw'"):
                change()
    assert index.versions() == [1]


def test_open__of_an_unknown_version_names_those_that_are_kept(
    index: FunnelIndex, path: Path
) -> None:
    index.delete([3])
    with pytest.raises(UnknownVersionError, match="1, 2"):
        FunnelIndex.open(path, version=7)
    with pytest.raises(InvalidArgumentError, match="reading only"):
        FunnelIndex.open(path, "rw", version=1)


def test_reader__sees_a_new_version_within_a_second(
    index: FunnelIndex, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("funnel.handle.REFRESH_S", 0.0)
    with FunnelIndex.open(path) as reader, FunnelIndex.open(path, version=1) as old:
        index.add(POOL[50:60])
        reader.search(POOL[0], k=1)
        old.search(POOL[0], k=1)
        assert (len(reader), len(old)) == (60, 50)


def test_change__that_changes_nothing_makes_no_version(index: FunnelIndex) -> None:
    assert index.delete([1000]) == 0
    assert index.add(POOL[:0]) == 0
    with index.transaction():
        pass
    assert index.versions() == [1]


def test_transaction__is_one_version(index: FunnelIndex, path: Path) -> None:
    with FunnelIndex.open(path) as reader:
        with index.transaction():
            index.add(POOL[50:60])
            index.delete([1, 52])
            assert not reader.refresh()
        assert reader.refresh()
        assert len(reader) == 58
    assert index.versions() == [1, 2]


def test_transaction__within_another_is_refused(index: FunnelIndex) -> None:
    with index.transaction():
        index.delete([1])
        with (
            pytest.raises(InvalidArgumentError, match="end that one first"),
            index.transaction(),
        ):
            pytest.fail("the inner block began")
        index.delete([2])
    assert index.versions() == [1, 2]
    assert len(index) == 48
    with contextlib.suppress(InvalidArgumentError), index.transaction():
        index.delete([3])
        index.transaction().__enter__()
    assert index.versions() == [1, 2]
    assert 3 in index
    with index.transaction():  # as if nothing had been
        index.delete([3])
    assert 3 not in index


def test_transaction__goes_on_without_a_change_that_failed(index: FunnelIndex) -> None:
    before = index.get([7]).to_pylist()
    with index.transaction():
        index.delete([1])
        for change in (
            lambda: index.add(np.full((3, POOL.shape[1]), np.nan)),
            lambda: index.upsert(POOL[:2], ids=[7, 7]),
            lambda: index.upsert(POOL[:2], ids=[7, 8], metadata={"n": ["x", "y"]}),
            lambda: index.update_metadata([7, 999], {"n": [0, 0]}),
            lambda: index.update_metadata([7], {"n": ["x"]}),
            lambda: index.delete(filter={"nope": 1}),
            lambda: index.delete(filter={}),
        ):
            with pytest.raises(FunnelError):
                change()
        index.delete([2])
    assert index.versions() == [1, 2]
    assert len(index) == 48
    assert index.get([7]).to_pylist() == before
    index.verify("full")


def test_handle__is_written_to_by_threads_in_turn(index: FunnelIndex) -> None:
    failed: list[BaseException] = []

    def work(start: int) -> None:
        try:
            for i in range(start, start + 4):
                with index.transaction():
                    index.add(POOL[i : i + 1], ids=[i])
                    index.delete([i - 50])
                index.upsert(POOL[i : i + 1], ids=[i])
                index.compact()
                assert index.search(POOL[i], k=1, mode="exact").ids.tolist() == [i]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(50 + 4 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sorted(index.to_arrow().column("id").to_pylist()) == list(range(16, 66))
    index.verify("full")


def test_transaction__of_another_thread_waits(index: FunnelIndex) -> None:
    def work() -> None:
        with index.transaction():
            index.delete([2])
            index.add(POOL[50:51])

    other = threading.Thread(target=work)
    with index.transaction():
        index.delete([1])
        other.start()
        other.join(0.05)
        assert other.is_alive()
        index.add(POOL[51:52])
    other.join()
    assert index.versions() == [1, 2, 3]
    assert len(index) == 50


@pytest.mark.parametrize("grouped", [False, True])
def test_change__within_a_change_is_refused(
    index: FunnelIndex, path: Path, *, grouped: bool
) -> None:
    """By its data or its progress: one of the two would be lost."""
    tried: list[str] = []
    changes = {
        "add": lambda: index.add(POOL[60:61]),
        "upsert": lambda: index.upsert(POOL[60:61], ids=[5]),
        "delete": lambda: index.delete([4]),
        "update_metadata": lambda: index.update_metadata([5], {"n": [0]}),
        "compact": lambda: index.compact(),
    }

    def change(*_: object) -> None:
        for name, one in changes.items():
            with pytest.raises(InvalidArgumentError, match="within another change"):
                one()
            tried.append(name)
        with pytest.raises(InvalidArgumentError):
            index.transaction().__enter__()
        with pytest.raises(InvalidArgumentError):
            index.close()

    def batches() -> Iterator[np.ndarray]:
        yield POOL[50:52]
        change()
        yield POOL[52:54]

    index.delete([3])
    with index.transaction() if grouped else contextlib.nullcontext():
        index.add(batches())
        index.add(POOL[54:56], progress=change)
        index.compact(progress=change)
    assert len(tried) >= 3 * len(changes)
    assert index.versions()[-1] == (3 if grouped else 5)
    assert sorted(index.to_arrow().column("id").to_pylist()) == [
        i for i in range(56) if i != 3
    ]
    index.verify("full")
    index.compact()
    assert len(list((path / "data").iterdir())) == len(index._manifest.all_files())


def test_compact__of_two_threads_is_done_in_turn(index: FunnelIndex) -> None:
    index.delete([3])
    index.add(POOL[50:60])
    began, failed = threading.Event(), []

    def work() -> None:
        try:
            began.wait()
            index.compact()
        except BaseException as error:
            failed.append(error)

    other = threading.Thread(target=work)
    other.start()
    index.compact(progress=lambda *_: began.set())
    other.join()
    assert not failed
    assert index.versions() == [4]  # the second had nothing to do
    assert (len(index), index.info["segments"]) == (59, 1)


def test_compact__while_another_handle_compacts_says_who_waited(
    index: FunnelIndex, path: Path
) -> None:
    index.delete([3])
    refused: list[object] = []
    with FunnelIndex.open(path, "rw", lock_timeout=0) as other:

        def try_too(*_: object) -> None:
            with pytest.raises(LockedError, match="somebody else"):
                other.compact()
            refused.append(1)

        index.compact(progress=try_too)
        assert refused
        other.compact()
        assert len(other) == 49
    assert index.versions() == [3]


def test_failed_changes__leave_no_files(index: FunnelIndex, path: Path) -> None:
    bad = POOL[50:60].copy()
    bad[4, 2] = np.nan
    before = sorted(p.name for p in (path / "data").iterdir())
    for change, error in (
        (lambda: index.add(bad), NonFiniteError),
        (lambda: index.add(POOL[:2, :5]), DimensionError),
        (lambda: index.add(POOL[:2], ids=["a", "b"]), InvalidTypeError),
        (lambda: index.add(POOL[:2], ids=[99, 99]), DuplicateIdError),
        (lambda: index.add(POOL[:2], ids=[99, 3]), DuplicateIdError),
        (lambda: index.add(POOL[:2], ids=[99]), InvalidArgumentError),
        (lambda: index.upsert(POOL[:2]), InvalidArgumentError),
        (lambda: index.add(POOL[:2], metadata={"n": ["x", "y"]}), InvalidTypeError),
        (lambda: index.delete(1.5), FunnelError),
        (lambda: index.compact(keep_versions=0), InvalidArgumentError),
    ):
        with pytest.raises(error):
            change()
    assert sorted(p.name for p in (path / "data").iterdir()) == before
    assert index.versions() == [1]
    assert index.add(POOL[50:60]) == 10


def test_metadata__gains_columns(index: FunnelIndex) -> None:
    index.add(POOL[50:52], metadata={"word": ["a", "b"]})
    index.add(POOL[52:53], metadata={"word": ["c"], "n": [9]})
    table = index.get([51, 0, 52])
    assert table.column("n").to_pylist() == [None, 0, 9]
    assert table.column("word").to_pylist() == ["b", None, "c"]
    index.compact()
    assert index.get([51, 0, 52]) == table


def test_ids__go_on_counting_after_deletes_and_compaction(index: FunnelIndex) -> None:
    index.delete([48, 49])
    index.compact()
    index.add(POOL[50:51])
    assert 49 not in index
    assert 50 in index
    assert index.search(POOL[50], k=1).ids.tolist() == [50]


def test_lock__held_by_another_handle_is_waited_for_then_reported(
    index: FunnelIndex, path: Path
) -> None:
    other = FunnelIndex.open(path, "rw", lock_timeout=0.05)
    with index.transaction(), pytest.raises(LockedError, match="somebody else"):
        other.delete([1])
    assert other.delete([1]) == 1
    other.close()
    assert index.delete([1, 2]) == 1


def test_handles__write_in_turn(index: FunnelIndex, path: Path) -> None:
    def work(start: int) -> None:
        with FunnelIndex.open(path, "rw") as own:
            for i in range(5):
                own.add(POOL[start + i : start + i + 1])

    threads = [threading.Thread(target=work, args=(60 + 10 * i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    index.refresh()
    assert len(index) == 65
    assert index.versions() == list(range(1, 17))
    assert sorted(index.to_arrow().column("id").to_pylist()) == list(range(65))


def test_readers__go_on_with_what_they_opened_while_it_is_removed(
    index: FunnelIndex, path: Path
) -> None:
    index.add(POOL[50:60], metadata={"n": range(50, 60)})
    reader = FunnelIndex.open(path)
    reader.follows = False
    before = reader.search(QUERIES, k=3).ids.tolist()
    index.delete([0])
    index.compact()
    assert index.versions() == [4]
    assert reader.search(QUERIES, k=3).ids.tolist() == before
    assert reader.to_arrow(vectors=True).num_rows == 60
    reader.close()


def test_compact__leaves_little_more_than_a_fresh_build(
    index: FunnelIndex, path: Path, tmp_path: Path
) -> None:
    for start in range(50, 150, 10):
        index.upsert(POOL[start : start + 10], ids=range(start - 40, start - 30))
    index.compact()
    rows = np.array(index.to_arrow(vectors=True).column("vector").to_pylist())
    FunnelIndex.build(rows.astype(np.float32), path=tmp_path / "fresh").close()

    def size(folder: Path) -> int:
        return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())

    names = {p.name for p in (path / "data").iterdir()}
    assert names == {entry.name for entry in index._manifest.all_files()}
    assert size(path / "manifest") < 10_000
    # Of so few rows, files are mostly their headers: the ids are one more.
    assert size(path) < 1.5 * size(tmp_path / "fresh")


def test_garbage__of_a_writer_that_died_is_removed_when_it_is_old(
    index: FunnelIndex, path: Path
) -> None:
    (stored,) = [p for p in (path / "data").iterdir() if ".norms." in p.name]
    left = stored.with_name("0" * 26 + ".norms.arrow")
    fresh = stored.with_name("1" * 26 + ".norms.arrow")
    foreign = stored.with_name("notes.txt")
    for file in (left, fresh, foreign):
        shutil.copy(stored, file)
    old = time.time() - 3600
    os.utime(left, (old, old))
    os.utime(foreign, (old, old))
    index.delete([1])
    index.compact()
    assert not left.exists()
    assert fresh.exists()
    assert foreign.exists()


def test_backup__is_an_index_of_its_own(index: FunnelIndex, tmp_path: Path) -> None:
    index.delete([4])
    index.add(POOL[60:61])
    index.backup(tmp_path / "copy")
    index.delete([5])
    with FunnelIndex.open(tmp_path / "copy", "rw") as copy:
        assert len(copy) == 50
        copy.verify()
        copy.add(POOL[61:62])
        assert copy.versions() == [1, 2]


def test_many_versions__open_fast_and_old_ones_are_let_go(
    index: FunnelIndex, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("funnel.changing.KEPT_VERSIONS", 5)
    for i in range(20):
        index.delete([i])
    assert len(index.versions()) <= 15
    assert index.versions()[-1] == 21
    names = {p.name for p in (path / "data").iterdir()}
    assert sum(".deleted." in name for name in names) <= 15


def test_arrow__streams_one_version(index: FunnelIndex) -> None:
    reader = pa.RecordBatchReader.from_stream(index)
    index.delete(list(range(40)))
    assert reader.read_all().num_rows == 50
    assert index.to_arrow().num_rows == 10


# ---- merging


def test_merging__gives_added_rows_a_graph_while_they_are_searched(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(funnel.build.segment, "SCAN_ROWS", 60)
    monkeypatch.setattr(funnel.merging, "SCANNED_NODES", 60)
    with FunnelIndex.create(path, DIM, M=4, ef_construction=20) as index:
        for start in range(0, 400, 10):
            index.add(POOL[start : start + 10])
            found = index.search(POOL[start], k=1)
            assert found.ids.tolist() == [start]
        index._merger.wait()
        segments = index._manifest.segments
        assert segments[0].graph
        assert len(segments) < 8
        assert sum(s.nodes for s in segments if not s.graph) < 60
        assert sorted(index.to_arrow().column("id").to_pylist()) == list(range(400))


def with_new_topics() -> tuple[np.ndarray, np.ndarray]:
    """Return rows, and ten times as many whose principal axes are others."""
    old, new = (conftest.turned_rows(n, 160, n, rank=20) for n in (150, 1500))
    return old, new


@pytest.mark.parametrize("projection", ["pca", "auto"])
def test_compact__fits_the_projection_to_what_came(path: Path, projection: str) -> None:
    old, new = with_new_topics()
    how: dict[str, Any] = {"projection": projection, "threads": 1}
    FunnelIndex.build(old, path=path, **how).close()
    with FunnelIndex.open(path, "rw", auto_compact=False) as index:
        index.add(new)
        held = np.square(new @ conftest.stored_axes(index)).sum() / np.square(new).sum()
        assert held < 0.8
        index.compact()
        info, axes = index.info, conftest.stored_axes(index)
    fresh = FunnelIndex.build(np.concatenate([old, new]), **how)
    assert info["shortlist_needed"] == fresh.info["shortlist_needed"]
    for name in ("projection", "graph_dim", "code_dim"):
        assert info[name] == fresh.info[name]
    np.testing.assert_array_equal(axes, conftest.stored_axes(fresh))
    assert np.square(new @ axes).sum() / np.square(new).sum() > 0.95


def test_merging__fits_the_projection_once_most_rows_are_new(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(funnel.build.segment, "SCAN_ROWS", 100)
    monkeypatch.setattr(funnel.merging, "SCANNED_NODES", 100)
    old, new = with_new_topics()
    with FunnelIndex.build(old, path=path, projection="pca", code_dim=40) as index:
        for start in range(0, len(new), 60):
            index.add(new[start : start + 60])
            index._merger.wait()
        m = index._manifest
        assert len(m.segments) < 6
        axes = np.array(index._snapshot().axes, np.float64)
    assert np.square(new @ axes.T).sum() / np.square(new).sum() > 0.9


def segment_of(rows: int) -> Segment:
    graph = {"M": 16} if rows >= funnel.merging.SCANNED_NODES else {}
    return Segment("s", rows, rows, (0, DIM), 1.0, graph, {})


@settings(max_examples=60)
@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=120))
def test_merging__leaves_few_segments_and_merges_a_row_seldom(adds: list[int]) -> None:
    """However large the additions are: graphs halve, small segments are few."""
    held: list[int] = []
    merged = 0
    for rows in adds:
        held.append(rows)
        while True:
            segments = tuple(segment_of(one) for one in held)
            start = funnel.merging.first_to_merge(
                SimpleNamespace(segments=segments, rows=sum(held))
            )
            if start is None:
                break
            merged += sum(held[start:])
            held[start:] = [sum(held[start:])]
        graphs = [s.rows for s in segments if s.graph]
        assert len(held) - len(graphs) < funnel.merging.SCANNED_SEGMENTS
        assert all(one > 2 * later for one, later in itertools.pairwise(graphs))
    assert merged <= sum(adds) * (2 + np.log(sum(adds)) / np.log(1.5))


def test_merging__takes_large_additions_in(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(funnel.build.segment, "SCAN_ROWS", 30)
    monkeypatch.setattr(funnel.merging, "SCANNED_NODES", 30)
    with FunnelIndex.build(POOL[:40], path=path, M=4, ef_construction=20) as index:
        for start in range(40, 400, 40):
            index.add(POOL[start : start + 40])
            index._merger.wait()
        segments = index._manifest.segments
        assert len(segments) < 4
        assert sum(s.rows for s in segments) == 400
        assert index.to_arrow().column("id").to_pylist() == list(range(400))


def test_merging__keeps_what_changed_meanwhile(
    index: FunnelIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a merge and its commit, rows of it are deleted, replaced and added."""
    from funnel.compaction import apply, merge
    from funnel.progress import Progress

    for refit, start in ((False, 1), (False, 0), (True, 0)):
        index.add(POOL[60:70])
        index.add(POOL[70:80])
        base, none = index._snapshot(), Progress()
        merged = merge(base, index.path, start, 1, none, refit=refit)
        ids = index.to_arrow().column("id").to_pylist()
        index.delete([ids[2], ids[-3]])
        index.upsert(POOL[90:91], ids=[ids[-1]])
        index.add(POOL[91:92])
        expected = index.to_arrow(vectors=True).sort_by("id")
        with index._changing() as draft:
            apply(merged, draft, none)
        assert index.to_arrow(vectors=True).sort_by("id") == expected
        index.verify()
        query = POOL[90] + POOL[91]
        best = index.search(query, k=2, mode="exact")
        np.testing.assert_array_equal(index.search(query, k=2).ids, best.ids)


def test_merging__is_given_up_when_the_handle_is_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(funnel.merging, "SCANNED_SEGMENTS", 2)
    index = FunnelIndex.create(path, DIM)
    for i in range(6):
        index.add(POOL[i : i + 1])
    index.close()
    with FunnelIndex.open(path) as again:
        assert len(again) == 6
        again.verify()
    assert not [t for t in threading.enumerate() if t.name == "funnel-merge"]


# ---- the format


def features(index: FunnelIndex) -> list[str]:
    raw = (index.path / "manifest" / f"{index.versions()[-1]:020d}.fm").read_bytes()
    document = json.loads(raw.partition(b"\n")[2])
    return list(document["format"]["reader_features"])


def test_manifest__names_what_an_older_reader_would_get_wrong(
    index: FunnelIndex,
) -> None:
    assert features(index) == []
    index.add(POOL[50:60])
    assert features(index) == ["segments", "numbered"]
    index.delete([3])
    assert features(index) == ["segments", "deleted", "numbered"]
    index.compact()
    assert features(index) == ["numbered"]
    index.delete(list(range(60)))
    index.compact()
    assert features(index) == ["segments"]
    assert index.search(QUERIES).ids.shape == (3, 0)
    index.add(POOL[:5])
    assert index.search(POOL[2], k=1).ids.tolist() == [62]


@pytest.mark.parametrize("version", sorted(GOLDEN.glob("v*")), ids=lambda p: p.name)
def test_golden__indexes_of_old_versions_can_be_changed(
    version: Path, tmp_path: Path
) -> None:
    path = tmp_path / "old"
    shutil.copytree(version / "index", path)
    with FunnelIndex.open(path, "rw") as index:
        before = index.to_arrow(vectors=True)
        ids = before.column("id").to_pylist()
        rows = index.vectors()[:2].astype(np.float32)
        new = ["new-1", "new-2"] if isinstance(ids[0], str) else [10**6, 10**6 + 1]
        index.add(rows + 0.1, ids=new)
        index.delete(ids[:1])
        assert index.to_arrow().column("id").to_pylist() == [*ids[1:], *new]
        index.compact()
        index.verify()
        assert index.get(ids[1:], vectors=True) == before.slice(1)


@pytest.mark.parametrize("rows", [[-1, 4], [4, 10**9], [50, 2], [2**62, -(2**62)]])
def test_deleted__that_is_damaged_is_never_a_crash(
    index: FunnelIndex, rows: list[int]
) -> None:
    index.delete([3, 7])
    (file,) = (index.path / "data").glob("*.deleted.arrow")
    with file.open("r+b") as damaged:
        damaged.seek(4096)
        damaged.write(np.array(rows, np.int64).tobytes())
    with FunnelIndex.open(index.path) as again:
        again.search(QUERIES, k=60)
        again.search(QUERIES, k=60, mode="exact")
        with pytest.raises(FunnelError, match="deleted"):
            again.verify()


# ---- what must hold whatever fails, and whenever


@pytest.mark.parametrize("error", [KeyboardInterrupt, StorageError("no descriptors")])
@pytest.mark.parametrize("step", ["_show", "collect", "look"])
def test_published__is_never_taken_back(
    index: FunnelIndex,
    step: str,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("funnel.changing.COLLECT_EVERY", 1)
    where = {
        "_show": "funnel.index.FunnelIndex._show",
        "collect": "funnel.changing.collect",
        "look": "funnel.merging.Merger.look",
    }
    with monkeypatch.context() as patch:
        patch.setattr(where[step], fail)
        if step == "collect" and isinstance(error, StorageError):
            index.add(POOL[50:60])
        else:
            with pytest.raises(type(error) if isinstance(error, Exception) else error):
                index.add(POOL[50:60])
            with pytest.raises(UncertainCommitError):
                index.add(POOL[60:61])
    with FunnelIndex.open(index.path, "rw") as again:
        again.verify()
        assert len(again) == 60
        again.add(POOL[60:61])


def test_merge__that_may_not_be_durable_is_kept(
    index: FunnelIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(funnel.merging, "SCANNED_SEGMENTS", 2)
    real = funnel.store.commit.sync

    def sync(path: Path) -> None:
        if path.name == "manifest" and "merge" in threading.current_thread().name:
            raise OSError(5, "broken")
        real(path)

    monkeypatch.setattr(funnel.store.commit, "sync", sync)
    for start in range(50, 80, 10):
        index.add(POOL[start : start + 10])
        index._merger.wait()
        if index._uncertain:
            break
    with FunnelIndex.open(index.path) as again:
        again.verify()
        assert again.info["segments"] == 1
        assert len(again) == len(index)


def test_handle__of_an_index_that_was_replaced_changes_nothing(
    index: FunnelIndex, path: Path
) -> None:
    reader = FunnelIndex.open(path)
    FunnelIndex.build(POOL[100:120], path=path, overwrite=True).close()
    for handle in (index, reader):
        with pytest.raises(ConflictError, match="another index"):
            handle.refresh()
    with pytest.raises(ConflictError, match="another index"):
        index.add(POOL[50:51])
    with FunnelIndex.open(path) as new:
        new.verify()
        assert (len(new), new.versions()) == (20, [1])
    assert len(reader) == 50
    reader.close()


def test_handle__of_an_index_that_is_gone_does_not_make_a_directory(
    index: FunnelIndex, path: Path
) -> None:
    shutil.rmtree(path)
    with pytest.raises(FunnelError):
        index.add(POOL[50:51])
    assert not path.exists()


def test_delete__takes_a_mask_for_the_rows_that_the_handle_shows(path: Path) -> None:
    ids = ["a", "b", "c", "d"]
    with FunnelIndex.build(POOL[:4], ids=ids, path=path) as one:
        mask = np.array([True, True, False, False])
        with FunnelIndex.open(path, "rw") as other:
            other.upsert(POOL[9:10], ids=["a"])
        assert one.delete(filter=mask) == 2
        assert sorted(one.to_arrow().column("id").to_pylist()) == ["c", "d"]


def test_search__takes_a_mask_for_the_rows_that_the_handle_shows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("funnel.handle.REFRESH_S", 0)
    with FunnelIndex.build(POOL[:4], ids=["a", "b", "c", "d"], path=path) as one:
        mask = np.array([True, True, False, False])
        with FunnelIndex.open(path, "rw") as other:
            other.upsert(POOL[9:10], ids=["a"])
            other.delete(["b"])
        hits = one.search(POOL[0], filter=mask)
        assert sorted(hits.ids.tolist()) == ["a", "b"]
        assert one.search(POOL[0]).version > hits.version


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork__searches_batches_and_merges(index: FunnelIndex) -> None:
    expected = index.search(POOL[:20], threads=2).ids.tolist()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        found = index.search(POOL[:20], threads=2).ids.tolist()
        os._exit(0 if found == expected else 3)
    assert os.waitpid(child, 0)[1] == 0


def test_garbage__leaves_what_somebody_is_building(index: FunnelIndex) -> None:
    building = index.path / "data" / f"{'2' * 26}.norms.arrow"
    building.write_bytes(b"not yet")
    os.utime(building, (1, 1))
    with merge_lock(index.path) as mine:
        assert mine
        index.delete([1])
        index.compact()
        assert building.exists()
    index.delete([2])
    index.compact()
    assert not building.exists()


def test_close__stays_closed(index: FunnelIndex, path: Path) -> None:
    def closes() -> None:
        with index.transaction():
            index.add(POOL[50:51])
            index.close()

    with pytest.raises(InvalidArgumentError, match="within a transaction"):
        closes()
    assert len(index) == 50
    reader = FunnelIndex.open(path)
    manifest = reader._manifest
    reader.close()
    with pytest.raises(ClosedError):
        reader._show(manifest)
    with pytest.raises(ClosedError):
        reader.search(POOL[0])


def test_close__during_searches_is_a_typed_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("funnel.handle.REFRESH_S", 0.0)
    FunnelIndex.build(POOL[:50], path=path).close()
    wrong: list[BaseException] = []

    def search(index: FunnelIndex) -> None:
        try:
            while True:
                index.search(POOL[:2], k=2, threads=1)
        except ClosedError:
            pass
        except BaseException as error:
            wrong.append(error)

    for _ in range(30):
        index = FunnelIndex.open(path)
        threads = [threading.Thread(target=search, args=(index,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.003)
        index.close()
        for thread in threads:
            thread.join()
    assert not wrong


def test_transaction__goes_on_after_a_step_that_failed(
    index: FunnelIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_snapshot(*_: Any, **__: Any) -> None:
        raise OSError(24, "too many open files")

    before = index.to_arrow(vectors=True)
    with index.transaction():
        with pytest.raises(DuplicateIdError):
            index.add(POOL[50:52], ids=[100, 3])
        with monkeypatch.context() as patch:
            patch.setattr("funnel.writing.Snapshot", no_snapshot)
            with pytest.raises(StorageError):
                index.upsert(POOL[90:91], ids=[4])
    assert index.versions() == [1]
    with index.transaction():
        with monkeypatch.context() as patch:
            patch.setattr("funnel.writing.Snapshot", no_snapshot)
            with pytest.raises(StorageError):
                index.upsert(POOL[90:91], ids=[4])
        index.delete([7])
    assert index.to_arrow(vectors=True) == before.filter(pa.compute.field("id") != 7)
    index.compact()
    index.add(POOL[50:51])
    assert 50 in index


def test_ids__never_go_beyond_int64(path: Path) -> None:
    top = 2**63 - 1
    with FunnelIndex.build(POOL[:4], path=path) as index:
        index.add(POOL[4:5], ids=[top - 2])
        for ids in (None, [top]):
            with pytest.raises(InvalidArgumentError, match="beyond"):
                index.add(POOL[5:8], ids=ids and [5, 6, top])
        assert index.add(POOL[5:6]) == 1
        assert index.search(POOL[5], k=1).ids.tolist() == [top - 1]
        assert -(2**40) not in index


@pytest.mark.parametrize("kind", KINDS)
def test_ids__of_rows_of_several_segments(path: Path, kind: str) -> None:
    numbers = [*range(5), *range(70, 73), *range(20, 24)]
    cuts = (slice(0, 5), slice(5, 8), slice(8, 12))
    with FunnelIndex.create(path, DIM, metric="cosine") as index:
        for cut in cuts:
            ids = None if kind == "row" else [named(kind, i) for i in numbers[cut]]
            index.add(POOL[: len(numbers[cut])], ids=ids)
        assert index.info["segments"] == len(cuts)
        rows = np.array([[11, -1, 0], [5, 7, 4]])
        found = index._snapshot().ids(rows)
        expected = [named(kind, numbers[row]) for row in rows.ravel()]
        if kind == "row":
            expected = rows.ravel().tolist()
        expected[1] = None if kind == "text" else -1
        assert found.shape == rows.shape
        assert found.ravel().tolist() == expected


def test_ids__of_an_index_that_drops_bad_rows_go_on_counting(path: Path) -> None:
    bad = POOL[:5].copy()
    bad[2, 0] = np.nan
    with FunnelIndex.build(bad, path=path, on_bad_vectors="drop") as index:
        assert index.to_arrow().column("id").to_pylist() == [0, 1, 3, 4]
        index.add(POOL[5:7])
        assert index.to_arrow().column("id").to_pylist() == [0, 1, 3, 4, 5, 6]
        index.delete([0, 1, 3, 4, 5, 6])
        index.compact()
        index.upsert(POOL[:1], ids=[3])
        index.add(POOL[1:2])
        assert index.to_arrow().column("id").to_pylist() == [3, 7]


def test_metadata__fits_the_types_that_are_there(index: FunnelIndex) -> None:
    index.add(POOL[50:52], metadata={"word": [None, None]})
    index.add(POOL[52:53], metadata={"word": ["a"], "n": [None]})
    large = pa.table(
        {"word": pa.array(["b"], pa.large_string()), "n": pa.array([5], pa.int8())}
    )
    index.add(POOL[53:54], metadata=large)
    coded = pa.table({"word": pa.array(["c"]).dictionary_encode()})
    index.add(POOL[54:55], metadata=coded)
    assert index.update_metadata([52], coded) == 1
    assert index.update_metadata([53], {"word": [None]}) == 1
    table = index.get([50, 52, 53, 54])
    assert table.column("word").to_pylist() == [None, "c", None, "c"]
    assert table.column("n").to_pylist() == [None, None, 5, None]
    runs = pa.table({"word": pa.RunEndEncodedArray.from_arrays([1], ["x"])})
    for wrong in (runs, {"n": ["x"]}, {"n": [1.5]}):
        with pytest.raises(InvalidTypeError):
            index.add(POOL[55:56], metadata=wrong)
    index.compact()
    assert index.get([50, 52, 53, 54]) == table
