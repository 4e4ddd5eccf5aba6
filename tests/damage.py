"""Ways to spoil input and files, and what must hold then.

That is one typed error, and nothing changed. Shared by the tests of bad input, sources
and stored files; other tests share `conftest.py`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from funnel import FunnelError, FunnelIndex

PARENTS = (ValueError, TypeError, OSError, LookupError)
TEMPORARY = tempfile.gettempdir()  # before `temporary` turns it elsewhere

build_small = functools.partial(
    FunnelIndex.build, threads=1, projection="prefix", graph_dim=8, code_dim=8
)


@pytest.fixture(scope="module", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep indexes that are built without a path where pytest tidies up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        yield


# ---- what must hold


@contextlib.contextmanager
def refused(kinds: Any, *words: str) -> Iterator[None]:
    """Expect an error of ours, of one of `kinds` and Python's, that says `words`."""
    with pytest.raises(FunnelError) as caught:
        yield
    assert isinstance(caught.value, kinds), repr(caught.value)
    assert isinstance(caught.value, PARENTS), repr(caught.value)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


def everything_in(*folders: Path) -> list[tuple[str, bytes]]:
    """Return every path below, hidden ones too, with what it holds or links to."""

    def content(path: Path) -> bytes:
        if path.is_symlink():
            return os.fsencode(path.readlink())
        return b"" if path.is_dir() else path.read_bytes()

    paths = (path for folder in folders for path in sorted(folder.rglob("*")))
    return [(str(path), content(path)) for path in paths]


def answers_of(index: FunnelIndex, queries: np.ndarray) -> list[Any]:
    """Return what a search answers, and the rows, for bitwise comparison."""
    hits = index.search(queries, k=7, threads=1)
    return [hits.ids.tolist(), hits.scores.tolist(), len(index)]


def numbers_of(table: pa.Table, column: str = "vector") -> np.ndarray:
    """Return a column of fixed-size lists as a 2-D array of its own dtype."""
    lists = table.column(column).combine_chunks()
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(table.num_rows, lists.type.list_size)


# ---- damage


def ragged(x: np.ndarray) -> list[list[float]]:
    """Return rows as lists, row 3 one number short."""
    rows = x.tolist()
    rows[3].pop()
    return rows


def flip(path: Path, at: int, mask: int = 1) -> None:
    """Flip the bits of `mask` in one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    path.write_bytes(data)


def cut(path: Path, keep: float) -> Path:
    """Keep the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def overwritten(path: Path, start: int, stop: int) -> Path:
    """Set bytes [start, stop) to 255."""
    data = bytearray(path.read_bytes())
    data[start:stop] = b"\xff" * (stop - start)
    path.write_bytes(data)
    return path


def resized(data: bytes) -> Iterator[bytes]:
    """Give the bytes of a file cut and lengthened in many ways."""
    yield from (data[: len(data) * i // 20] for i in range(20))
    yield from (data[:-1], data + b"\n", data + b"\0", data * 2)


# ---- rights


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Run as a user without rights where the tests run as root."""
    if os.getuid() != 0:
        yield
        return
    os.setresgid(65534, 65534, 0)
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


@contextlib.contextmanager
def reachable_folder() -> Iterator[Path]:
    """Make a folder that other users may reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(dir=TEMPORARY) as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            for path in (folder, *folder.rglob("*")):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o755)
