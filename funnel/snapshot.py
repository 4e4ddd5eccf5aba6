"""One version of an index, open: mapped arrays, and scratch for walks.

What a search reads; searches nothing itself. Rows are numbered through all segments, in
the manifest's order.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from funnel.errors import CorruptIndexError
from funnel.kernels.codes import code_width
from funnel.kernels.segments import DEGREE, write_ids
from funnel.kernels.tiles import rows_as_tiles
from funnel.kernels.types import Floats, Rows
from funnel.kernels.walk import WALKS
from funnel.projection import Projection
from funnel.selection import Flags, Selection, select
from funnel.store.commit import DATA
from funnel.store.manifest import Manifest, Segment
from funnel.store.segment import SegmentFiles, map_file
from funnel.threads import Threads

REMEMBERED = 256  # plans
KEPT_BYTES, KEPT_FILTERS = 64 << 20, 256  # of what filters selected


class Snapshot:
    """One version of an index, open.

    Parameters
    ----------
    folder : Path
    manifest : Manifest
    threads : Threads
    known : mapping of str to SegmentFiles
        Segments that are open already, by id.
    deleted : rows, rising, optional
        Those of a version that has not been written yet.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        threads: Threads,
        known: Mapping[str, SegmentFiles] | None = None,
        deleted: Rows | None = None,
    ) -> None:
        data = folder / DATA
        self.manifest, self.threads = manifest, threads
        self.deleted: Rows = np.empty(0, np.int64) if deleted is None else deleted
        if "deleted" in manifest.files:
            self.deleted = map_file(data, manifest.files["deleted"])[:, 0]
        self.segments = tuple(
            (known or {}).get(segment.id) or _open_segment(data, manifest, segment)
            for segment in manifest.segments
        )
        self.firsts = np.cumsum([0, *(s.rows for s in self.segments)])
        self.axes = np.empty((0, 0), np.float32)
        self.axes.flags.writeable = False
        if "axes" in manifest.files:
            self.axes = map_file(data, manifest.files["axes"])
            if not np.isfinite(self.axes).all():
                name = manifest.files["axes"].name
                raise CorruptIndexError(f"{data / name}: an axis is not finite")
        self.coded_axes = (self.axes, *rows_as_tiles(self.axes))
        self.live = self._live_flags()
        self.everything = select(self.segments, self.live)
        self.has_graphs = any(row[DEGREE] for row in self.everything.table.tolist())
        like = np.empty(0, np.uint16 if manifest.dtype == "float16" else np.float32)
        self.starts, self.like = np.array(self.blocks, np.int64), like
        # Not a method of ours: a cycle would keep the maps after `close`.
        self._remembered = functools.lru_cache(REMEMBERED, typed=True)(
            functools.partial(_make, manifest)
        )
        self._scratch: list[npt.NDArray[np.uint8]] = []
        self._selections: OrderedDict[Any, Selection] = OrderedDict()
        self._keeping, self._kept_bytes = threading.Lock(), 0

    @property
    def blocks(self) -> tuple[int, ...]:
        """First dim of each column block, then full_dim; the same in all segments."""
        m = self.manifest
        return m.segments[0].blocks if m.segments else (0, m.full_dim)

    def _live_flags(self) -> list[Flags | None]:
        """Return which rows of a segment are not deleted; None where all are live."""
        flags: list[Flags | None] = []
        edges = np.searchsorted(self.deleted, self.firsts)
        for i, segment in enumerate(self.segments):
            gone = self.deleted[edges[i] : edges[i + 1]] - self.firsts[i]
            gone = gone[(gone >= 0) & (gone < segment.rows)]  # damage is no row
            flags.append(None)
            if len(gone):
                flags[i] = np.ones(segment.rows, np.uint8)
                flags[i][gone] = 0  # type: ignore[index]
        return flags

    def projection(self) -> Projection:
        """Return what the codes and graphs of all segments are dims of."""
        m = self.manifest
        return Projection(
            m.projection, m.graph_dim, m.code_dim, m.walk_dim, self.axes, m.code_rows,
            {}, {}, "auto", 0,
        )  # fmt: skip

    def is_live(self, row: int) -> bool:
        """Tell whether a row is not deleted."""
        at = int(np.searchsorted(self.deleted, row))
        return at == len(self.deleted) or int(self.deleted[at]) != row

    def live_rows(self) -> Rows:
        """Return the rows that are not deleted, rising."""
        rows = np.arange(self.firsts[-1])
        return np.setdiff1d(rows, self.deleted, True) if len(self.deleted) else rows

    def remember(self, make: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``make(manifest, *arguments)``, made once for equal arguments.

        Equal also means of equal type: True is not 1.
        """
        try:
            return self._remembered(make, *arguments)
        except TypeError:  # an argument that has no hash: let `make` judge it
            return make(self.manifest, *arguments)

    def kept_selection(self, key: Any) -> Selection | None:
        """Return what an earlier, equal filter selected."""
        with self._keeping:
            found = self._selections.get(key)
            if found is not None:
                self._selections.move_to_end(key)
            return found

    def keep_selection(self, key: Any, selection: Selection) -> None:
        """Keep what a filter selected, as long as others do not need the room."""
        with self._keeping:
            if key in self._selections:
                return
            self._selections[key] = selection
            self._kept_bytes += selection.bytes
            while len(self._selections) > 1 and (
                self._kept_bytes > KEPT_BYTES or len(self._selections) > KEPT_FILTERS
            ):
                _, oldest = self._selections.popitem(last=False)
                self._kept_bytes -= oldest.bytes

    def borrow_scratch(self) -> npt.NDArray[np.uint8]:
        """Return a `visited` array that no other thread has."""
        try:
            return self._scratch.pop()
        except IndexError:
            longest = max((len(s.codes) for s in self.segments), default=0)
            return np.zeros((WALKS, 1 + longest), np.uint8)

    def return_scratch(self, visited: npt.NDArray[np.uint8]) -> None:
        """Give a `visited` array back for the next search."""
        self._scratch.append(visited)

    # ---- rows and ids

    def parts(self, rows: Rows) -> list[tuple[SegmentFiles, Any, Rows]]:
        """Split rows by segment: the segment, where its rows are, and its own numbers.

        Rows of −1 are no segment's.
        """
        flat = rows.ravel()
        if len(self.segments) == 1:
            return [(self.segments[0], slice(None), flat)] if len(flat) else []
        owner = np.searchsorted(self.firsts, flat, side="right") - 1
        return [
            (self.segments[i], owner == i, flat[owner == i] - self.firsts[i])
            for i in np.unique(owner[flat >= 0]).tolist()
        ]

    def ids(self, rows: Rows) -> npt.NDArray[Any]:
        """Return the ids of `rows`, in their shape; rows of −1 give −1 or None."""
        if len(self.segments) == 1:
            return self.segments[0].ids(rows)
        if self.manifest.id_kind != "text":
            out: npt.NDArray[Any] = np.empty(rows.size, np.int64)
            write_ids(rows.ravel(), self.everything.table, out)
            return out.reshape(rows.shape)
        out = np.full(rows.size, None)
        for segment, at, own in self.parts(rows):
            out[at] = segment.ids(own)
        return out.reshape(rows.shape)

    def row_of(self, identifier: Any) -> int:
        """Return the row of an id, or −1; an id of another type is no row's."""
        for first, segment in zip(self.firsts[:-1], self.segments, strict=True):
            row = segment.row_of(identifier)
            if row >= 0 and self.is_live(int(first) + row):
                return int(first) + row
        return -1

    def vectors(self, rows: Rows) -> Floats:
        """Return stored vectors at full width, (len(rows), full_dim)."""
        out = np.empty((len(rows), self.manifest.full_dim), self.manifest.dtype)
        for segment, at, own in self.parts(rows):
            out[at] = segment.vectors(own)
        return out


def _open_segment(data: Path, manifest: Manifest, segment: Segment) -> SegmentFiles:
    """Map a segment's files."""
    widths = code_width(manifest.walk_dim), manifest.tail_width
    return SegmentFiles(data, segment, manifest.id_kind, widths)


def _make(manifest: Manifest, make: Callable[..., Any], *arguments: Any) -> Any:
    return make(manifest, *arguments)
