"""Make one segment of many: live rows only, and a new graph.

Reads one version and writes the files of a later one, which may have come to be
meanwhile: readers go on reading, and writers write. Called by `FunnelIndex.compact`
and by `merging.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from funnel.build import Options, build_index
from funnel.errors import FunnelError
from funnel.kernels.types import Rows
from funnel.progress import Progress
from funnel.reading import id_column, metadata_of, slices
from funnel.snapshot import Snapshot
from funnel.sources import Batch, Source
from funnel.store.commit import DATA, newest_manifest
from funnel.store.ids import Ids
from funnel.store.manifest import Manifest, Segment
from funnel.writing import NO_ROWS, Draft, options_of, write_segment


@dataclass(frozen=True)
class Merged:
    """What was made of some segments of a version, not yet part of any.

    Parameters
    ----------
    base : Snapshot
        The version.
    start : int
        The first of the segments; the others are all that follow.
    rows : rows, rising
        Those of them that were live: row i of the new segment was ``rows[i]``.
    segment : Segment or None
        None where no row was live.
    fitted : Manifest or None
        What a build with a new projection gave, if there was one.
    """

    base: Snapshot
    start: int
    rows: Rows
    segment: Segment | None
    fitted: Manifest | None


def merge(
    base: Snapshot, folder: Path, start: int, threads: int, progress: Progress,
    *, refit: bool = False,
) -> Merged:  # fmt: skip
    """Make one segment of those from `start` on; with `refit`, of all of them."""
    rows = base.live_rows()
    rows = rows[rows >= base.firsts[start]]
    if not len(rows):
        return Merged(base, start, rows, None, None)
    if refit:
        assert start == 0, "a projection is of all rows"
        ids, options = _uncounted(base, rows), _options(base, threads)
        built = build_index(
            folder, _batches(base, rows), len(rows), ids, options, progress
        )
        return Merged(base, 0, rows, built.segments[0], built)
    ids = _uncounted(base, rows)
    segment = _written(base, base, folder, rows, ids, threads, progress)
    return Merged(base, start, rows, segment, None)


def _written(
    under: Snapshot,
    base: Snapshot,
    folder: Path,
    rows: Rows,
    ids: Ids | None,
    threads: int,
    progress: Progress,
) -> Segment:
    """Write rows of a snapshot as a segment under the projection of another."""
    return write_segment(
        under,
        folder,
        Source(_batches(base, rows), len(rows)),
        _options(base, threads),
        lambda ingest: None if ids is None else ingest.write_ids(ids),
        progress,
    )


def _options(base: Snapshot, threads: int) -> Options:
    """Return what an index was made with, for rows that are stored transformed."""
    return replace(options_of(base.manifest, threads), transform=None)


def apply(merged: Merged, draft: Draft, progress: Progress) -> None:
    """Put what was made in its place in a draft of the newest version.

    Rows deleted since are deleted in it too; segments added since follow it, made anew
    if the projection is another.

    Raises
    ------
    OvertakenError
    """
    base, now = merged.base, draft.snapshot
    m, count = now.manifest, len(base.segments)
    if [s.id for s in m.segments[:count]] != [s.id for s in base.manifest.segments]:
        raise OvertakenError
    first, end = int(base.firsts[merged.start]), int(base.firsts[count])
    gone = np.setdiff1d(now.deleted, base.deleted)
    gone = gone[(gone >= first) & (gone < end)]
    deleted = np.concatenate(
        [
            now.deleted[now.deleted < first],
            first + np.searchsorted(merged.rows, gone),
        ]
    )
    if merged.fitted is None:
        late = now.deleted[now.deleted >= end] - end + first + len(merged.rows)
        new = () if merged.segment is None else (merged.segment,)
        segments = (*m.segments[: merged.start], *new, *m.segments[count:])
        draft.put(replace(m, segments=segments), np.concatenate([deleted, late]))
        return
    draft.become(merged.fitted, m.id_kind, deleted)
    rows = now.live_rows()
    rows = rows[rows >= end]
    if len(rows):
        ids, threads = _ids(now, rows), draft.threads
        draft.append(
            _written(draft.snapshot, now, draft.folder, rows, ids, threads, progress)
        )


class OvertakenError(Exception):
    """Somebody else has merged the same segments."""


def compact(draft: Draft, progress: Progress) -> None:
    """Make one segment of all live rows, in their order, and choose a projection."""
    if not draft.manifest.rows:
        draft.put(replace(draft.manifest, segments=(), files={}), NO_ROWS)
        return
    merged = merge(draft.snapshot, draft.folder, 0, draft.threads, progress, refit=True)
    apply(merged, draft, progress)


def abandon(merged: Merged, folder: Path) -> None:
    """Remove the files of what was made, unless a version has come to name them."""
    try:
        named = {entry.name for entry in newest_manifest(folder).all_files()}
    except FunnelError:
        return  # garbage, once it is old
    files = [] if merged.segment is None else list(merged.segment.files.values())
    files += [] if merged.fitted is None else list(merged.fitted.files.values())
    for entry in files:
        if entry.name in named:
            return
        with contextlib.suppress(OSError):
            (folder / DATA / entry.name).unlink()


def _ids(snapshot: Snapshot, rows: Rows) -> Ids:
    """Return the ids of rows, as they are stored."""
    if snapshot.manifest.id_kind == "text":
        return pa.chunked_array([id_column(snapshot, rows)])
    return snapshot.ids(rows)


def _uncounted(snapshot: Snapshot, rows: Rows) -> Ids | None:
    """Return the ids of rows; None where they count from 0, and need not be stored."""
    ids, kind = _ids(snapshot, rows), snapshot.manifest.id_kind
    return None if kind == "row" and (ids == np.arange(len(ids))).all() else ids


def _batches(snapshot: Snapshot, rows: Rows) -> Iterator[Batch]:
    for some in slices(rows):
        columns = metadata_of(snapshot, some)
        yield Batch(snapshot.vectors(some), None, columns)
