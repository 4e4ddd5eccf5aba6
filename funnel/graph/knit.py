"""Knit a graph of each node's nearest ones, found by cells: a third of a growth's time.

Who should be linked is found for all nodes independently, so that a batch of them
shares what it reads; `grow.py` walks the graph so far for each. Called by
`build/segment.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from funnel.graph.adjacency import ENTRIES, count_links
from funnel.graph.build import Links
from funnel.graph.cells import part
from funnel.graph.grow import turned
from funnel.kernels.grow import code_offsets, link_back
from funnel.kernels.knit import find_near_links, lead_to_all, weave

Int8s = npt.NDArray[np.int8]
Int32s = npt.NDArray[np.int32]
PROBED = 48  # cells in which a node's nearest are looked for
CANDIDATES = 5 / 8  # of ef_construction: nearest nodes that links are chosen from
TOGETHER = 512  # nodes that probe cells together: several of them each cell
PIECES = 64  # of the linking back
# Links within ever smaller samples lead from one tight cluster to another.
THINNED, FEWEST = 16, 2  # the part that a sample is of the one before; the smallest
FAR = 3  # links of a node in a sample


def knit_graph(
    codes: Int8s,
    *,
    M: int,
    ef_construction: int,
    seed: int,
    threads: int,
    advance: Callable[[int], None],
) -> Links:
    """Build a graph by inner product over codes of about equal length.

    Parameters
    ----------
    codes : (n, w) int8
    M : int
        As in the HNSW paper.
    ef_construction : int
        More of it: links are chosen from more candidates.
    seed : int
        Draws the cells' first centres, and the entries. Equal seeds give equal graphs,
        whatever the number of threads.
    threads : int
    advance : callable
        Told how many nodes were linked.

    Returns
    -------
    Links
        Some nodes are on level 1, for `choose_entries`.

    References
    ----------
    A graph of the nearest, thinned by direction, with links turned back: Fu et al. 2019
    (NSG), arXiv:1707.00143; Ootomo et al. 2023 (CAGRA), arXiv:2308.15136.
    """
    n = len(codes)
    order = np.random.default_rng(seed).permutation(n).astype(np.int32)
    links = np.full((n, 2 * M), -1, np.int32)
    limit = max(M, round(CANDIDATES * ef_construction))
    with ThreadPoolExecutor(threads) as pool:
        knitting = _Knitting(codes, seed, pool)
        links[:, :M] = knitting.found(M, limit, advance)
        knitting.turn_back(links, M)
        degrees = np.zeros(n, np.int32)
        count_links(links, degrees)
        lead_to_all(links, degrees)
        added = np.zeros(n, np.int32)
        for count in samples(n):
            nodes = order[:count]
            few = _Knitting(codes[nodes], seed, pool)
            weave(nodes, few.found(FAR, limit, lambda done: None), links, added)
    levels = np.zeros(n, np.int32)
    levels[order[:ENTRIES]] = 1
    return Links(links, levels)


def samples(n: int) -> Iterator[int]:
    """Yield how many nodes of each sample are linked among each other as well."""
    count = n // THINNED
    while count >= FEWEST:
        yield count
        count //= THINNED


class _Knitting:
    """Nodes that are linked to their nearest."""

    def __init__(self, codes: Int8s, seed: int, pool: ThreadPoolExecutor) -> None:
        self._codes, self._pool = codes, pool
        self._offsets = np.empty(len(codes), np.int32)
        code_offsets(codes, self._offsets)
        self._cells = part(codes, seed=seed, pool=pool)

    def found(self, M: int, limit: int, advance: Callable[[int], None]) -> Int32s:
        """Return the links that each node chooses, (n, M)."""
        found, cells = np.empty((len(self._codes), M), np.int32), self._cells
        # In the order of the cells: nodes that come together probe the same ones.
        order = cells.members[cells.members >= 0]
        arrays = cells.centres, cells.starts, cells.tiles, cells.members

        def work(start: int) -> int:
            some = order[start : start + TOGETHER]
            chosen = np.empty((len(some), M), np.int32)
            find_near_links(
                some, self._codes, self._offsets, arrays, cells.middles, PROBED, limit,
                chosen,
            )  # fmt: skip
            found[some] = chosen
            return len(some)

        for done in self._pool.map(work, range(0, len(order), TOGETHER)):
            advance(done)
        return found

    def turn_back(self, links: Int32s, M: int) -> None:
        """Link the ends of the first `M` links of all nodes back to them."""
        every = np.arange(len(links), dtype=np.int32)
        targets, starts, sources = turned(every, links[:, :M])
        step = max(1, len(targets) // PIECES)

        def back(start: int) -> None:
            ends, edges = (
                targets[start : start + step],
                starts[start : start + step + 1],
            )
            link_back(ends, edges, sources, self._codes, self._offsets, links)

        list(self._pool.map(back, range(0, len(targets), step)))
