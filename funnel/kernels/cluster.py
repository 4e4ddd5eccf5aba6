"""Part codes into cells: find each one's best centre, sum up those of a cell.

Arrays and numbers only. Called by `cells/part.py`, for slices of the codes in threads
of its own.

n = nodes, m = nodes of a call, c = cells, w = bytes of a code.
"""

from __future__ import annotations

import numpy as np

from funnel.kernels.choose import LOWEST_RAW
from funnel.kernels.codes import code_offset
from funnel.kernels.fours import FOUR
from funnel.kernels.jit import kernel
from funnel.kernels.tiles import LANES, score_four
from funnel.kernels.types import Array


@kernel
def assign(
    codes: Array, nodes: Array, centres: Array, cells: Array, best: Array
) -> None:
    """Write the cell of each node: that whose centre scores most, the lowest of equals.

    Parameters
    ----------
    codes : (n, w) int8
    nodes : (m,) int32
    centres : (c / 16, 16 w) uint8
        Tiles of the centres' codes, all of them full.
    cells : (m,) int32, out
    best : (m,) int32, out
        Each node's product with its centre.
    """
    width, lanes = codes.shape[1], FOUR * LANES
    scores, bounds = np.empty(lanes, np.int32), np.zeros(FOUR, np.int32)
    top, where = np.empty(lanes, np.int32), np.empty(lanes, np.int32)
    near, who = np.empty((FOUR, width), np.int8), np.arange(FOUR).astype(np.int32)
    for at in range(0, len(nodes), FOUR):
        group = min(FOUR, len(nodes) - at)
        for i in range(FOUR):
            near[i] = codes[nodes[at + min(i, group - 1)]]
        top[:], where[:] = LOWEST_RAW, 0
        for tile in range(len(centres)):
            score_four(near, who, 0, bounds, centres, tile, scores, width, 0, LANES)
            for lane in range(lanes):
                better = scores[lane] > top[lane]
                where[lane] = tile if better else where[lane]
                top[lane] = scores[lane] if better else top[lane]
        for i in range(group):
            cell, most = 0, np.int64(LOWEST_RAW)
            for lane in range(LANES):
                place = LANES * i + lane
                here, score = where[place] * LANES + lane, np.int64(top[place])
                if score > most or (score == most and here < cell):
                    cell, most = here, score
            cells[at + i] = cell
            best[at + i] = np.int32(most + code_offset(near[i]))


@kernel
def add_members(
    codes: Array, nodes: Array, cells: Array, sums: Array, sizes: Array
) -> None:
    """Add the codes of nodes to the sums of their cells, and count them.

    Parameters
    ----------
    codes : (n, w) int8
    nodes, cells : (m,) int32
    sums : (c, w) int32, in and out
    sizes : (c,) int64, in and out
    """
    for i in range(len(nodes)):
        code, total = codes[nodes[i]], sums[cells[i]]
        for j in range(len(code)):
            total[j] += np.int32(code[j])
        sizes[cells[i]] += 1
