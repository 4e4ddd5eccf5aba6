"""What the system does that Python does not, and what it says, as errors of ours.

The number of an error (ENOSPC, EIO, …) is kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from funnel.errors import FunnelError, StorageError

LOCK, MERGING = "LOCK", "MERGING"  # files that are locked; empty


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says of a failed read into a `StorageError`."""
    with _said_of(f"cannot read {path}"):
        yield


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn what the system says of a failed write into a `StorageError`."""
    with _said_of(f"cannot write to {path}"):
        yield


@contextlib.contextmanager
def _said_of(what: str) -> Iterator[None]:
    try:
        yield
    except FunnelError:
        raise
    except OSError as error:
        ours = StorageError(f"{what}: {error}")
        ours.errno = error.errno
        raise ours from error


AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux: fcntl.h, linux/fs.h
SYNC_FILE_RANGE_WRITE = 2


@functools.cache
def _function(name: str) -> Any:
    """Return a function of the C library, or None where it has none of that name."""
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two directories in one step; False where the system cannot.

    Raises
    ------
    OSError
        If it can, but did not.
    """
    rename = _function("renameat2")
    if rename is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if rename(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def begin_storing(file: int, start: int, size: int) -> None:
    """Let the disk begin with bytes of an open file, where the system can be asked to.

    Does not wait, and says nothing of the disk's errors: only a sync makes bytes
    durable, and has less left to do after this.
    """
    begin = _function("sync_file_range")
    if begin is not None:
        places = ctypes.c_int64(start), ctypes.c_int64(size)
        begin(file, *places, SYNC_FILE_RANGE_WRITE)
