"""What the system says of a failed read or write, as errors of ours.

The number of the error (ENOSPC, EIO, …) is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

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
