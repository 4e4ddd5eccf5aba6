"""Grow a graph over int8 codes with our own kernels, in batches.

The links are those of HNSW's lowest level, found by the walk that searches use. Nodes
come in an order drawn from the seed. The nodes of a batch do not see each other while
their links are found, and each list of links is changed by one thread, so that the
graph does not depend on how many there are. Arrays in, arrays out.
"""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from funnel.graph.adjacency import ENTRIES
from funnel.graph.build import Links
from funnel.kernels.grow import code_offsets, find_links, link_back

Int8s = npt.NDArray[np.int8]
Int32s = npt.NDArray[np.int32]
# Of the nodes so far, and of all: a larger batch misses more links within itself. At a
# 50th of all nodes recall fell by .002, at a 1000th nothing was gained over a 200th.
SHARE_SO_FAR, SHARE_OF_ALL = 16, 200
FEWEST_SHARED = 64  # nodes that are worth being shared among threads
PIECES = 4  # of a batch, a thread


def grow_graph(
    codes: Int8s,
    *,
    M: int,
    ef_construction: int,
    seed: int,
    threads: int,
    advance: Callable[[int], None],
) -> Links:
    """Build a graph by inner product over codes.

    Parameters
    ----------
    codes : (n, w) int8
    M, ef_construction : int
        As in the HNSW paper.
    seed : int
        Draws the order of the nodes. Equal seeds give equal graphs.
    threads : int
    advance : callable
        Told how many nodes were added.

    Returns
    -------
    Links
        The first nodes of the order are on level 1, for `choose_entries`.

    References
    ----------
    Malkov & Yashunin 2018, arXiv:1603.09320, algorithms 1 and 4; batches: Manohar et
    al. 2024 (ParlayANN), arXiv:2305.04359.
    """
    n = len(codes)
    order = np.random.default_rng(seed).permutation(n).astype(np.int32)
    levels = np.zeros(n, np.int32)
    levels[order[:ENTRIES]] = 1
    with ThreadPoolExecutor(threads) as pool:
        growth = _Growth(codes, M, ef_construction, threads, pool)
        for start, stop in batches(n):
            growth.add(order[start:stop], order[: min(start, ENTRIES)])
            advance(stop - start)
        advance(1)  # the first node, which has nothing to link to
    return Links(growth.links, levels)


def batches(n: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of nodes that are added at once, all but the first node."""
    start = 1
    while start < n:
        most = max(FEWEST_SHARED, n // SHARE_OF_ALL)
        size = min(most, max(1, start // SHARE_SO_FAR), n - start)
        yield start, start + size
        start += size


class _Growth:
    """A graph that batches of nodes are added to."""

    def __init__(
        self, codes: Int8s, M: int, ef: int, threads: int, pool: ThreadPoolExecutor
    ) -> None:
        self.links = np.full((len(codes), 2 * M), -1, np.int32)
        self._codes, self._M, self._ef = codes, M, ef
        self._offsets = np.empty(len(codes), np.int32)
        code_offsets(codes, self._offsets)
        self._pieces, self._pool = PIECES * threads, pool
        self._scratch: queue.SimpleQueue[npt.NDArray[np.uint8]] = queue.SimpleQueue()
        for _ in range(threads):
            self._scratch.put(np.zeros(len(codes) + 1, np.uint8))

    def add(self, batch: Int32s, entries: Int32s) -> None:
        """Link a batch to the graph, and the graph to the batch."""
        found = np.empty((len(batch), self._M), np.int32)

        def find(start: int, stop: int) -> None:
            visited = self._scratch.get()
            nodes, out = batch[start:stop], found[start:stop]
            parts = self._codes, self._offsets, self.links, entries
            find_links(nodes, *parts, self._ef, visited, out)
            self._scratch.put(visited)

        self._share(len(batch), find)
        self.links[batch, : self._M] = found
        targets, starts, sources = _turned(batch, found)

        def back(start: int, stop: int) -> None:
            part = targets[start:stop], starts[start : stop + 1], sources
            link_back(*part, self._codes, self._offsets, self.links)

        self._share(len(targets), back)

    def _share(self, count: int, work: Callable[[int, int], None]) -> None:
        """Run ``work(start, stop)`` over slices of `count`, in threads."""
        pieces = self._pieces if count >= FEWEST_SHARED else 1
        edges = [count * i // pieces for i in range(pieces + 1)]
        if pieces == 1:
            work(0, count)
        else:
            list(self._pool.map(lambda edge: work(*edge), itertools.pairwise(edges)))


def _turned(
    nodes: Int32s, found: Int32s
) -> tuple[Int32s, npt.NDArray[np.int64], Int32s]:
    """Turn links around: the ends, where each one's begin, and from where they come."""
    real = found >= 0
    ends, sources = found[real], np.repeat(nodes, real.sum(axis=1))
    order = np.argsort(ends, kind="stable")
    targets, starts = np.unique(ends[order], return_index=True)
    return targets, np.append(starts, len(ends)), sources[order]
