"""A disk that refuses: a typed error, the old version intact, the next change works.

Each call that writes fails in turn, first to last; and a real file, or file system,
has a little more room each time.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import multiprocessing
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import conftest
import numpy as np
import pyarrow as pa
import pytest

from funnel import FunnelIndex
from funnel.errors import FunnelError, StorageError, UncertainCommitError

DIM = 24
POOL = conftest.turned_rows(120, DIM, 7, rank=16)
META = {"n": range(120), "word": [f"w{i}" for i in range(120)]}
IDS = [f"d{i}" for i in range(120)]


def rows(start: int, stop: int) -> dict[str, Any]:
    metadata = {name: list(values[start:stop]) for name, values in META.items()}
    return {"ids": IDS[start:stop], "metadata": metadata}


def transact(index: FunnelIndex) -> None:
    with index.transaction():
        index.delete(IDS[:3])
        index.add(POOL[100:105], **rows(100, 105))


CHANGES: dict[str, Callable[[FunnelIndex], object]] = {
    "add": lambda index: index.add(POOL[100:110], **rows(100, 110)),
    "upsert": lambda index: index.upsert(POOL[90:110], **rows(90, 110)),
    "delete": lambda index: index.delete(IDS[5:9]),
    "update": lambda index: index.update_metadata(IDS[:2], {"n": [7, 8]}),
    "transaction": transact,
    "compact": lambda index: (index.delete(IDS[:1]), index.compact()),
}


class Refusals:
    """Makes the n-th call that writes fail; counts them."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int) -> None:
        self.count, self.failing, self.error = 0, -1, number
        self.last = ""
        for owner, name in (
            (os, "open"), (os, "fsync"), (os, "link"), (pa, "OSFile"), (Path, "open"),
        ):  # fmt: skip
            self._wrap(patch, owner, name)
        opened = os.fdopen
        patch.setattr(os, "fdopen", lambda *a, **k: Refusing(opened(*a, **k), self))

    def note(self, name: str) -> None:
        """Count a call that writes; fail if it is the one."""
        self.count += 1
        if self.count == self.failing:
            self.last = name
            raise OSError(self.error, os.strerror(self.error))

    def _wrap(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def refused(*given: Any, **named: Any) -> Any:
            if name != "open" or _writes(given, named):
                self.note(name)
            return real(*given, **named)

        patch.setattr(owner, name, refused)

    def fail(self, nth: int) -> None:
        self.count, self.failing = 0, nth


class Refusing:
    """An unbuffered file whose writes may fail."""

    def __init__(self, file: Any, refusals: Refusals) -> None:
        self._file, self._refusals = file, refusals

    def write(self, piece: Any) -> int:
        """Write, or fail; half of a longer piece, as a raw file may."""
        self._refusals.note("write")
        part = piece[: len(piece) // 2] if len(piece) > 4096 else piece
        return int(self._file.write(part))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _writes(given: tuple[Any, ...], named: dict[str, Any]) -> bool:
    flags = [*given[1:2], *named.values()]
    return any(
        (isinstance(one, str) and one.strip("rb") != "")
        or (isinstance(one, int) and one & (os.O_CREAT | os.O_RDWR | os.O_WRONLY))
        for one in flags
    )


def held(index: FunnelIndex) -> pa.Table:
    return index.to_arrow(vectors=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize("name", CHANGES)
def test_change__that_is_refused_changes_nothing(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index"
    FunnelIndex.build(POOL[:90], path=path, **rows(0, 90)).close()
    shutil.copytree(path, tmp_path / "whole")
    tried, finished, seen = 0, False, []
    while not finished:
        tried += 1
        with monkeypatch.context() as patch:
            index = FunnelIndex.open(path, "rw", auto_compact=False)
            before = held(index)
            refusals = Refusals(patch, number)
            refusals.fail(tried)
            try:
                CHANGES[name](index)
                finished = refusals.failing > refusals.count
            except UncertainCommitError:
                with pytest.raises(UncertainCommitError):
                    index.delete(IDS[:1])
            except StorageError as error:
                seen.append(error.errno)
                if name != "compact":
                    assert held(index) == before
            refusals.fail(-1)
        index.close()
        with FunnelIndex.open(path, "rw", auto_compact=False) as again:
            again.verify()
            if again.versions() == [1]:
                assert held(again) == before
                CHANGES[name](again)
                again.verify()
        shutil.rmtree(path)
        shutil.copytree(tmp_path / "whole", path)
    assert tried > 5
    assert set(seen) == {number}


def test_build__that_is_refused_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nth, finished, seen = 0, False, []
    while not finished:
        nth += 1
        with monkeypatch.context() as patch:
            refusals = Refusals(patch, errno.ENOSPC)
            refusals.fail(nth)
            try:
                FunnelIndex.build(POOL[:90], path=tmp_path / "x", **rows(0, 90)).close()
                finished = True
            except StorageError as error:
                seen.append(error.errno)
        if not finished:
            assert not list(tmp_path.iterdir()), refusals.last
    assert nth > 10
    assert set(seen) == {errno.ENOSPC}


@contextlib.contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def test_change__without_descriptors_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with FunnelIndex.build(POOL[:90], path=path, **rows(0, 90)) as index:
        index.search(POOL[:3])
        before = held(index)
        used = len(list(Path("/proc/self/fd").iterdir()))
        refused = 0
        for limit in range(3, used + 60, 3):
            with limited(resource.RLIMIT_NOFILE, limit):
                try:
                    index.add(POOL[100:101], **rows(100, 101))
                    break
                except FunnelError:
                    refused += 1
                    assert held(index) == before
        assert refused
        assert len(index) == 91
        index.verify()


def test_search__needs_no_disk_once_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index"
    FunnelIndex.build(POOL[:90], path=path, **rows(0, 90)).close()
    with FunnelIndex.open(path) as index:
        expected = index.search(POOL[:5]).ids.tolist()
        monkeypatch.setattr("funnel.handle.REFRESH_S", 0.0)
        path.rename(tmp_path / "elsewhere")
        assert index.search(POOL[:5]).ids.tolist() == expected
        assert np.isfinite(index.search(POOL[0]).scores).all()


# ---- a file that may not grow, and a small file system


@contextlib.contextmanager
def limited_files(folder: Path, spare: int) -> Iterator[None]:
    """Let no file grow beyond `spare` bytes: Python ignores the signal."""
    with limited(resource.RLIMIT_FSIZE, spare):
        yield


@contextlib.contextmanager
def filled(folder: Path, spare: int) -> Iterator[None]:
    """Leave `spare` bytes free on the file system of a folder."""
    system, ballast = os.statvfs(folder), folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, system.f_bavail * system.f_frsize - spare)
    try:
        yield
    finally:
        ballast.unlink()


class UnmountableError(Exception):
    """This machine lets nobody mount a file system."""


def mount_small(folder: Path) -> None:
    """Mount 2 MB of memory on a folder, for this process alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    apart, private = 0x20000, 0x44000  # CLONE_NEWNS; MS_REC | MS_PRIVATE
    for failed in (
        lambda: libc.unshare(apart),
        lambda: libc.mount(b"none", b"/", None, private, None),
        lambda: libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=2m"),
    ):
        if failed():
            raise UnmountableError(os.strerror(ctypes.get_errno()))


def refuse_steps(folder: Path, name: str, *, mounted: bool) -> list[int]:
    """Try a change with a little more room each time; return errors until it works.

    To be called in a process of its own.
    """
    if mounted:
        mount_small(folder)
    room = filled if mounted else limited_files
    path, whole, seen = folder / "index", folder / "whole", []
    FunnelIndex.build(POOL[:90], path=path, **rows(0, 90)).close()
    shutil.copytree(path, whole)
    with FunnelIndex.open(path, "rw", auto_compact=False) as index:
        CHANGES[name](index)  # all that is needed is compiled and loaded
    for spare in range(0, 2 << 20, 4096 if mounted else 512):
        shutil.rmtree(path)
        shutil.copytree(whole, path)
        with FunnelIndex.open(path, "rw", auto_compact=False) as index:
            before = held(index)
            gc.collect()  # maps of removed files, in what an error left, keep room
            try:
                with room(folder, spare):
                    CHANGES[name](index)
            except StorageError as error:
                seen.append(error.errno or 0)
            else:
                return seen
            index.verify()
            if name != "compact":
                assert index.versions() == [1]
                assert held(index) == before
            CHANGES[name](index)
        with FunnelIndex.open(path) as again:
            again.verify()
            assert held(again) != before
    raise AssertionError("there is never room")


@pytest.mark.skipif(sys.platform != "linux", reason="limits and mounts differ")
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize(
    ("mounted", "number"),
    [(False, errno.EFBIG), (True, errno.ENOSPC)],
    ids=["file", "disk"],
)
def test_change__without_room_changes_nothing(
    mounted: bool, number: int, name: str, tmp_path: Path
) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as alone:
        try:
            seen = alone.submit(refuse_steps, tmp_path, name, mounted=mounted).result()
        except UnmountableError as error:
            pytest.skip(f"no file system can be mounted here: {error}")
    assert len(seen) >= 2  # an update of metadata writes two small files
    assert set(seen) == {number}
