"""Build an index: two passes over the data, one graph, one manifest.

Pass 1 streams the source's rows to the vector blocks and keeps a sample; pass 2 reads
our own map of them and makes norms, codes and graph. Checking options is `index.py`'s
matter, the bytes of files are `store/`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from funnel.errors import InvalidArgumentError
from funnel.graph.adjacency import choose_entries, unreachable
from funnel.graph.build import build_graph
from funnel.kernels.jit import LINE_BYTES
from funnel.kernels.rows import prefix_norms
from funnel.kernels.types import Floats
from funnel.progress import Progress
from funnel.projection import Projection, choose_projection, unit
from funnel.sources import Batch
from funnel.store.commit import DATA, fresh_name
from funnel.store.ids import Ids, check_distinct, check_ids, keys_of, write_lookup
from funnel.store.manifest import Manifest, Segment
from funnel.store.matrix import FileEntry, MatrixWriter, write_matrix
from funnel.store.tables import TableWriter
from funnel.vectors import apply_transform, bad_rows, check_rows, raise_bad_rows

SAMPLE_ROWS = 20_000
SAMPLE_BYTES = 256 << 20
CHUNK_BYTES = 32 << 20
SCAN_ROWS = 1_000  # below that a scan of all codes is faster than a walk
CODE_QUANTILE = 0.9999  # larger coordinates are clipped: a finer step for the rest


@dataclass(frozen=True)
class Options:
    """What was asked of a build, checked."""

    dims: tuple[int, ...]
    full_dim: int
    graph_dim: int | None
    code_dim: int | None
    projection: str
    metric: str
    dtype: str
    transform: str | None
    M: int
    ef_construction: int
    builder: str
    seed: int
    threads: int
    drop_bad: bool


@dataclass
class Written:
    """What pass 1 leaves behind."""

    rows: int = 0
    seen: int = 0
    sample: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    row_hashes: npt.NDArray[np.uint64] = field(
        default_factory=lambda: np.empty(0, np.uint64)
    )
    kept: list[npt.NDArray[np.int64]] = field(default_factory=list)
    ids: list[Ids] = field(default_factory=list)


class Reservoir:
    """A uniform sample of a stream of rows.

    References
    ----------
    Vitter 1985, *Random sampling with a reservoir*, algorithm R.
    """

    def __init__(self, full_dim: int, seed: int) -> None:
        self.limit = max(64, min(SAMPLE_ROWS, SAMPLE_BYTES // (4 * full_dim)))
        self._rows: list[Floats] = []
        self._sample = np.empty((0, full_dim), np.float32)
        self._seen, self._rng = 0, np.random.default_rng(seed)

    def offer(self, rows: Floats) -> None:
        """Let each row replace a sampled one with the probability that is its due."""
        room = max(0, self.limit - self._seen)
        if room:
            self._sample = np.concatenate([self._sample, rows[:room]])
        late = rows[room:]
        places = self._seen + room + np.arange(len(late))
        drawn = self._rng.integers(0, places + 1)
        chosen = np.flatnonzero(drawn < self.limit)
        self._sample[drawn[chosen]] = late[chosen]
        self._seen += len(rows)

    def rows(self) -> Floats:
        """Return the sample, (s, full_dim)."""
        return self._sample


def vector_blocks(dims: tuple[int, ...]) -> tuple[int, ...]:
    """Return where the column blocks start, and full_dim.

    Short prefixes lie in a block of their own, so that they share pages with each
    other and not with dims that only the last survivors need.
    """
    full_dim = dims[-1]
    inner = [edge for edge in (128, 512) if edge * 2 <= full_dim and edge in dims]
    return (0, *inner, full_dim)


class SegmentBuilder:
    """Writes the files of one segment.

    Parameters
    ----------
    folder : Path
        The index's directory.
    options : Options
    progress : Progress
    """

    def __init__(self, folder: Path, options: Options, progress: Progress) -> None:
        self.id, self.options, self.progress = fresh_name(), options, progress
        self.folder = folder / DATA
        self.files: dict[str, FileEntry] = {}
        self.edges = vector_blocks(options.dims)
        self.blocks = [
            MatrixWriter(self.path(f"vectors{i}"), "vector", b - a, options.dtype)
            for i, (a, b) in enumerate(zip(self.edges, self.edges[1:], strict=False))
        ]
        self.metadata = TableWriter(self.path("metadata"))
        self.text_ids = TableWriter(self.path("ids"))
        self.written = Written()

    def path(self, role: str) -> Path:
        """Return where the file of this role goes."""
        return self.folder / f"{self.id}.{role}.arrow"

    # ---- pass 1

    def write_rows(self, batches: Iterator[Batch], rows: int | None) -> None:
        """Stream the source to disk; keep a sample, hashes and keys."""
        reservoir = Reservoir(self.options.full_dim, self.options.seed)
        hashes = []
        with self.progress.step("writing", rows) as advance:
            for batch in batches:
                vectors = self._clean(batch)
                for writer, a, b in zip(
                    self.blocks, self.edges, self.edges[1:], strict=False
                ):
                    writer.append(vectors[:, a:b])
                reservoir.offer(vectors)
                hashes.append(row_hashes(vectors.astype(self.options.dtype)))
                advance(len(batch.vectors))
        if not self.written.rows:
            raise InvalidArgumentError("there are no embeddings to build from")
        self.written.sample = reservoir.rows()
        self.written.row_hashes = np.concatenate(hashes)
        for i, writer in enumerate(self.blocks):
            self.files[f"vectors{i}"] = writer.finish()

    def _clean(self, batch: Batch) -> Floats:
        """Check a batch, leave out its bad rows, and take its ids and metadata."""
        o, w = self.options, self.written
        vectors = check_rows(batch.vectors, "embeddings", o.full_dim)
        vectors = apply_transform(vectors, o.transform)
        bad = bad_rows(vectors, o.dtype, zero_is_bad=o.metric == "cosine")
        if len(bad) and not o.drop_bad:
            raise_bad_rows(vectors, bad, "embeddings", o.dtype, w.seen)
        keep = np.setdiff1d(np.arange(len(vectors)), bad)
        w.kept.append(keep + w.seen)
        if batch.ids is not None:
            w.ids.append(_take(check_ids(batch.ids), keep))
        if batch.columns is not None:
            self.metadata.append(
                batch.columns.take(keep) if len(bad) else batch.columns
            )
        w.seen += len(vectors)
        w.rows += len(keep)
        return vectors[keep] if len(bad) else vectors

    def write_ids(self, given: Ids | None) -> str:
        """Store ids and their lookup; return the kind of ids."""
        w = self.written
        ids = _collect(given, w)
        if ids is None:
            return "row"
        keys = keys_of(ids)
        check_distinct(keys, ids)
        if isinstance(ids, np.ndarray):
            self.files["ids"] = write_matrix(self.path("ids"), "id", ids)
        else:
            self.text_ids.append(pa.table({"id": ids}))
            self.files["ids"] = self.text_ids.finish()
        self.files["lookup"] = write_lookup(self.path("lookup"), keys)
        return "int64" if isinstance(ids, np.ndarray) else "text"

    # ---- pass 2

    def write_graph(self, projection: Projection) -> Segment:
        """Make nodes, norms, codes and links; return the finished segment."""
        if self.metadata.rows:
            self.files["metadata"] = self.metadata.finish()
        coordinates = Coordinates(self, projection)
        node_rows = self._write_nodes(coordinates)
        code_unit = self._write_norms_and_codes(coordinates, node_rows)
        graph = self._write_links(coordinates, node_rows)
        return Segment(
            self.id, self.written.rows, len(node_rows), self.edges, code_unit, graph,
            self.files,
        )  # fmt: skip

    def _write_nodes(self, coordinates: Coordinates) -> npt.NDArray[np.int64]:
        """Give equal rows one node; return the first row of each node."""
        first = first_equal(self.written.row_hashes, coordinates.raw)
        rows = len(first)
        owners = np.flatnonzero(first == np.arange(rows))
        if len(owners) == rows:
            return owners
        node_of_row = np.searchsorted(owners, first)
        order = np.argsort(node_of_row, kind="stable")
        starts = np.searchsorted(node_of_row[order], np.arange(len(owners) + 1))
        for role, array in (("node_starts", starts), ("node_rows", order)):
            self.files[role] = write_matrix(self.path(role), role, array.astype("i8"))
        return owners

    def _write_norms_and_codes(
        self, coordinates: Coordinates, node_rows: npt.NDArray[np.int64]
    ) -> float:
        o = self.options
        norm_dims = np.array(norm_columns(o, coordinates.projection), np.int64)
        columns = len(norm_dims) + (coordinates.projection.kind == "pca")
        norms = MatrixWriter(self.path("norms"), "norm", columns, "float32")
        width = padded(coordinates.projection.code_dim)
        codes = MatrixWriter(self.path("codes"), "code", width, "int8")
        unit_step = coordinates.code_unit(self.written.sample)
        with self.progress.step("coding", self.written.rows) as advance:
            for start, stop in coordinates.chunks(self.written.rows):
                raw = coordinates.raw(np.arange(start, stop))
                norms.append(coordinates.norms(raw, norm_dims))
                owned = node_rows[(node_rows >= start) & (node_rows < stop)] - start
                short = coordinates.of(raw[owned], coordinates.projection.code_dim)
                codes.append(quantise_rows(short, unit_step, width))
                advance(stop - start)
        self.files["norms"], self.files["codes"] = norms.finish(), codes.finish()
        return unit_step

    def _write_links(
        self, coordinates: Coordinates, node_rows: npt.NDArray[np.int64]
    ) -> dict[str, Any]:
        o, n = self.options, len(node_rows)
        if n < SCAN_ROWS:
            return {}
        began = time.perf_counter()
        width = coordinates.projection.graph_dim

        def batches() -> Iterator[Floats]:
            with self.progress.step("graph", n) as advance:
                for start, stop in coordinates.chunks(n):
                    rows = coordinates.raw(node_rows[start:stop])
                    yield coordinates.of(rows, width)
                    advance(stop - start)

        links = build_graph(
            batches(), n, width, builder=o.builder, M=o.M,
            ef_construction=o.ef_construction, seed=o.seed, threads=o.threads,
        )  # fmt: skip
        entries = choose_entries(links)
        lost = unreachable(links.neighbours, entries)
        entries = np.concatenate([entries, lost])
        self.files["links"] = write_matrix(self.path("links"), "node", links.neighbours)
        self.files["entries"] = write_matrix(self.path("entries"), "node", entries)
        return {
            "builder": o.builder, "M": o.M, "ef_construction": o.ef_construction,
            "seed": o.seed, "threads": o.threads, "unreachable": len(lost),
            "seconds": round(time.perf_counter() - began, 3),
        }  # fmt: skip

    def abandon(self) -> None:
        """Close what is open."""
        for writer in (*self.blocks, self.metadata, self.text_ids):
            writer.abandon()


class Coordinates:
    """Rows of the map, and their coordinates on the projection.

    Parameters
    ----------
    builder : SegmentBuilder
        Whose vector blocks are finished.
    projection : Projection
    """

    def __init__(self, builder: SegmentBuilder, projection: Projection) -> None:
        self.projection, self.options = projection, builder.options
        self._blocks = [writer.flushed() for writer in builder.blocks]

    def chunks(self, rows: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of rows that are about `CHUNK_BYTES` as float32."""
        step = max(1, CHUNK_BYTES // (4 * self.options.full_dim))
        for start in range(0, rows, step):
            yield start, min(start + step, rows)

    def raw(self, rows: npt.NDArray[np.int64]) -> Floats:
        """Return stored rows at full width, as float32."""
        consecutive = len(rows) and rows[-1] - rows[0] == len(rows) - 1
        at: Any = slice(rows[0], rows[-1] + 1) if consecutive else rows
        parts = [block[at] for block in self._blocks]
        return np.concatenate(parts, axis=1).astype(np.float32, copy=False)

    def of(self, raw: Floats, width: int) -> Floats:
        """Return renormalised coordinates; under inner product, times the full norm."""
        short = unit(self._project(raw, width))
        if self.options.metric == "ip":
            short *= np.linalg.norm(raw, axis=1, keepdims=True)
        return short

    def _project(self, raw: Floats, width: int) -> Floats:
        if self.projection.kind == "pca":
            return raw @ self.projection.axes[:, :width]
        return np.ascontiguousarray(raw[:, :width])

    def norms(self, raw: Floats, dims: npt.NDArray[np.int64]) -> Floats:
        """Return prefix norms, then, for axes, the norm of the code's coordinates."""
        out = np.empty((len(raw), len(dims)), np.float32)
        prefix_norms(raw, dims, out)
        if self.projection.kind != "pca":
            return out
        short = self._project(raw, self.projection.code_dim)
        held = np.linalg.norm(short, axis=1, keepdims=True)
        return np.concatenate([held, out], axis=1)

    def code_unit(self, sample: Floats) -> float:
        """Return the coordinate that a code of 1 stands for."""
        short = np.abs(self.of(sample, self.projection.code_dim))
        top = float(np.quantile(short, CODE_QUANTILE)) or float(short.max()) or 1.0
        return top / 127


def padded(width: int) -> int:
    """Return `width` rounded up to whole cache lines."""
    return -(-width // LINE_BYTES) * LINE_BYTES


def norm_columns(options: Options, projection: Projection) -> tuple[int, ...]:
    """Return the prefixes whose norms are stored, full_dim last."""
    widths = set(options.dims)
    if projection.kind == "prefix":
        widths.add(projection.code_dim)
    return tuple(sorted(widths))


def quantise_rows(short: Floats, code_unit: float, width: int) -> npt.NDArray[np.int8]:
    """Return coordinates as int8, padded with zeros to `width`."""
    codes = np.zeros((len(short), width), np.int8)
    codes[:, : short.shape[1]] = np.clip(np.rint(short / code_unit), -127, 127)
    return codes


def row_hashes(rows: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of the bytes of each row."""
    bytes_of = np.ascontiguousarray(rows).view(np.uint8)
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(row) for row in bytes_of), np.uint64, len(rows))


def first_equal(hashes: npt.NDArray[np.uint64], raw: Any) -> npt.NDArray[np.int64]:
    """Return, for each row, the first row with the same vector (often itself).

    Parameters
    ----------
    hashes : (n,) uint64
    raw : callable
        Rows of the map, to compare those whose hashes agree.
    """
    first = np.arange(len(hashes))
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order], prepend=hashes[order[:1]] ^ 1))
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        if stop - start > 1:
            group = order[start:stop]
            same = (raw(group) == raw(group[:1])).all(axis=1)
            first[group[same]] = group[0]
    return first


def _take(ids: Ids, keep: npt.NDArray[np.int64]) -> Ids:
    return (
        ids
        if len(keep) == len(ids)
        else ids[keep]
        if isinstance(ids, np.ndarray)
        else ids.take(keep)
    )


def _collect(given: Ids | None, w: Written) -> Ids | None:
    """Return the ids of all kept rows: those given, the source's, or None."""
    dropped = w.rows != w.seen
    if given is not None:
        if len(given) != w.seen:
            raise InvalidArgumentError(
                f"there are {len(given)} ids for {w.seen} embeddings"
            )
        return _take(given, np.concatenate(w.kept)) if dropped else given
    if w.ids:
        if isinstance(w.ids[0], np.ndarray):
            return np.concatenate(w.ids)
        return pa.chunked_array([c for ids in w.ids for c in ids.chunks])
    return np.concatenate(w.kept) if dropped else None


def build_manifest(
    folder: Path, builder: SegmentBuilder, id_kind: str, projection: Projection
) -> Manifest:
    """Return the first version of an index of one segment."""
    import uuid

    import pyarrow

    from funnel.version import __version__

    o, w = builder.options, builder.written
    files = {}
    segment = builder.write_graph(projection)
    if projection.kind == "pca":
        path = folder / DATA / f"{fresh_name()}.axes.arrow"
        files["axes"] = write_matrix(path, "axis", projection.axes)
    return Manifest(
        uuid=str(uuid.uuid4()), version=1, parent=0, created_unix=time.time(),
        writer={"funnel": __version__, "pyarrow": pyarrow.__version__},
        full_dim=o.full_dim, dims=o.dims, norm_dims=norm_columns(o, projection),
        metric=o.metric, dtype=o.dtype, transform=o.transform, id_kind=id_kind,
        projection=projection.kind, graph_dim=projection.graph_dim,
        code_dim=projection.code_dim, rows=w.rows, segments=(segment,), files=files,
        notes={
            "projection": projection.reason, "shortlist_needed": projection.needed,
            "dropped_rows": w.seen - w.rows,
        },
    )  # fmt: skip


def build_index(
    folder: Path,
    batches: Iterator[Batch],
    rows: int | None,
    ids: Ids | None,
    options: Options,
    progress: Progress,
) -> Manifest:
    """Write the files of a new index to `folder`; return its manifest, unpublished."""
    builder = SegmentBuilder(folder, options, progress)
    try:
        builder.write_rows(batches, rows)
        id_kind = builder.write_ids(ids)
        with progress.step("projection", None) as advance:
            o = options
            projection = choose_projection(
                builder.written.sample, o.projection, o.graph_dim, o.code_dim, o.seed
            )
            advance(1)
        return build_manifest(folder, builder, id_kind, projection)
    except BaseException:
        builder.abandon()
        raise
