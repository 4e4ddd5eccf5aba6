"""How many pages of memory a step of a search touches: counted by address.

Pages of what the trace counts as bytes: codes of the nodes that a walk scored, dims of
the rows that a stage scored and their norms. Not those of a graph's links, nor of what
a filter looks up. Called by `explain.py`.

c = rows or nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from funnel.cascade import Cascade
from funnel.kernels import segments as t
from funnel.kernels.codes import code_width
from funnel.kernels.funnel import search_many
from funnel.kernels.knobs import ROWS_IN
from funnel.kernels.types import Array, Floats, Rows
from funnel.plan import Plan
from funnel.search import lay_out
from funnel.selection import Selection
from funnel.snapshot import Snapshot

PAGE_BITS = 12  # pages of 4,096 bytes


def touched(places: Rows, length: int) -> int:
    """Return how many pages hold a byte of ranges of one length.

    Parameters
    ----------
    places : (c,) int64
        Addresses of their first bytes, in any order.
    length : int
        Bytes of each, at least 1.
    """
    places = np.sort(places)
    first, last = places >> PAGE_BITS, (places + length - 1) >> PAGE_BITS
    fresh = np.concatenate([first[:1], np.maximum(first[1:], last[:-1] + 1)])
    return int(np.maximum(0, last - fresh + 1).sum())


def rerank_pages(snapshot: Snapshot, rows: Rows, start: int, stop: int) -> int:
    """Return the pages of dims [start, stop) of some rows, and of their norms."""
    total = 0
    for segment, _, own in snapshot.parts(rows):
        width = segment.norms.strides[0]
        total += touched(segment.norms.ctypes.data + own * width, width)
        for block, left, right in _parts(snapshot, segment.blocks, start, stop):
            places = block.ctypes.data + own * block.strides[0] + left * block.itemsize
            total += touched(places, (right - left) * block.itemsize)
    return total


def scan_pages(snapshot: Snapshot, dims: int, selection: Selection) -> int:
    """Return the pages of the first dims of all rows that may be answers.

    Of chosen rows the whole width is copied first.
    """
    total = 0
    for segment, flags in zip(snapshot.segments, selection.flags, strict=True):
        stop = dims if flags is None else snapshot.manifest.full_dim
        own = np.arange(segment.rows) if flags is None else np.flatnonzero(flags)
        for block, left, right in _parts(snapshot, segment.blocks, 0, stop):
            places = block.ctypes.data + own * block.strides[0] + left * block.itemsize
            total += touched(places, (right - left) * block.itemsize)
    return total


def _parts(
    snapshot: Snapshot, blocks: tuple[Array, ...], start: int, stop: int
) -> Iterator[tuple[Array, int, int]]:
    """Yield the column blocks that hold dims [start, stop), and which of theirs."""
    edges = snapshot.starts.tolist()
    for i, block in enumerate(blocks):
        left, right = max(start, edges[i]), min(stop, edges[i + 1])
        if left < right:
            yield block, left - edges[i], right - edges[i]


def walk_pages(
    snapshot: Snapshot, query: Floats, plan: Plan, selection: Selection
) -> int:
    """Return the pages of the codes that a search scores: by walking again.

    Without the tails of codes, of which few are read. The marks of visited nodes are
    those of the last segment that was walked: so the segments are walked one more at a
    time.

    Parameters
    ----------
    query : (1, d) float32
    """
    stages = [s for s in plan.cascade or () if s.space == "codes"]
    cascade = Cascade(stages) if stages else None
    only = replace(plan, cascade=cascade, certified=False)
    nodes = max((len(segment.codes) for segment in snapshot.segments), default=0)
    width = code_width(snapshot.manifest.walk_dim)
    total, before, epoch = 0, 0, 0
    for count in range(1, len(selection.table) + 1):
        visited = np.zeros((1, 1 + nodes), np.uint8)
        part = selection.table[:count]
        scored = _walked(snapshot, query, only, part, visited)
        if visited[0, -1] != epoch:
            total += _walk_pages(part[-1], width, visited[0], scored - before)
        elif scored > before:
            total += _scan_pages(part[-1], width, selection, scored - before)
        before, epoch = scored, visited[0, -1]
    return total


def _walked(
    snapshot: Snapshot, query: Floats, plan: Plan, table: Array, visited: Array
) -> int:
    """Walk some segments; return how many nodes were scored."""
    layout = lay_out(snapshot.manifest, plan)
    trace = np.zeros((len(layout.steps), 4), np.int64)
    memory = (table, snapshot.starts, snapshot.like)
    rows, scores = np.empty((1, plan.k), np.int64), np.empty((1, plan.k), np.float32)
    search_many(
        query, snapshot.coded_axes, memory, layout.stages, layout.knobs,
        layout.scales, visited, (rows, scores, trace),
    )  # fmt: skip
    return int(trace[0, ROWS_IN])


def _walk_pages(segment: Array, width: int, visited: Array, scored: int) -> int:
    """Return the pages of the codes that a walk scored, and of its entries' own copies.

    Parameters
    ----------
    segment : a row of the segments' table
    width : int
        Bytes of a code.
    visited : uint8
        Equal to its last entry for the nodes that the walk met.
    scored : int
        Nodes and entries; more than there are where a scan came after the walk.
    """
    nodes, entries = segment[[t.NODES, t.ENTRY_COUNT]].tolist()
    some = np.flatnonzero(visited[:nodes] == visited[-1])
    if scored >= nodes + entries:
        some = np.arange(nodes)
    copies = touched(segment[[t.ENTRY_CODES]], entries * width)
    return touched(segment[t.CODES] + some * width, width) + copies


def _scan_pages(segment: Array, width: int, selection: Selection, scored: int) -> int:
    """Return the pages of all codes, or of those listed where few may be answers."""
    some = np.arange(segment[t.NODES])
    if scored == segment[t.LISTED_COUNT]:
        (some,) = (a for a in selection.held if a.ctypes.data == segment[t.LISTED])
    return touched(segment[t.CODES] + some.astype(np.int64) * width, width)
