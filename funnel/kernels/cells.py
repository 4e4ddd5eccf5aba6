"""Find the nearest nodes of many nodes at once, by cells. Arrays and numbers only.

Whoever probes a cell is answered while its codes are in the nearest cache, four queries
a line: a code takes a third of the time that it takes in a walk. `kernels/knit.py`
makes links of what is found.

b = queries, n = nodes, c = cells, t = tiles, w = bytes of a code, h = nodes held.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from funnel.kernels.choose import LOWEST_RAW, choose_cells, threshold
from funnel.kernels.fours import FOUR
from funnel.kernels.jit import LINE_BYTES, inlined, kernel, prefetch
from funnel.kernels.pool import NODE_BITS
from funnel.kernels.tiles import (
    LANES,
    bits_from,
    lowest_bit,
    score_four,
    score_one,
    score_two,
)
from funnel.kernels.types import Array

TWO = 2
NEAR = 4  # times the nodes that are kept: of the best cells, scanned before the others
NEAR_TILES = 128  # at most, of those cells

Cells: TypeAlias = tuple[Array, Array, Array, Array]
"""Tiles of the centres, (c / 16, 16 w); the first tile of each cell and the end,
(c + 1,) int32; tiles of the codes, (t, 16 w); the node at each place of them, (16 t,)
int32, −1 for none."""
Held: TypeAlias = tuple[Array, Array, Array, Array]
"""What each query may keep, in no order: scores, and nodes XOR its salt, (b, h) int32;
how many, (b,) int64; the salts, (b,) int32. Of equal scores the greater number wins: by
its salt each query prefers others, where many codes are equal."""


@kernel
def room(limit: int) -> int:
    """Return how many nodes are held while the best `limit` are looked for."""
    return -(-2 * limit // LANES) * LANES + FOUR * LANES


@kernel
def by_cell(chosen: Array, begins: Array, edges: Array, out: Array) -> None:
    """Turn the cells of each query around: the queries of each cell, in one list.

    Parameters
    ----------
    chosen : (b, wanted) int32
        Cells of a query, from place `begins` on.
    begins : (b,) int32
    edges : (c + 1,) int32, out
        Where the queries of each cell begin.
    out : (≥ all that is chosen,) int32, out
    """
    edges[:] = 0
    for query in range(len(chosen)):
        for i in range(begins[query], chosen.shape[1]):
            edges[chosen[query, i] + 1] += 1
    for cell in range(len(edges) - 1):
        edges[cell + 1] += edges[cell]
    for query in range(len(chosen)):
        for i in range(begins[query], chosen.shape[1]):
            cell = chosen[query, i]
            out[edges[cell]] = query
            edges[cell] += 1
    for cell in range(len(edges) - 1, 0, -1):
        edges[cell] = edges[cell - 1]
    edges[0] = 0


@kernel
def settle(scores: Array, nodes: Array, count: int, limit: int) -> tuple[int, np.int32]:
    """Leave what may be among the best `limit` of the held nodes.

    Parameters
    ----------
    scores, nodes : (h,) int32, in and out
    count : int
        How many are held.

    Returns
    -------
    count, bound : int, int32
        How many are left; what scores less is not among the best.
    """
    if count <= limit:
        return count, np.int32(LOWEST_RAW)
    padded = -(-count // LANES) * LANES
    scores[count:padded] = LOWEST_RAW
    low, kept = np.int32(threshold(scores[:padded], limit, limit)), 0
    for i in range(count):
        scores[kept], nodes[kept] = scores[i], nodes[i]
        kept += int(scores[i] >= low)
    if kept > limit + LANES:  # of many that are equal, the last nodes are taken
        keys = np.empty(kept, np.int64)
        for i in range(kept):
            keys[i] = (np.int64(scores[i]) << NODE_BITS) | np.int64(nodes[i])
        keys.sort()
        for i in range(limit):
            key = keys[kept - 1 - i]
            scores[i], nodes[i] = key >> NODE_BITS, key & ((1 << NODE_BITS) - 1)
        kept = limit
    return kept, low


@inlined
def hold(
    scores: Array,
    first: int,
    bits: int,
    members: Array,
    place: int,
    salt: np.int32,
    held: Array,
    nodes: Array,
    count: int,
) -> int:
    """Add the codes of a tile whose bits are set; return how many are held."""
    while bits != 0:
        lane = lowest_bit(bits)
        bits &= bits - 1
        node = members[place + lane]
        if node >= 0:
            held[count], nodes[count] = scores[first + lane], node ^ salt
            count += 1
    return count


@inlined
def ask_for(tiles: Array, tile: int) -> None:
    """Ask for a tile: those behind it follow by themselves."""
    for byte in range(0, tiles.shape[1], LINE_BYTES):
        prefetch(tiles, tile, byte)


@kernel
def scan_cell(
    queries: Array,
    who: Array,
    cells: Cells,
    cell: int,
    bounds: Array,
    scores: Array,
    held: Held,
    limit: int,
) -> None:
    """Score a cell's codes for the queries `who`.

    Parameters
    ----------
    bounds : (b,) int32, in and out
        What scores less than a query's is not among its best `limit`.
    scores : (64,) int32, scratch
    """
    _, starts, tiles, members = cells
    held_scores, held_nodes, counts, salts = held
    width, full, at = queries.shape[1], held_scores.shape[1] - LANES, 0
    while at < len(who):
        left = len(who) - at
        group = FOUR if left >= FOUR else TWO if left >= TWO else 1
        for tile in range(starts[cell], starts[cell + 1]):
            if group == FOUR:
                mask = score_four(
                    queries, who, at, bounds, tiles, tile, scores, width, 0, LANES
                )
            elif group == TWO:
                mask = score_two(
                    queries, who, at, bounds, tiles, tile, scores, width, 0, LANES
                )
            else:
                mask = score_one(
                    queries, who, at, bounds, tiles, tile, scores, width, 0, LANES
                )
            if mask == 0:
                continue
            for i in range(group):
                bits = (mask >> (LANES * i)) & ((1 << LANES) - 1)
                if bits == 0:
                    continue
                query = who[at + i]
                count = hold(
                    scores, LANES * i, bits, members, LANES * tile, salts[query],
                    held_scores[query], held_nodes[query], counts[query],
                )  # fmt: skip
                if count > full:
                    count, bound = settle(
                        held_scores[query], held_nodes[query], count, limit
                    )
                    bounds[query] = max(bounds[query], bound)
                counts[query] = count
        at += group


@kernel
def scan_nearest(
    queries: Array,
    who: Array,
    at: int,
    cells: Cells,
    chosen: Array,
    near: int,
    bounds: Array,
    scratch: tuple[Array, Array],
    held: Held,
    limit: int,
) -> int:
    """Hold the best of the first `near` cells for the query ``who[at]``.

    Most of the first codes would be held for a while: their scores are written down
    instead, and only what is among the best `limit` is held.

    Parameters
    ----------
    chosen : (≥ near,) int32
    scratch : scores, tiles
        (16 m,) int32, (m,) int32: for m tiles at most; further cells are left.

    Returns
    -------
    int
        How many cells were scanned.
    """
    scores, listed = scratch
    _, starts, tiles, members = cells
    held_scores, held_nodes, counts, salts = held
    width, m, done, query = queries.shape[1], 0, 0, who[at]
    for i in range(near):
        first, stop = starts[chosen[i]], starts[chosen[i] + 1]
        if m + stop - first > len(listed):
            break
        for tile in range(first, stop):
            score_one(
                queries, who, at, bounds, tiles, tile, scores, width, LANES * m, 0
            )
            listed[m] = tile
            m += 1
        last = LANES * stop - 1
        while last >= LANES * first and members[last] < 0:  # places of no node
            scores[LANES * (m - stop) + last] = LOWEST_RAW
            last -= 1
        done += 1
    low, count, full = bounds[query], 0, held_scores.shape[1] - LANES
    if LANES * m > limit:
        low = np.int32(threshold(scores[: LANES * m], limit, limit))
    for i in range(m):
        bits = bits_from(scores, LANES * i, low)
        if bits != 0:
            count = hold(
                scores, LANES * i, bits, members, LANES * listed[i], salts[query],
                held_scores[query], held_nodes[query], count,
            )  # fmt: skip
        if count > full:
            count, bound = settle(held_scores[query], held_nodes[query], count, limit)
            low = max(low, bound)
    counts[query], bounds[query] = count, low
    return done


@kernel
def rank_centres(
    queries: Array, who: Array, bounds: Array, centres: Array, out: Array
) -> None:
    """Score all centres for up to four queries, a row of `out` each."""
    width, stride, flat = queries.shape[1], out.shape[1], out.reshape(-1)
    for tile in range(len(centres)):
        at = tile * LANES
        if len(who) == FOUR:
            score_four(queries, who, 0, bounds, centres, tile, flat, width, at, stride)
        else:
            for i in range(len(who)):
                score_one(
                    queries, who, i, bounds, centres, tile, flat, width,
                    at + i * stride, stride,
                )  # fmt: skip


@kernel
def probe(
    queries: Array, cells: Cells, n: int, wanted: int, limit: int, held: Held
) -> Array:
    """Hold of each query's best cells the best `limit` nodes, and perhaps some more.

    What is among the best does not hang on which queries come together. Scores are
    without the `code_offset` of the query.

    Parameters
    ----------
    queries : (b, w) int8
    cells : see `Cells`
    n : int
        Nodes.
    wanted : int
        Cells that a query probes: ``nprobe``.
    limit : int
    held : see `Held`, out
        For ``room(limit)`` nodes.

    Returns
    -------
    (b, wanted) int32
        The cells that each query probed.

    References
    ----------
    Jégou et al. 2011, "Product quantization for nearest neighbor search", section IV:
    inverted lists and multiple assignment of the query.
    """
    centres, starts, tiles, _ = cells
    count, b = len(starts) - 1, len(queries)
    wanted = max(1, min(wanted, count))
    bounds, begins = np.full(b, LOWEST_RAW, np.int32), np.zeros(b, np.int32)
    chosen, found = np.empty((b, wanted), np.int32), np.empty(wanted + LANES, np.int32)
    ranks, total = np.empty((FOUR, count), np.int32), 0
    enough, who = max(1, NEAR * limit * count // n), np.arange(b).astype(np.int32)
    scratch = np.empty(NEAR_TILES * LANES, np.int32), np.empty(NEAR_TILES, np.int32)
    for at in range(0, b, FOUR):
        some = who[at : at + FOUR]
        rank_centres(queries, some, bounds, centres, ranks)
        for i in range(len(some)):
            query = at + i
            near = choose_cells(ranks[i], wanted, enough, chosen[query], found)
            begins[query] = scan_nearest(
                queries, who, query, cells, chosen[query], near, bounds, scratch, held,
                limit,
            )  # fmt: skip
            total += wanted - begins[query]
    scores = np.empty(FOUR * LANES, np.int32)
    edges, listed = np.empty(count + 1, np.int32), np.empty(total, np.int32)
    by_cell(chosen, begins, edges, listed)
    for cell in range(count):
        asking = listed[edges[cell] : edges[cell + 1]]
        if len(asking) > 0:
            if starts[cell + 1] < len(tiles):
                ask_for(tiles, starts[cell + 1])
            scan_cell(queries, asking, cells, cell, bounds, scores, held, limit)
    return chosen
