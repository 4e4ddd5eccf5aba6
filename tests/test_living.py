"""An index that changes: what was added, replaced and deleted is what a dict says.

A state machine against a NumPy oracle, and the laws of versions, transactions, locks
and garbage.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conftest
import naive
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
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
from funnel import FunnelIndex
from funnel.errors import (
    DimensionError,
    DuplicateIdError,
    FunnelError,
    InvalidArgumentError,
    InvalidTypeError,
    LockedError,
    NonFiniteError,
    ReadOnlyError,
    UnknownVersionError,
)
from funnel.kernels.jit import COMPILED

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
    monkeypatch.setattr("funnel.index.KEPT_VERSIONS", 5)
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
