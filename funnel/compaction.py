"""Make one segment of many: live rows only, a new projection, a new graph.

Reads one version and writes the files of the next; readers go on reading theirs.
Called by `FunnelIndex.compact`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from funnel.build import build_index
from funnel.kernels.types import Rows
from funnel.progress import Progress
from funnel.reading import id_column, metadata_of, slices
from funnel.snapshot import Snapshot
from funnel.sources import Batch
from funnel.store.ids import Ids
from funnel.writing import Draft, options_of


def compact(draft: Draft, progress: Progress) -> None:
    """Make one segment of all live rows, in their order."""
    snapshot, m = draft.snapshot, draft.manifest
    rows = snapshot.live_rows()
    if not len(rows):
        empty = replace(m, segments=(), files={}, rows=0)
        draft.become(empty, m.id_kind)
        return
    # Rows are stored transformed.
    options = replace(options_of(m, draft.threads), transform=None)
    built = build_index(
        draft.folder,
        _batches(snapshot, rows),
        len(rows),
        _ids(snapshot, rows),
        options,
        progress,
    )
    draft.become(built, m.id_kind)


def _ids(snapshot: Snapshot, rows: Rows) -> Ids | None:
    """Return the ids of rows; None where they count from 0."""
    if snapshot.manifest.id_kind == "text":
        return pa.chunked_array([id_column(snapshot, rows)])
    ids = snapshot.ids(rows)
    counted = snapshot.manifest.id_kind == "row" and (ids == np.arange(len(ids))).all()
    return None if counted else ids


def _batches(snapshot: Snapshot, rows: Rows) -> Iterator[Batch]:
    for some in slices(rows):
        columns = metadata_of(snapshot, some)
        yield Batch(snapshot.vectors(some), None, columns)
