"""Arguments of `build` and `search`, checked, with their defaults filled in.

Raises before anything is written or read; does no work itself. Called by `index.py`.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import pyarrow as pa

from funnel.build import Options
from funnel.cascade import Cascade
from funnel.errors import (
    CascadeError,
    DimensionError,
    InvalidArgumentError,
    InvalidTypeError,
    check_choice,
    check_depth,
    check_number,
    check_share,
    check_whole,
)
from funnel.graph.build import choose_builder, is_over_codes
from funnel.nested import with_measured_dims
from funnel.plan import MODES, POLICIES, Plan, check_cascade, default_cascade
from funnel.projection import PROJECTIONS
from funnel.sources import Batch, Source, open_source
from funnel.store.ids import Ids, check_distinct, check_ids, keys_of
from funnel.store.manifest import Manifest
from funnel.store.tuned import Tuned
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


def check_search(
    manifest: Manifest, k: int, shortlist: int | None, cascade: Cascade | None,
    ef_search: int | None, mode: str, threads: int | None, slack: float | None = None,
    effort: float | None = None, target: float | None = None,
    policy: str | None = None, budget_ms: float | None = None,
    max_bytes: int | None = None,
) -> Plan:  # fmt: skip
    """Return the plan of a search, defaults filled in and everything at most n."""
    check_choice("mode", mode, MODES)
    typed = any(one is not None for one in (shortlist, cascade, ef_search, slack))
    if effort is not None or target is not None:
        _check_dial(manifest, typed or mode != "funnel", effort, target)
    if policy is not None:
        _check_policy(manifest, policy, mode, typed or mode != "funnel", cascade)
        if policy == "fixed" and (effort is not None or target is not None):
            raise InvalidArgumentError("effort and target are not of policy='fixed'")
    tuned = manifest.plan and mode == "funnel" and not typed and policy != "fixed"
    if tuned:
        staged = budget_ms is not None or max_bytes is not None
        plan = _tuned_plan(manifest, k, threads, effort, target, staged)
    else:
        plan = _typed_plan(
            manifest, k, shortlist, cascade, ef_search, mode, threads, slack
        )
    if policy == "certified" and plan.mode == "funnel":
        whole = Cascade([(manifest.full_dim, plan.k)])
        plan = replace(plan, certified=True, cascade=whole)
    return _within(plan, budget_ms, max_bytes)


def _check_policy(
    manifest: Manifest, policy: str, mode: str, typed: bool, cascade: object
) -> None:
    """Raise unless a policy fits the other arguments and the index."""
    check_choice("policy", policy, POLICIES)
    if mode != "funnel":
        raise InvalidArgumentError(f"mode {mode!r} takes no policy")
    if policy == "adaptive" and (typed or not manifest.plan):
        raise InvalidArgumentError(
            "policy='adaptive' takes the knobs that tune() measured: call it once, and "
            "leave shortlist, cascade, ef_search and slack out"
        )
    if policy == "certified" and cascade is not None:
        raise InvalidArgumentError(
            "policy='certified' takes no cascade: bounds choose what is reranked"
        )


def _within(plan: Plan, budget_ms: float | None, max_bytes: int | None) -> Plan:
    """Return a plan with what a query may take."""
    if budget_ms is None and max_bytes is None:
        return plan
    if plan.mode in ("exact", "prefix"):
        raise InvalidArgumentError(
            "budget_ms and max_bytes end a search between its stages: a scan has one"
        )
    if budget_ms is not None:
        if check_number("budget_ms", budget_ms) <= 0:
            raise InvalidArgumentError(f"budget_ms must be above 0, not {budget_ms}")
        plan = replace(plan, budget_us=1e3 * budget_ms)
    if max_bytes is not None:
        plan = replace(plan, max_bytes=check_whole("max_bytes", max_bytes, 1, 1 << 62))
    return plan


def _typed_plan(
    manifest: Manifest, k: int, shortlist: int | None, cascade: Cascade | None,
    ef_search: int | None, mode: str, threads: int | None, slack: float | None,
) -> Plan:  # fmt: skip
    """Return the plan of knobs that were typed, the rest by default."""
    n = max(1, manifest.rows)  # an empty index is not searched
    asked = check_whole("k", k, 1, 2**31 - 1)
    k = min(asked, n)
    if shortlist is not None:
        shortlist = check_whole("shortlist", shortlist, 1, 2**31 - 1)
        if shortlist < k:
            raise InvalidArgumentError(f"shortlist is {shortlist}; k = {k} needs more")
    elif cascade is not None and isinstance(cascade, Cascade):
        shortlist = max(200, 2 * k, cascade[0].keep)
    shortlist = min(n, shortlist or max(200, 2 * k))
    ef = shortlist
    if ef_search is not None:
        ef = min(n, max(shortlist, check_whole("ef_search", ef_search, 1, 2**31 - 1)))
    if slack is not None:
        slack = check_share("slack", slack)
        if manifest.metric != "cosine":
            raise InvalidArgumentError(
                f"slack is of cosines: not for {manifest.metric!r}"
            )
    if cascade is not None:
        if mode != "funnel":
            raise CascadeError(f"mode {mode!r} takes no cascade: leave one of them out")
        if not isinstance(cascade, Cascade):
            cascade = Cascade(cascade)
        check_cascade(cascade, manifest, k, shortlist)
    elif mode == "funnel":
        cascade = default_cascade(manifest, k, shortlist)
    elif mode == "rerank":
        cascade = Cascade([(manifest.full_dim, k)])
    return Plan(mode, k, shortlist, ef, cascade, check_threads(threads), slack)


def _check_dial(
    manifest: Manifest, typed: bool, effort: float | None, target: float | None
) -> None:
    """Raise unless one of effort and target stands in the place of all knobs."""
    if typed or None not in (effort, target):
        raise InvalidArgumentError(
            "effort and target each stand for all other knobs: give one of them alone"
        )
    if not manifest.plan:
        raise InvalidArgumentError(
            "effort and target need an index that was tuned: call tune() once"
        )
    for name, value in (("effort", effort), ("target", target)):
        if value is not None and check_share(name, value) > 1:
            raise InvalidArgumentError(f"{name} is at most 1, not {value}")


def _tuned_plan(
    manifest: Manifest, k: int, threads: int | None,
    effort: float | None, target: float | None, staged: bool,
) -> Plan:  # fmt: skip
    """Return the plan of a level that was tuned; of longer lists for a larger k.

    Where a budget may end it, the dearest walk stands for a scan, which has no stages.
    """
    n = max(1, manifest.rows)
    k = min(check_whole("k", k, 1, 2**31 - 1), n)
    tuned = Tuned.of(manifest.plan or {})
    level = tuned.level_of(effort, target)
    walks = [one for one in tuned.levels if not one.exact]
    if staged and (level is None or level.exact):
        if not walks:
            return _typed_plan(manifest, k, None, None, None, "funnel", threads, None)
        level = walks[-1]
    if level is None or level.exact:
        return Plan("exact", k, k, k, None, check_threads(threads))
    times = max(1.0, k / tuned.k)
    shortlist, ef = (
        min(n, math.ceil(times * rows)) for rows in (level.shortlist, level.ef_search)
    )
    stages = [(dim, min(n, math.ceil(times * keep))) for dim, keep in level.stages]
    cascade = Cascade([*stages, (manifest.full_dim, k)])
    return Plan(
        "funnel", k, shortlist, ef, cascade, check_threads(threads), level.slack
    )
