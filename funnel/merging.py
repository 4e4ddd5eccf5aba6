"""Merge segments behind a writer's back, so that searches stay fast.

A thread of the handle that wrote; it reads one version, builds without the writer's
lock, and takes it only to put the result in its place. The work is in `compaction.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from funnel.compaction import OvertakenError, abandon, apply, merge
from funnel.errors import ClosedError
from funnel.progress import Progress
from funnel.snapshot import Snapshot
from funnel.store.lock import merge_lock
from funnel.store.manifest import Manifest
from funnel.threads import spare_cpus
from funnel.writing import Draft

SCANNED_NODES = 4_000  # without a graph: from so many on they get one
SCANNED_SEGMENTS = 16  # each costs a search its files and a microsecond
SWALLOWED = 2  # a segment is merged too if it has at most so many times the rows
DELETED_SHARE = 0.2  # of all rows: then all is made anew

log = logging.getLogger("funnel")


def first_to_merge(manifest: Manifest) -> int | None:
    """Return the first segment of those at the end that should be one, or None.

    Small ones are, once they are many; a large addition, which gets its graph at once,
    with what comes before it. Rows are merged again only when there are half as many
    new ones: about log n times in all.
    """
    segments = manifest.segments
    held = sum(s.rows for s in segments)
    if held - manifest.rows > DELETED_SHARE * held and held >= SCANNED_NODES:
        return 0
    start, rows, nodes = len(segments), 0, 0
    while start and not segments[start - 1].graph:
        start -= 1
        rows += segments[start].rows
        nodes += segments[start].nodes
    count = len(segments) - start
    alone = (nodes < SCANNED_NODES or count < 2) and count < SCANNED_SEGMENTS
    if alone and start:
        start -= 1
        rows += segments[start].rows
    last = start
    while start and segments[start - 1].rows <= SWALLOWED * rows:
        start -= 1
        rows += segments[start].rows
    return None if alone and start == last else start


class Writing(NamedTuple):
    """What of a handle a merger needs.

    Parameters
    ----------
    folder : Path
    newest : callable
        Returns the version that the handle shows.
    changing : callable
        Returns a context in which the next version can be changed.
    """

    folder: Path
    newest: Callable[[], Snapshot]
    changing: Callable[[], AbstractContextManager[Draft]]


class Merger:
    """Merges what a handle has written, in a thread that ends when there is no more."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._lock, self._stopped = threading.Lock(), False
        self._owner = os.getpid()

    def look(self, handle: Writing) -> None:
        """Start merging if a handle's version needs it and nothing is being merged."""
        if first_to_merge(handle.newest().manifest) is None:
            return
        if os.getpid() != self._owner:  # a fork has none of our threads
            self._lock, self._thread, self._owner = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(
                    target=self._run, args=(handle,), name="funnel-merge"
                )
                self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being merged."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def stop(self) -> None:
        """Give up what is being merged, as soon as it can be."""
        self._stopped = True

    def _run(self, handle: Writing) -> None:
        try:
            with merge_lock(handle.folder) as mine:
                while mine and self._merge_once(handle):
                    self._advance()
        except (StoppedError, ClosedError):
            pass
        except Exception as error:
            log.warning(
                "segments of %s were not merged: %s", handle.folder, repr(error)
            )
        finally:
            with self._lock:
                self._thread = None

    def _merge_once(self, handle: Writing) -> bool:
        """Merge, if there is something to; return whether there was."""
        base, progress = handle.newest(), Progress(self._advance)
        start = first_to_merge(base.manifest)
        if start is None:
            return False
        merged = merge(
            base, handle.folder, start, spare_cpus(), progress, refit=start == 0
        )
        with contextlib.suppress(OvertakenError):
            try:
                with handle.changing() as draft:
                    apply(merged, draft, progress)
            except BaseException:
                abandon(merged, handle.folder)
                raise
        return True

    def _advance(self, *_: object) -> None:
        if self._stopped or not threading.main_thread().is_alive():
            raise StoppedError


class StoppedError(Exception):
    """The handle was closed."""
