"""Build an index: two passes over the data, one graph, one manifest.

Pass 1 (`ingest.py`) streams the source's rows to the vector blocks and keeps a sample;
pass 2 (`segment.py`) reads our own map of them and makes norms, codes and graph. Memory
is bounded by the sample, the graph and a few bytes a row.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from funnel.build.coordinates import norm_columns
from funnel.build.ingest import Ingest, vector_blocks
from funnel.build.nodes import distinct
from funnel.build.options import Options
from funnel.build.segment import SegmentBuilder
from funnel.progress import Progress
from funnel.projection import Projection, choose_projection
from funnel.sources import Batch
from funnel.store.commit import DATA, fresh_name
from funnel.store.ids import Ids
from funnel.store.manifest import Manifest, Segment
from funnel.store.matrix import write_matrix
from funnel.vectors import to_float32, unit
from funnel.version import __version__

__all__ = ["Options", "build_index"]
LIKELY_ROWS = 2_048


def build_index(
    folder: Path,
    batches: Iterator[Batch],
    rows: int | None,
    ids: Ids | None,
    options: Options,
    progress: Progress,
) -> Manifest:
    """Write the files of a new index to `folder`; return its manifest, unpublished.

    Parameters
    ----------
    folder : Path
        An empty index directory.
    batches : iterator of Batch
    rows : int or None
        How many rows they hold, if that is known.
    ids : checked ids of all rows, or None
        None takes the batches' own, or row numbers.
    options : Options
    progress : Progress
    """
    name = fresh_name()
    first = next(batches)
    edges = vector_blocks(_likely_projection(first, options), options.full_dim)
    ingest = Ingest(folder / DATA, name, options, edges)
    try:
        ingest.write_rows(itertools.chain([first], batches), rows, progress)
        named = ingest.kept_ids(ids)
        numbers = ingest.kept_numbers() if named is None else named
        if numbers is not None:
            id_kind = ingest.write_ids(numbers)
        id_kind = "row" if named is None else id_kind
        projection = _choose(ingest, options, progress)
        segment = SegmentBuilder(ingest, projection, progress).write(name)
    except BaseException:
        ingest.abandon()
        raise
    return _manifest(folder, ingest, segment, id_kind, projection)


def _choose(ingest: Ingest, options: Options, progress: Progress) -> Projection:
    """Choose the projection on the sample, without copies, which share a node."""
    with progress.step("projection", 1) as advance:
        projection = choose_projection(
            ingest.sample.distinct(),
            options.projection,
            options.graph_dim,
            options.code_dim,
            options.seed,
        )
        if options.builder == "numba":  # whose graphs are over what a walk scores
            walked = options.graph_dim or projection.walk_dim
            projection = replace(projection, graph_dim=walked, walk_dim=walked)
        advance(1)
    return projection


def _likely_projection(batch: Batch, options: Options) -> str:
    """Guess from the first rows what the sample will choose: blocks depend on it.

    A wrong guess costs a little speed; the choice itself is made on the whole sample.
    """
    if options.projection != "auto":
        return options.projection
    step = -(-len(batch.vectors) // LIKELY_ROWS)
    rows = to_float32(batch.vectors[::step])
    rows = rows[np.isfinite(rows).all(axis=1)]
    widths = options.graph_dim, options.code_dim
    return choose_projection(distinct(unit(rows)), "auto", *widths, options.seed).kind


def _manifest(
    folder: Path, ingest: Ingest, segment: Segment, id_kind: str, projection: Projection
) -> Manifest:
    """Return the first version of an index of one segment."""
    files, o = {}, ingest.options
    if projection.kind == "pca":
        path = folder / DATA / f"{fresh_name()}.axes.arrow"
        files["axes"] = write_matrix(path, "axis", projection.axes)
    return Manifest(
        uuid=str(uuid.uuid4()),
        version=1,
        parent=0,
        created_unix=time.time(),
        writer={"funnel": __version__, "pyarrow": pa.__version__},
        full_dim=o.full_dim,
        dims=o.dims,
        norm_dims=norm_columns(o, projection),
        metric=o.metric,
        dtype=o.dtype,
        transform=o.transform,
        id_kind=id_kind,
        projection=projection.kind,
        graph_dim=projection.graph_dim,
        code_dim=projection.code_dim,
        walk_dim=projection.walk_dim,
        code_rows=projection.code_rows,
        stage_rows={str(d): rows for d, rows in projection.stage_rows.items()},
        rows=ingest.rows,
        segments=(segment,),
        files=files,
        notes={
            "projection": projection.reason,
            "shortlist_needed": projection.needed,
            "dropped_rows": ingest.seen - ingest.rows,
        },
        settings=o.settings(),
        next_id=ingest.seen if id_kind == "row" else 0,
    )
