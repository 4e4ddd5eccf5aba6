"""Where an index may be, and how a new one comes to be there.

A new index is made in a hidden directory beside its place and renamed into it when it
is whole, so that a half-built index can never be opened.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from funnel.errors import (
    FunnelError,
    IndexExistsError,
    IndexNotFoundError,
    InvalidArgumentError,
    InvalidTypeError,
    StorageError,
)
from funnel.store.commit import (
    DATA,
    MANIFESTS,
    fresh_name,
    is_marked,
    read_marker,
    sync,
)
from funnel.store.disk import exchange, storing
from funnel.store.lock import writer_lock

BUILDING = ".building"  # ends the name of a directory that a build fills
ABANDONED_S = 600.0  # after which such a directory that nobody locks was left behind
REPLACE_S = 10.0  # to wait for a writer of the index that is replaced


def resolve(path: Any) -> Path:
    """Return an absolute path; relative ones are resolved once, ``~`` is expanded."""
    if isinstance(path, bytes) or not isinstance(path, str | os.PathLike):
        raise InvalidTypeError(
            f"path must be str or os.PathLike, not {type(path).__name__}"
        )
    text = os.fspath(path)
    if not isinstance(text, str):
        raise InvalidTypeError("path must be text, not bytes")
    if not text or "\0" in text:
        raise InvalidArgumentError(f"path {text!r} cannot name a directory")
    try:
        os.fsencode(text)
        return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 keeps links
    except (ValueError, RuntimeError) as error:
        raise InvalidArgumentError(
            f"path {text!r} cannot name a directory: {error}"
        ) from error


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise unless an index may be made at `path`; foreign files are never replaced."""
    try:
        parent_is_dir = path.parent.is_dir()
        os.lstat(path)
        taken = True
    except (FileNotFoundError, NotADirectoryError):
        taken = False
    except OSError as error:
        raise StorageError(f"cannot make {path}: {error}") from error
    around = _index_around(path)
    if around is not None:
        raise InvalidArgumentError(
            f"{path} is inside the index at {around}, whose files are its own: choose "
            "another directory"
        )
    if not parent_is_dir:
        raise IndexNotFoundError(f"{path.parent} is not a directory: make it first")
    if taken and not overwrite:
        raise IndexExistsError(
            f"{path} exists: pass overwrite=True to replace an index"
        )
    if taken:
        read_marker(path)  # only an index may be replaced
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise StorageError(f"{path.parent} is not writable")


def _index_around(path: Path) -> Path | None:
    """Return the index in whose directory `path` is, if it is in one."""
    real = Path(os.path.realpath(path.parent))
    return next((p for p in (real, *real.parents) if is_marked(p)), None)


@contextlib.contextmanager
def new_index(path: Path | None, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty directory to fill; put it in its place when the block ends well.

    Parameters
    ----------
    path : Path or None
        Where the index is to be; None leaves it in a temporary directory.
    overwrite : bool
        Replace an index that is there, once the new one is whole.
    """
    with storing(Path(tempfile.gettempdir()) if path is None else path):
        if path is None:
            staging = Path(tempfile.mkdtemp(prefix="funnel-"))
        else:
            check_free(path, overwrite=overwrite)
            path = path.resolve() if path.is_symlink() else path
            _remove_abandoned(path.parent)
            staging = path.parent / f".funnel-{fresh_name()}{BUILDING}"
            staging.mkdir()
    try:
        with writer_lock(staging, 0):  # it is not abandoned
            with storing(staging):
                (staging / DATA).mkdir()
                (staging / MANIFESTS).mkdir()
            yield staging
            if path is not None:
                with storing(path):
                    _put_in_place(staging, path, overwrite=overwrite)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _remove_abandoned(parent: Path) -> None:
    """Remove what builds left that were killed: whoever builds holds a lock."""
    for left in parent.glob(f".funnel-*{BUILDING}"):
        with contextlib.suppress(FunnelError, OSError):
            if time.time() - left.stat().st_mtime < ABANDONED_S:
                continue  # it may be about to be locked
            with writer_lock(left, 0):
                shutil.rmtree(left, ignore_errors=True)


def _put_in_place(staging: Path, path: Path, *, overwrite: bool) -> None:
    sync(staging)
    if overwrite and path.exists():
        read_marker(path)  # still an index, after all the time of a build
        with writer_lock(path, REPLACE_S):
            _replace(staging, path)
        return
    if os.path.lexists(path):
        raise IndexExistsError(f"{path} appeared while the index was built")
    staging.rename(path)
    _settle(path, undo=lambda: path.rename(staging))


def _replace(staging: Path, path: Path) -> None:
    """Put a new index in the place of an old one, which is removed.

    In one step on Linux. Elsewhere in two, between which there is nothing at `path`.
    """
    if exchange(staging, path):
        _settle(path, undo=lambda: exchange(staging, path))
        shutil.rmtree(staging, ignore_errors=True)
        return
    old = path.parent / f".funnel-{fresh_name()}.replaced"
    path.rename(old)
    try:
        staging.rename(path)
    except BaseException:
        old.rename(path)
        raise

    def undo() -> None:
        path.rename(staging)
        old.rename(path)

    _settle(path, undo)
    shutil.rmtree(old, ignore_errors=True)


def _settle(path: Path, undo: Callable[[], object]) -> None:
    """Make what is at `path` durable; if the disk refuses, nothing is to be left."""
    try:
        sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            undo()
        raise


def remove(folder: Path, owner: int) -> None:
    """Remove a temporary index, unless this is a fork of the process that made it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
