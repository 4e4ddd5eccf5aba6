"""Part codes into cells, by k-means over directions.

Arrays in, arrays out: what `knit.py` looks for the nearest nodes in. Searches nothing.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from funnel.graph.spill import lay_out
from funnel.kernels.cluster import add_members, assign
from funnel.kernels.tiles import LANES, tiles_of

Int8s = npt.NDArray[np.int8]
Int32s = npt.NDArray[np.int32]
Tiles = npt.NDArray[np.uint8]
SHARE = 2  # cells, times the root of the nodes
SAMPLED = 64  # nodes a cell that centres are fitted to
ROUNDS = 8  # of k-means
PIECE = 4_096  # nodes that a thread parts at a time
MEASURED = 10_000  # nodes that tell how long codes are


@dataclass(frozen=True)
class Parted:
    """Nodes in cells, as arrays.

    Parameters
    ----------
    centres : (c / 16, 16 w) uint8
        Tiles of the centres' codes; c is a multiple of 16.
    starts : (c + 1,) int32
        The first tile of each cell, and the end.
    tiles : (t, 16 w) uint8
        Those of the codes; each cell has tiles of its own.
    members : (16 t,) int32
        The node at each place of the tiles, −1 for none.
    middles : (c,) int32
        The node nearest to each centre, −1 where a cell is empty.
    """

    centres: Tiles
    starts: Int32s
    tiles: Tiles
    members: Int32s
    middles: Int32s


def count_of(n: int) -> int:
    """Return into how many cells `n` nodes are parted: a multiple of 16."""
    return max(1, round(SHARE * math.sqrt(n) / LANES)) * LANES


def part(codes: Int8s, *, seed: int, pool: ThreadPoolExecutor, folder: Path) -> Parted:
    """Part codes into cells.

    Parameters
    ----------
    codes : (n, w) int8
        At least one.
    seed : int
        Draws the sample and the first centres. Equal seeds give equal cells, whatever
        the number of threads.
    pool : ThreadPoolExecutor
    folder : Path
        Takes tiles that are many, in a file without a name.

    References
    ----------
    Dhillon & Modha 2001, "Concept decompositions for large sparse text data using
    clustering": k-means by cosine.
    """
    n, count = len(codes), count_of(len(codes))
    order = np.random.default_rng(seed).permutation(n).astype(np.int32)
    sample = np.sort(order[: SAMPLED * count])
    fit = _Fit(codes, count, pool)
    fit.start(np.sort(order[:count]))
    for _ in range(ROUNDS):
        fit.improve(sample)
    cells, best = fit.assign(np.arange(n, dtype=np.int32))
    starts, members = _places(cells, count)
    tiles = lay_out(codes, members, folder)
    return Parted(fit.centres, starts, tiles, members, _middles(cells, best, count))


class _Fit:
    """Centres that come closer to the middle of their cells."""

    def __init__(self, codes: Int8s, count: int, pool: ThreadPoolExecutor) -> None:
        self._codes, self._count, self._pool = codes, count, pool
        some = codes[:: max(1, len(codes) // MEASURED)].astype(np.float32)
        self._length = float(np.linalg.norm(some, axis=1).mean())
        self.centres: Tiles = np.empty((0, 0), np.uint8)

    def start(self, nodes: Int32s) -> None:
        """Begin with some nodes as centres, again and again if they are too few."""
        self._set(self._codes[np.resize(nodes, self._count)].astype(np.float32))

    def improve(self, nodes: Int32s) -> None:
        """Move each centre to the middle of its nodes.

        An empty cell starts again from a node that lies far from its centre.
        """
        cells, best = self.assign(nodes)
        sums = np.zeros((self._count, self._codes.shape[1]), np.int32)
        sizes = np.zeros(self._count, np.int64)
        add_members(self._codes, nodes, cells, sums, sizes)
        empty = np.flatnonzero(sizes == 0)
        far = nodes[np.argsort(best, kind="stable")[: len(empty)]]
        sums[empty[: len(far)]] = self._codes[far]
        self._set(sums.astype(np.float32))

    def assign(self, nodes: Int32s) -> tuple[Int32s, Int32s]:
        """Return the cell of each node, and its product with the centre."""
        cells, best = np.empty_like(nodes), np.empty_like(nodes)

        def work(start: int) -> None:
            at = slice(start, start + PIECE)
            assign(self._codes, nodes[at], self.centres, cells[at], best[at])

        list(self._pool.map(work, range(0, len(nodes), PIECE)))
        return cells, best

    def _set(self, middles: npt.NDArray[np.float32]) -> None:
        """Make directions the centres: codes that are as long as those of nodes."""
        lengths = np.linalg.norm(middles, axis=1, keepdims=True)
        middles = middles * (self._length / np.maximum(lengths, 1))
        centres = np.clip(np.rint(middles), -127, 127).astype(np.int8)
        self.centres = tiles_of(centres, np.arange(self._count, dtype=np.int32))


def _places(cells: Int32s, count: int) -> tuple[Int32s, Int32s]:
    """Give each cell whole tiles, and its nodes places in them, in their order."""
    sizes = np.bincount(cells, minlength=count)
    starts = np.concatenate([[0], np.cumsum(-(-sizes // LANES))]).astype(np.int32)
    order = np.argsort(cells, kind="stable")
    members = np.full(LANES * int(starts[-1]), -1, np.int32)
    firsts = np.concatenate([[0], np.cumsum(sizes)])
    within = np.arange(len(cells)) - firsts[cells[order]]
    members[LANES * starts[cells[order]].astype(np.int64) + within] = order
    return starts, members


def _middles(cells: Int32s, best: Int32s, count: int) -> Int32s:
    """Return the node of each cell that scores most with its centre, −1 for none."""
    order = np.lexsort((best, cells))
    middles = np.full(count, -1, np.int32)
    middles[cells[order]] = order  # of many, the last one stays
    return middles
