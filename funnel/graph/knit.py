"""Knit a graph of each node's nearest ones, found by cells: a third of a growth's time.

Who should be linked is found for all nodes independently, so that a batch of them
shares what it reads; `grow.py` walks the graph so far for each. Called by
`build/segment.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from funnel.graph.adjacency import ENTRIES, count_links
from funnel.graph.build import Links
from funnel.graph.cells import Parted, part
from funnel.kernels.grow import code_offsets, link_back
from funnel.kernels.knit import (
    count_sources,
    find_near_links,
    lead_to_all,
    weave,
    write_sources,
)

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
    folder: Path,
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
    folder : Path
        Takes what is not held in memory while the graph is built.
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
    offsets = np.empty(n, np.int32)
    code_offsets(codes, offsets)
    with ThreadPoolExecutor(threads) as pool:
        cells_of = partial(part, seed=seed, pool=pool, folder=folder)
        cells = cells_of(codes)
        _choose_links(codes, offsets, cells, M, limit, links, pool, advance)
        del cells  # its tiles are as large as the codes
        _turn_back(codes, offsets, M, links, pool)
        degrees, added = np.zeros(n, np.int32), np.zeros(n, np.int32)
        count_links(links, degrees)
        lead_to_all(links, degrees)
        for count in samples(n):
            nodes = order[:count]
            found = np.full((count, FAR), -1, np.int32)
            some = codes[nodes], offsets[nodes]
            cells = cells_of(some[0])
            _choose_links(*some, cells, FAR, limit, found, pool, lambda done: None)
            weave(nodes, found, links, added)
    levels = np.zeros(n, np.int32)
    levels[order[:ENTRIES]] = 1
    return Links(links, levels)


def samples(n: int) -> Iterator[int]:
    """Yield how many nodes of each sample are linked among each other as well."""
    count = n // THINNED
    while count >= FEWEST:
        yield count
        count //= THINNED


def _choose_links(
    codes: Int8s, offsets: Int32s, cells: Parted, M: int, limit: int,
    links: Int32s, pool: ThreadPoolExecutor, advance: Callable[[int], None],
) -> None:  # fmt: skip
    """Write the links that each node chooses to the first `M` places of its list."""
    # In the order of the cells: nodes that come together probe the same ones.
    order = cells.members[cells.members >= 0]
    arrays = cells.centres, cells.starts, cells.tiles, cells.members

    def work(start: int) -> int:
        some = order[start : start + TOGETHER]
        chosen = np.empty((len(some), M), np.int32)
        find_near_links(
            some, codes, offsets, arrays, cells.middles, PROBED, limit, chosen
        )
        links[some, :M] = chosen
        return len(some)

    for done in pool.map(work, range(0, len(order), TOGETHER)):
        advance(done)


def _turn_back(
    codes: Int8s, offsets: Int32s, M: int, links: Int32s, pool: ThreadPoolExecutor
) -> None:
    """Link the ends of the first `M` links of all nodes back to them."""
    n = len(codes)
    starts = np.empty(n + 1, np.int64)
    count_sources(links, M, starts)
    sources = np.empty(int(starts[-1]), np.int32)
    write_sources(links, M, starts, sources)
    step = max(1, n // PIECES)

    def back(first: int) -> None:
        stop = min(first + step, n)
        targets = np.arange(first, stop, dtype=np.int32)
        edges = starts[first : stop + 1]
        link_back(targets, edges, sources, codes, offsets, links)

    list(pool.map(back, range(0, n, step)))
