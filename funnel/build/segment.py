"""Pass 2: nodes, norms, codes and links of the rows that pass 1 stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from funnel.build.coordinates import (
    Coordinates,
    norm_columns,
    quantise_rows,
)
from funnel.build.ingest import Ingest
from funnel.build.nodes import first_equal
from funnel.graph.adjacency import choose_entries, link_unreachable, rooted
from funnel.graph.build import Links, build_graph
from funnel.graph.grow import grow_graph
from funnel.graph.halves import are_uneven, directions, joined
from funnel.graph.knit import knit_graph
from funnel.kernels.codes import code_width
from funnel.kernels.types import Floats, Rows
from funnel.progress import Progress
from funnel.projection import Projection
from funnel.store.manifest import Segment
from funnel.store.matrix import MatrixWriter, map_body, write_matrix
from funnel.vectors import unit

Bools = npt.NDArray[np.bool_]
SCAN_ROWS = 4_000  # below that a scan of all codes is faster than a walk


class SegmentBuilder:
    """Derives a segment's files from its stored rows.

    Parameters
    ----------
    ingest : Ingest
        Finished.
    projection : Projection
    progress : Progress
    """

    def __init__(
        self, ingest: Ingest, projection: Projection, progress: Progress
    ) -> None:
        self._ingest, self._progress = ingest, progress
        self._options, self._projection = ingest.options, projection
        self._coordinates = Coordinates(ingest.blocks(), ingest.options, projection)

    def write(self, name: str) -> Segment:
        """Write all files; return the segment, called `name`."""
        first = first_equal(self._ingest.hashes(), self._coordinates.raw)
        owners = np.flatnonzero(first == np.arange(len(first)))
        code_unit, loose = self._write_norms_and_codes(owners)
        node_rows = owners[~loose]
        self._write_nodes(first, node_rows, owners[loose])
        graph = self._write_links(node_rows)
        i = self._ingest
        i.finish()
        return Segment(
            name, i.rows, len(node_rows), i.edges, code_unit, graph, dict(i.files)
        )

    def _put(self, role: str, column: str, array: Any) -> None:
        path = self._ingest.path(role)
        self._ingest.files[role] = write_matrix(path, column, array)

    def _writer(self, role: str, width: int, dtype: str) -> MatrixWriter:
        return MatrixWriter(self._ingest.path(role), role[:-1], width, dtype)

    def _tails(self, width: int) -> AbstractContextManager[MatrixWriter | None]:
        return closing(self._writer("tails", width, "int8")) if width else nullcontext()

    def _write_norms_and_codes(self, owners: Rows) -> tuple[float, Bools]:
        """Write both in one reading of the rows.

        Returns
        -------
        code_unit : float
        loose : (len(owners),) bool
            Which owners are loose, and so have no node and no code.
        """
        at, c = self._ingest, self._coordinates
        norm_dims = np.array(norm_columns(self._options, self._projection), np.int64)
        columns = len(norm_dims) + (self._projection.kind == "pca")
        code_dim = self._projection.code_dim
        head = self._projection.walk_dim
        tail = code_dim - head
        code_unit = c.code_unit(at.sample)
        loose = np.zeros(len(owners), np.bool_)
        with (
            closing(self._writer("norms", columns, "float32")) as norms,
            closing(self._writer("codes", code_width(head), "int8")) as codes,
            self._tails(code_width(tail)) as tails,
            self._progress.step("coding", at.rows) as advance,
        ):  # fmt: skip
            for start, stop in c.chunks(at.rows):
                raw = c.raw(np.arange(start, stop))
                projected = c.project(raw, code_dim)
                norms.append(c.norms(raw, projected, norm_dims))
                low, high = np.searchsorted(owners, (start, stop))
                owned = owners[low:high] - start
                loose[low:high] = c.are_loose(raw, projected)[owned]
                short = c.of(raw, projected)[owned[~loose[low:high]]]
                codes.append(quantise_rows(short[:, :head], code_unit, codes.width))
                if tails is not None:
                    rest = short[:, head:]
                    tails.append(quantise_rows(rest, code_unit, tails.width))
                advance(stop - start)
            at.files["norms"] = norms.finish()
            for role, writer in (("codes", codes), ("tails", tails)):
                if writer is not None and writer.rows:
                    at.files[role] = writer.finish()
                elif writer is not None:
                    writer.path.unlink()
        return code_unit, loose

    def _write_nodes(self, first: Rows, node_rows: Rows, loose: Rows) -> None:
        """Write node → rows where nodes are not simply the rows, and loose rows."""
        if len(node_rows) == len(first):
            return
        is_loose = np.isin(first, loose)
        rows = np.flatnonzero(~is_loose)
        node_of_row = np.searchsorted(node_rows, first[rows])
        order = np.argsort(node_of_row, kind="stable")
        starts = np.searchsorted(node_of_row[order], np.arange(len(node_rows) + 1))
        self._put("node_starts", "start", starts.astype(np.int64))
        if len(rows):
            self._put("node_rows", "row", rows[order].astype(np.int64))
        if len(loose):
            self._put("loose", "row", np.flatnonzero(is_loose).astype(np.int64))

    def _write_links(self, node_rows: Rows) -> dict[str, Any]:
        """Build the graph; return how, or nothing where codes are to be scanned."""
        o, n = self._options, len(node_rows)
        if n < SCAN_ROWS:
            return {}
        began = time.perf_counter()
        links = self._linked(node_rows)
        entries = rooted(links.neighbours, choose_entries(links))
        lost = link_unreachable(links.neighbours, int(entries[0]))
        entries = rooted(links.neighbours, entries)  # a link of theirs may be gone
        self._put("links", "node", links.neighbours)
        self._put("entries", "node", np.concatenate([entries, lost]))
        return {
            "builder": o.builder,
            "M": o.M,
            "ef_construction": o.ef_construction,
            "seed": o.seed,
            "threads": o.threads,
            "unreachable": len(lost),
            "seconds": round(time.perf_counter() - began, 3),
        }

    def _linked(self, node_rows: Rows) -> Links:
        """Return a graph; under inner product of uneven rows, two halves in one."""
        o = self._options
        own = o.builder == "numba"
        folder = self._ingest.path("codes").parent
        knit = partial(knit_graph, folder=folder)
        make = partial(self._over_codes, knit) if own else self._built
        if o.metric != "ip" or o.M < 2 or not are_uneven(self._ingest.sample.norms):
            return make(node_rows, o.M)
        # The nearest of rows of uneven length are not those of their direction: cells
        # do not hold them together, and the graph is grown.
        product = partial(self._over_codes, grow_graph) if own else self._built
        by_product = product(node_rows, o.M - o.M // 2)
        return joined(by_product, make(node_rows, o.M // 2, by_direction=True))

    def _over_codes(
        self,
        make: Callable[..., Links],
        node_rows: Rows,
        M: int,
        *,
        by_direction: bool = False,
    ) -> Links:
        """Let `knit_graph` or `grow_graph` make a graph over the written codes."""
        o, n = self._options, len(node_rows)
        width = code_width(self._projection.walk_dim)
        codes = map_body(self._ingest.path("codes"), n, width, "int8")
        with self._progress.step("graph", n) as advance:
            return make(
                directions(codes) if by_direction else codes,
                M=M,
                ef_construction=o.ef_construction,
                seed=o.seed,
                threads=o.threads,
                advance=advance,
            )

    def _built(self, node_rows: Rows, M: int, *, by_direction: bool = False) -> Links:
        """Let a library build a graph over the coordinates of the graph's dims."""
        o = self._options
        return build_graph(
            self._node_batches(node_rows, by_direction=by_direction),
            len(node_rows),
            self._projection.graph_dim,
            builder=o.builder,
            M=M,
            ef_construction=o.ef_construction,
            seed=o.seed,
            threads=o.threads,
        )

    def _node_batches(self, node_rows: Rows, *, by_direction: bool) -> Iterator[Floats]:
        """Yield the nodes' coordinates, renormalised, in node order."""
        n, c = len(node_rows), self._coordinates
        with self._progress.step("graph", n) as advance:
            for start, stop in c.chunks(n):
                raw = c.raw(node_rows[start:stop])
                short = c.of(raw, c.project(raw, self._projection.graph_dim))
                yield unit(short) if by_direction else short
                advance(stop - start)
