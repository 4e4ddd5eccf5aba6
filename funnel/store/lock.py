"""One writer at a time: a lock on the index's directory, freed when its holder dies.

Readers take no lock. Called by `writing.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from funnel.errors import LockedError, StorageError
from funnel.store.disk import LOCK, MERGING

POLL_S = 0.01


@contextlib.contextmanager
def writer_lock(folder: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of the index in `folder`.

    Raises
    ------
    LockedError
        If somebody else holds it for longer than `timeout_s`.
    StorageError
        If the directory is read-only, or its file system knows no locks.
    """
    with _held(folder / LOCK, timeout_s) as mine:
        if not mine:
            raise LockedError(
                f"somebody else is writing to {folder} (waited {timeout_s:g} s)"
            )
        yield


@contextlib.contextmanager
def merge_lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of whoever builds files that no version names yet.

    Yields whether it is held: there is one merger at a time, and none waits.
    """
    with _held(folder / MERGING, 0) as mine:
        yield mine


@contextlib.contextmanager
def _held(path: Path, timeout_s: float) -> Iterator[bool]:
    lock = FileLock(path, thread_local=False, mode=0o644, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout_s, poll_interval=POLL_S)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        ours = StorageError(f"cannot lock {path}: {error}")
        ours.errno = getattr(error, "errno", None)
        raise ours from error
    try:
        yield True
    finally:
        lock.release()
