"""The next version of an index, while it is made: rows added, replaced, deleted.

New rows become a segment of their own, deleted ones are listed: nothing that is stored
is changed. Locks and publishes nothing (`changing.py` and `store/`); `compaction.py`
makes one segment of many.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from funnel.build import Options, build_index
from funnel.build.ingest import Ingest
from funnel.build.segment import SegmentBuilder
from funnel.errors import (
    DuplicateIdError,
    InvalidArgumentError,
    InvalidTypeError,
)
from funnel.kernels.types import Rows
from funnel.progress import Progress
from funnel.reading import fitted, merged_schema, replaced, rows_of, schema_of, widened
from funnel.snapshot import Snapshot
from funnel.sources import Batch, Source
from funnel.store.commit import DATA, fresh_name
from funnel.store.disk import reading
from funnel.store.ids import INT64_MAX, Ids
from funnel.store.manifest import Manifest, Segment
from funnel.store.matrix import FileEntry, write_matrix
from funnel.store.segment import map_file
from funnel.store.tables import TableWriter
from funnel.version import __version__

KIND_NAMES = {"row": "numbers of its own", "int64": "int ids", "text": "str ids"}


NO_ROWS: Rows = np.empty(0, np.int64)


class Draft:
    """The next version of an index, until it is published or abandoned.

    Parameters
    ----------
    base : Snapshot
        The newest version.
    folder : Path
    threads : int
        For building graphs.
    """

    def __init__(self, base: Snapshot, folder: Path, threads: int) -> None:
        self.folder, self.base, self.threads = folder, base, threads
        self.snapshot, self.manifest = base, base.manifest
        self._made: set[FileEntry] = set()

    @property
    def changed(self) -> bool:
        """Tell whether there is anything to publish."""
        return self.manifest is not self.base.manifest

    @property
    def finished(self) -> bool:
        """Tell whether it is a version of its own, ready to be published."""
        return self.manifest.version != self.base.manifest.version

    # ---- what is done

    def add(
        self, source: Source, ids: Ids | None, *, upsert: bool, drop_bad: bool,
        progress: Progress,
    ) -> int:  # fmt: skip
        """Add rows; return how many.

        Raises
        ------
        DuplicateIdError
            If an id is there already and `upsert` is false, or comes twice.
        """
        options = replace(options_of(self.manifest, self.threads), drop_bad=drop_bad)
        first = next(source.batches, None)
        if first is None:
            return 0
        batches = self._fitted(itertools.chain([first], source.batches))
        if not self.manifest.segments:
            return self._add_first(Source(batches, source.rows), ids, options, progress)
        first_id, next_id, replaced = 0, 0, NO_ROWS

        def write_ids(ingest: Ingest) -> None:
            nonlocal first_id, next_id, replaced
            named = ingest.kept_ids(ids)
            first_id, next_id = self._write_ids(ingest, named, upsert)
            merged_schema(schema_of(self.snapshot), ingest.schema)
            if named is not None:
                replaced = self._present(named, upsert)

        source = Source(batches, source.rows)
        segment = write_segment(self.snapshot, self.folder, source, options, write_ids,
                                progress)  # fmt: skip
        segment = replace(segment, first_id=first_id)
        self.append(segment, replaced, next_id)
        return segment.rows

    def _fitted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches whose metadata has the types that the index has."""
        known = schema_of(self.snapshot)
        for batch in batches:
            if batch.columns is None or not len(known):
                yield batch
            else:
                yield replace(batch, columns=fitted(batch.columns, known))

    def _add_first(
        self, source: Source, ids: Ids | None, options: Options, progress: Progress
    ) -> int:
        """Add the first rows: they decide the kind of ids and the projection."""
        built = build_index(
            self.folder, source.batches, source.rows, ids, options, progress
        )
        next_id, kind = self.manifest.next_id, built.id_kind
        (segment,) = built.segments
        if next_id and kind == "row" and "ids" not in segment.files:
            after = check_next_id(next_id + built.rows)  # rows that are all gone
            segment = replace(segment, first_id=next_id)
            built = replace(built, segments=(segment,), next_id=after)
        elif next_id and kind == "int64":  # the index goes on giving numbers
            kind = "row"
            highest = int(largest_id(self.folder, segment))
            built = replace(built, next_id=check_next_id(highest + 1))
        self.become(built, kind, NO_ROWS)
        return built.rows

    def _write_ids(
        self, ingest: Ingest, ids: Ids | None, upsert: bool
    ) -> tuple[int, int]:
        """Store the ids of new rows.

        Returns
        -------
        first_id, next_id : int
            Of the new rows, if their ids are not stored; of the index after them.
        """
        kind, m = self.manifest.id_kind, self.manifest
        if ids is None:
            if kind != "row":
                raise InvalidArgumentError(
                    f"this index has {KIND_NAMES[kind]}: pass ids="
                )
            if upsert:
                raise InvalidArgumentError("to replace rows, say which: pass ids=")
            return m.next_id, check_next_id(m.next_id + ingest.rows)
        if isinstance(ids, np.ndarray) == (kind == "text"):
            found = "int" if isinstance(ids, np.ndarray) else "str"
            raise InvalidTypeError(f"this index has {KIND_NAMES[kind]}, not {found}")
        ingest.write_ids(ids)
        if kind == "row":
            return 0, check_next_id(max(m.next_id, int(ids.max()) + 1))
        return 0, m.next_id

    def _present(self, ids: Ids, upsert: bool) -> Rows:
        """Return the rows that have one of `ids`; raise if they may not."""
        rows = rows_of(self.snapshot, ids)
        found = np.flatnonzero(rows >= 0)
        if len(found) and not upsert:
            one = ids[int(found[0])]
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise DuplicateIdError(
                f"id {getattr(one, 'as_py', lambda: one)()!s}{more} is there already: "
                "upsert() replaces rows"
            )
        return rows[found]

    def delete(self, rows: Rows) -> int:
        """Delete live rows; return how many."""
        if len(rows):
            self.put(self.manifest, np.union1d(self.snapshot.deleted, rows))
        return len(rows)

    def update_metadata(self, rows: Rows, table: pa.Table) -> int:
        """Give rows, (m,), the metadata of a table of m rows; return m."""
        if not len(rows):
            return 0
        table = fitted(table, schema_of(self.snapshot))
        schema = merged_schema(schema_of(self.snapshot), table.schema)
        segments, written = list(self.manifest.segments), []
        try:
            for i, segment in enumerate(self.snapshot.segments):
                first = int(self.snapshot.firsts[i])
                own = np.flatnonzero((rows >= first) & (rows < first + segment.rows))
                if len(own):
                    held = widened(segment.table, segment.rows, schema)
                    new = replaced(held, rows[own] - first, table.take(own))
                    segments[i] = self._with_metadata(segments[i], new)
                    written.append(segments[i].files["metadata"])
        except BaseException:
            self._remove(written)
            raise
        manifest = replace(self.manifest, segments=tuple(segments))
        self.put(manifest, self.snapshot.deleted)
        return len(rows)

    def _with_metadata(self, segment: Segment, table: pa.Table) -> Segment:
        """Write a segment's metadata anew; the segment is another one then."""
        name = fresh_name()
        writer = TableWriter(self.folder / DATA / f"{name}.metadata.arrow")
        writer.append(table)
        files = segment.files | {"metadata": writer.finish()}
        return replace(segment, id=name, files=files)

    # ---- what becomes of the manifest

    def append(
        self, segment: Segment, replaced: Rows = NO_ROWS, next_id: int = 0
    ) -> None:
        """Add a segment behind the others; the rows that it replaces are gone."""
        m = self.manifest
        segments = (*m.segments, segment)
        deleted = np.union1d(self.snapshot.deleted, replaced)
        next_id = max(m.next_id, next_id)
        self.put(replace(m, segments=segments, next_id=next_id), deleted)

    def become(self, built: Manifest, id_kind: str, deleted: Rows) -> None:
        """Take over what a build made of all rows."""
        m = self.manifest
        names = ("uuid", "version", "parent", "transform", "settings", "plan")
        kept = {name: getattr(m, name) for name in names}
        kept["next_id"] = max(m.next_id, built.next_id)
        self.put(replace(built, id_kind=id_kind, **kept), deleted)

    def put(self, manifest: Manifest, deleted: Rows) -> None:
        """Go on with another manifest: what is done next finds what was done."""
        rows = sum(s.rows for s in manifest.segments) - len(deleted)
        files = {role: f for role, f in manifest.files.items() if role != "deleted"}
        changed = replace(manifest, rows=rows, files=files)
        self._made |= set(changed.all_files())
        known = {s.segment.id: s for s in self.snapshot.segments}
        with reading(self.folder):
            snapshot = Snapshot(self.folder, changed, self.base.threads, known, deleted)
        self.manifest, self.snapshot = changed, snapshot  # both, or neither

    def finish(self) -> Manifest:
        """Write what is left to write; return the manifest, to be published."""
        m, files = self.manifest, dict(self.manifest.files)
        if len(self.snapshot.deleted):
            path = self.folder / DATA / f"{fresh_name()}.deleted.arrow"
            files["deleted"] = write_matrix(path, "row", self.snapshot.deleted)
        base = self.base.manifest
        self.manifest = replace(
            m,
            version=base.version + 1,
            parent=base.version,
            created_unix=time.time(),
            writer={"funnel": __version__, "pyarrow": pa.__version__},
            files=files,
        )
        return self.manifest

    def abandon(self) -> None:
        """Remove the files that were made for this version."""
        made = self._made | set(self.manifest.all_files())
        self._remove(made - set(self.base.manifest.all_files()))

    def forget(self) -> None:
        """Remove the files that were made on the way and are of no use any more."""
        kept = {*self.base.manifest.all_files(), *self.manifest.all_files()}
        self._remove(self._made - kept)

    def _remove(self, entries: Iterable[FileEntry]) -> None:
        for entry in entries:
            with contextlib.suppress(OSError):
                (self.folder / DATA / entry.name).unlink()


def largest_id(folder: Path, segment: Segment) -> int:
    """Return the largest id that a segment stores."""
    return int(map_file(folder / DATA, segment.files["ids"]).max())


def check_next_id(number: int) -> int:
    """Return the next number that an index would give, or raise if there is none."""
    if number > INT64_MAX:
        raise InvalidArgumentError(
            f"ids would go beyond {INT64_MAX}: an index that gives numbers itself "
            "needs some room above the ids that it is given"
        )
    return number


def write_segment(
    snapshot: Snapshot,
    folder: Path,
    source: Source,
    options: Options,
    write_ids: Callable[[Ingest], object],
    progress: Progress,
) -> Segment:
    """Write the files of a segment under the projection of a snapshot."""
    name = fresh_name()
    ingest = Ingest(folder / DATA, name, options, snapshot.blocks)
    try:
        ingest.write_rows(source.batches, source.rows, progress)
        write_ids(ingest)
        return SegmentBuilder(ingest, snapshot.projection(), progress).write(name)
    except BaseException:
        ingest.abandon()
        raise


def empty_manifest(options: Options) -> Manifest:
    """Return the first version of an index without rows."""
    o = options
    width = o.code_dim or min(o.full_dim, 64)
    walked = o.graph_dim if o.graph_dim and o.builder == "numba" else width
    return Manifest(
        uuid=str(uuid.uuid4()), version=1, parent=0, created_unix=time.time(),
        writer={"funnel": __version__, "pyarrow": pa.__version__},
        full_dim=o.full_dim, dims=o.dims, norm_dims=o.dims, metric=o.metric,
        dtype=o.dtype, transform=o.transform, id_kind="row", projection="prefix",
        graph_dim=o.graph_dim or width, code_dim=width, code_rows=0, stage_rows={},
        rows=0, segments=(), settings=o.settings(), walk_dim=walked,
    )  # fmt: skip


def options_of(manifest: Manifest, threads: int) -> Options:
    """Return the options that an index was made with."""
    m = manifest
    graph = m.segments[0].graph if m.segments else {}
    defaults = {
        "projection": "auto", "graph_dim": None, "code_dim": None,
        "M": graph.get("M", 16), "ef_construction": graph.get("ef_construction", 200),
        "builder": graph.get("builder", "numba"), "seed": graph.get("seed", 0),
    }  # fmt: skip
    return Options(
        dims=m.dims, full_dim=m.full_dim, metric=m.metric, dtype=m.dtype,
        transform=m.transform, threads=threads, drop_bad=False,
        **(defaults | m.settings),
    )  # fmt: skip
