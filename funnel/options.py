"""Arguments of builds and changes, checked, with their defaults filled in.

Raises before anything is written or read; does no work itself. Called by `index.py`
and `changing.py`; those of a search are in `planning.py`.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa

from funnel.build import Options
from funnel.errors import (
    DimensionError,
    InvalidArgumentError,
    InvalidTypeError,
    check_choice,
    check_depth,
    check_whole,
)
from funnel.graph.build import choose_builder, is_over_codes
from funnel.nested import with_measured_dims
from funnel.projection import PROJECTIONS
from funnel.sources import Batch, Source, open_source
from funnel.store.ids import Ids, check_distinct, check_ids, keys_of
from funnel.threads import cpu_count
from funnel.vectors import DTYPES, METRICS, TRANSFORMS

HABITS = {
    "search": {
        "top_k": "k", "n_results": "k", "limit": "k", "count": "k", "n": "k",
        "num_results": "k", "topk": "k", "n_neighbors": "k", "ef": "ef_search",
        "efSearch": "ef_search", "num_threads": "threads", "n_jobs": "threads",
        "where": "filter", "rerank": "mode",
    },
    "build": {
        "space": "metric", "distance": "metric", "m": "M", "efConstruction":
        "ef_construction", "ef": "ef_construction", "num_threads": "threads",
        "n_jobs": "threads", "random_seed": "seed", "keys": "ids", "labels": "ids",
        "nested_dims": "dims", "matryoshka_dims": "dims", "verbose": "progress",
        "metadatas": "metadata", "prefix_dim": "graph_dim",
    },
}  # fmt: skip
OURS = {
    "search": (
        "k", "shortlist", "cascade", "ef_search", "slack", "mode", "filter",
        "min_score", "threads", "trace", "effort", "target", "policy", "budget_ms",
        "max_bytes", "uncertainty",
    ),
    "build": (
        "ids", "metadata", "path", "dims", "graph_dim", "code_dim", "projection",
        "metric", "dtype", "transform", "M", "ef_construction", "builder", "seed",
        "threads", "progress", "on_bad_vectors", "overwrite", "vector_column",
        "id_column",
    ),
}  # fmt: skip
MAX_M, MAX_EF_CONSTRUCTION, MAX_THREADS, MAX_SEED = 512, 100_000, 1024, 2**31 - 1


def check_habits(given: dict[str, Any], method: str) -> None:
    """Raise for an argument that does not exist, naming the one that was meant."""
    for name in given:
        ours = HABITS[method].get(name)
        if ours is None:
            near = difflib.get_close_matches(name, OURS[method], n=1)
            ours = near[0] if near else None
        hint = f"; use {ours}=" if ours else ""
        raise InvalidTypeError(f"{method}() has no argument {name!r}{hint}")


def default_dims(full_dim: int) -> tuple[int, ...]:
    """Return 16, 32, … below full_dim, and full_dim."""
    doubled = itertools.takewhile(
        lambda d: d < full_dim, (16 << i for i in itertools.count())
    )
    return (*doubled, full_dim)


def is_auto(value: object) -> bool:
    """Return whether an argument leaves the choice to us in so many letters."""
    return isinstance(value, str) and value == "auto"


def check_dims(
    dims: Iterable[int] | Literal["auto"] | None, full_dim: int
) -> tuple[int, ...]:
    """Return nested dims, increasing, ending at full_dim; "auto" is measured later."""
    if dims is None or is_auto(dims):
        return default_dims(full_dim)
    if isinstance(dims, str | bytes | set | dict) or not isinstance(dims, Iterable):
        raise InvalidTypeError(
            f"dims must be a sequence of ints, not {type(dims).__name__} {dims!r}"
        )
    widths = [check_whole("dims", d, 1, 2**31 - 1) for d in dims]
    if not widths:
        raise InvalidArgumentError("dims is empty: leave it out for the default")
    if widths[-1] > full_dim:
        raise DimensionError(
            f"dims end at {widths[-1]}; the embeddings have {full_dim} dims"
        )
    if any(b <= a for a, b in itertools.pairwise(widths)):
        raise InvalidArgumentError(f"dims must increase: {tuple(widths)}")
    return tuple(widths) if widths[-1] == full_dim else (*widths, full_dim)


def check_threads(threads: int | None) -> int:
    """Return the number of threads; None and −1 mean all CPUs."""
    if threads is None or (threads == -1 and not isinstance(threads, bool)):
        return cpu_count()
    return check_whole("threads", threads, 1, MAX_THREADS)


def prepare_build(
    data: Any, *, ids: Any, metadata: Any, vector_column: str | None,
    id_column: str | None, **named: Any,
) -> tuple[Source, Ids | None, Options]:  # fmt: skip
    """Check a build's arguments, as far as they can be without reading all the data.

    Returns
    -------
    source : Source
        With `metadata` joined to its batches.
    ids : int64 array, Arrow text or None
    options : Options
    """
    if isinstance(data, list | tuple) and not len(data):
        raise InvalidArgumentError("there are no embeddings to build from")
    source, checked = prepare_rows(data, ids, metadata, vector_column, id_column)
    first = next(source.batches, None) if source.rows != 0 else None
    if first is None:
        raise InvalidArgumentError("there are no embeddings to build from")
    options = check_options(first.vectors.shape[1], **named)
    if is_auto(named["dims"]):
        options = with_measured_dims(options, first.vectors)
    batches = itertools.chain([first], source.batches)
    return Source(batches, source.rows), checked, options


def prepare_rows(
    data: Any, ids: Any, metadata: Any, vector_column: str | None, id_column: str | None
) -> tuple[Source, Ids | None]:
    """Check rows and what belongs to them, as far as can be without reading all.

    Returns
    -------
    source : Source
        With `metadata` joined to its batches.
    ids : int64 array, Arrow text or None
    """
    checked = None if ids is None else check_ids(ids)
    if checked is not None:
        check_distinct(keys_of(checked), checked)
    source = open_source(data, vector_column, id_column)
    if checked is not None and source.rows not in (None, len(checked)):
        raise InvalidArgumentError(
            f"there are {len(checked)} ids for {source.rows} embeddings"
        )
    batches = source.batches
    if metadata is not None:
        batches = _with_columns(batches, columns_of(metadata), source.rows)
    return Source(batches, source.rows), checked


def check_options(full_dim: int, **named: Any) -> Options:
    """Return checked options for embeddings of `full_dim` dims."""
    if full_dim == 0:
        raise DimensionError("embeddings have 0 dims")
    transform = named["transform"]
    if transform is not None:
        check_choice("transform", transform, TRANSFORMS)
    drop = check_choice("on_bad_vectors", named["on_bad_vectors"], ("error", "drop"))
    widths = {}
    for name in ("graph_dim", "code_dim"):
        given = None if is_auto(named[name]) else named[name]
        if given is not None and check_whole(name, given, 1, 2**31 - 1) > full_dim:
            raise DimensionError(
                f"{name} is {given}; the embeddings have {full_dim} dims"
            )
        widths[name] = given
    builder = choose_builder(named["builder"], is_over_codes(**widths))
    return Options(
        dims=check_dims(named["dims"], full_dim),
        full_dim=full_dim,
        projection=check_choice("projection", named["projection"], PROJECTIONS),
        metric=check_choice("metric", named["metric"], METRICS),
        dtype=check_choice("dtype", named["dtype"], DTYPES),
        transform=transform,
        M=check_whole("M", named["M"], 2, MAX_M),
        ef_construction=check_whole(
            "ef_construction", named["ef_construction"], 1, MAX_EF_CONSTRUCTION
        ),
        builder=builder,
        seed=check_whole("seed", named["seed"], 0, MAX_SEED),
        threads=check_threads(named["threads"]),
        drop_bad=drop == "drop",
        **widths,
    )


def columns_of(metadata: Any) -> pa.Table:
    """Return metadata as an Arrow table, whose columns must not be ours."""
    if isinstance(metadata, Mapping | list | tuple):
        check_depth("metadata", metadata)  # Arrow would crash
    try:
        table = metadata if isinstance(metadata, pa.Table) else pa.table(metadata)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidArgumentError(
            f"metadata cannot be made an Arrow table: {error}"
        ) from error
    taken = {"id", "vector"} & set(table.column_names)
    if taken or len(set(table.column_names)) != len(table.column_names):
        raise InvalidArgumentError(
            f"metadata columns must be distinct and not 'id' or 'vector': "
            f"{table.column_names}"
        )
    return table


def _with_columns(
    batches: Iterable[Batch], table: pa.Table, rows: int | None
) -> Iterator[Batch]:
    """Return batches with their slices of `table`; its length must be theirs."""
    if rows not in (None, len(table)):
        raise InvalidArgumentError(
            f"metadata has {len(table)} rows for {rows} embeddings"
        )

    def joined() -> Iterator[Batch]:
        start = 0
        for batch in batches:
            part = table.slice(start, len(batch.vectors))
            start += len(batch.vectors)
            if len(part) == len(batch.vectors):
                yield Batch(batch.vectors, batch.ids, _joined(batch.columns, part))
            else:
                break
        if start != len(table):
            raise InvalidArgumentError(
                f"metadata has {len(table)} rows for {start} or more embeddings"
            )

    return joined()


def _joined(own: pa.Table | None, given: pa.Table) -> pa.Table:
    if own is None:
        return given
    twice = sorted(set(own.column_names) & set(given.column_names))
    if twice:
        raise InvalidArgumentError(
            f"metadata column {twice[0]!r} is in the table already"
        )
    for name in given.column_names:
        own = own.append_column(name, given.column(name))
    return own
