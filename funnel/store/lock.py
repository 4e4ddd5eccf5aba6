"""One writer at a time: a lock on the index's directory, freed when its holder dies.

Readers take no lock. Called by `writing.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from funnel.errors import LockedError, StorageError
from funnel.store.commit import LOCK

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
    lock = FileLock(
        folder / LOCK, thread_local=False, mode=0o644, fallback_to_soft=False
    )
    try:
        lock.acquire(timeout=timeout_s, poll_interval=POLL_S)
    except Timeout:
        raise LockedError(
            f"somebody else is writing to {folder} (waited {timeout_s:g} s)"
        ) from None
    except (OSError, NotImplementedError) as error:
        ours = StorageError(f"cannot lock {folder}: {error}")
        ours.errno = getattr(error, "errno", None)
        raise ours from error
    try:
        yield
    finally:
        lock.release()
