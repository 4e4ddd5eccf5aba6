"""What the files of an index must look like: `FORMAT.md` as code.

Checked at every opening, before anything is mapped: a manifest may be sealed with the
right checksum and still make no sense, if another program wrote it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from funnel.kernels.codes import code_width, is_head
from funnel.store.manifest import Manifest, Segment
from funnel.store.matrix import BODY_OFFSET, FileEntry
from funnel.store.tuned import Tuned

NAME = re.compile(r"[0-9a-f]{26}\.[a-z_]+[0-9]*\.arrow")
MAX_DIM = 1 << 24
MAX_ROWS = 1 << 48
MAX_ID = (1 << 63) - 1


@dataclass(frozen=True)
class Expected:
    """What a file must be; None allows any, width 0 is a table."""

    role: str
    rows: int | None
    width: int | None
    dtype: str
    required: bool = True


def problems(manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with a manifest, most basic first."""
    m = manifest
    yield from _value_problems(m)
    wanted = [Expected("axes", max(m.graph_dim, m.code_dim), m.full_dim, "float32")]
    wanted = wanted if m.projection == "pca" and m.segments else []
    gone = sum(s.rows for s in m.segments) - m.rows
    wanted.append(Expected("deleted", gone, 1, "int64", gone != 0))
    yield from _file_problems(m.files, wanted)
    for segment in m.segments:
        yield from _file_problems(segment.files, list(expected_files(m, segment)))


def _value_problems(m: Manifest) -> Iterator[str]:
    needed = [m.code_rows, *m.stage_rows.values()]
    if not all(type(c) is int and 0 <= c <= MAX_ROWS for c in needed):
        yield "code_rows or stage_rows is not a count"
    if not all(0 < int(d) < m.full_dim for d in m.stage_rows):
        yield "stage_rows has dims that are none"
    counts = [m.full_dim, m.graph_dim, m.code_dim, m.walk_dim, *m.dims, *m.norm_dims]
    if not all(type(c) is int and 0 < c <= MAX_DIM for c in counts):
        yield "a dim is not a positive number"
    elif max(counts) > m.full_dim or m.dims[-1] != m.full_dim:
        yield "dims do not end at full_dim"
    elif not is_head(m.walk_dim, m.code_dim):
        yield "walk_dim is no part of code_dim in whole lines"
    elif m.norm_dims[-1] != m.full_dim or list(m.norm_dims) != sorted(m.norm_dims):
        yield "norm_dims do not end at full_dim"
    for name, value, known in (
        ("metric", m.metric, ("cosine", "ip")),
        ("dtype", m.dtype, ("float32", "float16")),
        ("transform", m.transform, (None, "layer_norm")),
        ("id_kind", m.id_kind, ("row", "int64", "text")),
        ("projection", m.projection, ("prefix", "pca")),
    ):
        if value not in known:
            yield f"{name} is {value!r}"
    try:
        _ = m.plan and Tuned.of(m.plan)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        yield f"plan is none: {error}"
    if not type(m.rows) is type(m.next_id) is int or not 0 <= m.rows <= MAX_ROWS:
        yield "rows or next_id is not a count"
    elif not 0 <= m.next_id <= MAX_ID:
        yield "next_id is no id"
    elif m.rows > sum(s.rows for s in m.segments if type(s.rows) is int):
        yield "rows, and those of the segments, do not fit"
    for s in m.segments:
        if not all(type(c) is int and 0 <= c <= MAX_ROWS for c in (s.rows, s.nodes)):
            yield "rows or nodes is not a count"
        elif s.rows < 1 or s.nodes > s.rows:
            yield "rows and nodes of a segment do not fit"
        if type(s.first_id) is not int or not 0 <= s.first_id <= MAX_ID - s.rows:
            yield "first_id is no id"
        edges = list(s.blocks)
        if s.blocks != m.segments[0].blocks:
            yield "blocks differ between segments"
        if edges != sorted(set(edges)) or edges[0] != 0 or edges[-1] != m.full_dim:
            yield f"blocks {edges} do not divide full_dim"


def expected_files(m: Manifest, s: Segment) -> Iterator[Expected]:
    """Yield what the files of a segment must be."""
    for i, (start, stop) in enumerate(itertools.pairwise(s.blocks)):
        yield Expected(f"vectors{i}", s.rows, stop - start, m.dtype)
    columns = len(m.norm_dims) + (m.projection == "pca")
    yield Expected("norms", s.rows, columns, "float32")
    yield Expected("codes", s.nodes, code_width(m.walk_dim), "int8", s.nodes > 0)
    tailed = m.tail_width > 0 and s.nodes > 0
    yield Expected("tails", s.nodes, m.tail_width, "int8", tailed)
    linked = "links" in s.files
    yield Expected("links", s.nodes, None, "int32", required=False)
    yield Expected("entries", None, 1, "int32", linked)
    loose = s.files["loose"].rows if "loose" in s.files else 0
    renamed = s.nodes != s.rows
    yield Expected("loose", None, 1, "int64", required=False)
    yield Expected("node_starts", s.nodes + 1, 1, "int64", renamed)
    yield Expected("node_rows", s.rows - loose, 1, "int64", renamed and s.nodes > 0)
    named = m.id_kind != "row" or "ids" in s.files
    if m.id_kind == "text":
        yield Expected("ids", s.rows, 0, "")
    else:
        yield Expected("ids", s.rows, 1, "int64", named)
    yield Expected("lookup", s.rows, 2, "int64", named)
    yield Expected("metadata", s.rows, 0, "", required=False)


def _file_problems(
    files: dict[str, FileEntry], wanted: list[Expected]
) -> Iterator[str]:
    for want in wanted:
        entry = files.get(want.role)
        if entry is None:
            if want.required:
                yield f"there is no {want.role}"
            continue
        if not isinstance(entry.name, str) or not NAME.fullmatch(entry.name):
            yield f"{want.role} is called {entry.name!r}"
        if type(entry.size) is not int or type(entry.rows) is not int:
            yield f"{want.role} has no size"
            continue
        shape = entry.rows, entry.width, entry.dtype
        hoped = (
            entry.rows if want.rows is None else want.rows,
            entry.width if want.width is None else want.width,
            want.dtype,
        )
        if shape != hoped or entry.rows < 1:
            yield f"{want.role} is {shape}, not {hoped}"
        elif want.dtype and not 0 < entry.width <= MAX_DIM:
            yield f"{want.role} has rows of {entry.width}"
        elif want.dtype and entry.size < BODY_OFFSET + entry.rows * entry.width * (
            np.dtype(want.dtype).itemsize
        ):
            yield f"{want.role} has {entry.size:,} bytes, too few for {shape}"
