"""What a walk needs besides the links: where to start, and that every node is reached.

Arrays in, arrays out; builds no graph (`build.py`) and walks none (`kernels/walk.py`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from funnel.graph.build import Links
from funnel.kernels.jit import kernel
from funnel.kernels.types import Array

ENTRIES = 256  # whose codes every walk scans for its start
ROUNDS = 8  # a node linked from another lost one is reached with it
Int32s = npt.NDArray[np.int32]


def choose_entries(links: Links) -> Int32s:
    """Return the nodes where a walk may start: `ENTRIES` of the highest levels.

    A scan of their codes, half a microsecond for 256 of 64 bytes, replaces HNSW's
    descent: in tight clusters a descent from one entry point ends in the wrong one.
    Of a level that has too many, some are taken, evenly spaced.
    """
    chosen, room = [], ENTRIES
    for level in range(int(links.levels.max()), -1, -1):
        nodes = np.flatnonzero(links.levels == level)
        if len(nodes) > room:
            nodes = nodes[np.arange(room) * len(nodes) // room]
        chosen.append(nodes)
        room -= len(nodes)
    return np.sort(np.concatenate(chosen)).astype(np.int32)


@kernel
def follow(links: Array, seen: Array, mark: int, queue: Array, size: int) -> int:
    """Mark the nodes of a list that are not, and queue them; return the queue's size.

    Parameters
    ----------
    links : (g,) int32
    seen : (n,) bool or int32, in and out
        `mark` where a node was seen.
    queue : (n,) int32, in and out
    """
    for j in range(len(links)):
        node = links[j]
        if node < 0:
            break
        if seen[node] != mark:
            seen[node] = mark
            queue[size] = node
            size += 1
    return size


@kernel
def mark_reached(neighbours: Array, starts: Array, reached: Array, queue: Array) -> int:
    """Mark all nodes that links lead to from `starts`; return how many there are.

    Parameters
    ----------
    neighbours : (n, g) int32
    starts : (e,) int32
    reached : (n,) bool, out
    queue : (n,) int32, scratch
    """
    size = 0
    for i in range(len(starts)):
        if not reached[starts[i]]:
            reached[starts[i]] = True
            queue[size] = starts[i]
            size += 1
    at = 0
    while at < size:
        size = follow(neighbours[queue[at]], reached, True, queue, size)
        at += 1
    return size


def unreachable(neighbours: Int32s, entries: Int32s) -> Int32s:
    """Return the nodes that no walk from any of `entries` can find."""
    n = len(neighbours)
    reached = np.zeros(n, np.bool_)
    mark_reached(neighbours, entries, reached, np.empty(n, np.int32))
    return np.flatnonzero(~reached).astype(np.int32)


@kernel
def leads_to(
    neighbours: Array, start: int, goals: Array, seen: Array, mark: int, queue: Array
) -> bool:
    """Tell whether links lead from a node to one of the goals.

    Parameters
    ----------
    neighbours : (n, g) int32
    start : int
    goals : (n,) bool
    seen : (n,) int32, in and out
        `mark` where a node was seen.
    mark : int
        Not in `seen` before.
    queue : (n,) int32, scratch
    """
    queue[0], seen[start], size, at = start, mark, 1, 0
    while at < size:
        if goals[queue[at]]:
            return True
        size = follow(neighbours[queue[at]], seen, mark, queue, size)
        at += 1
    return False


def rooted(neighbours: Int32s, entries: Int32s) -> Int32s:
    """Return the entries from which links lead to the first, that one first.

    What is found from it is found from all of them, wherever a walk starts. If they
    are few, another is taken for the first.
    """
    n, best = len(neighbours), entries[:0]
    seen, queue, mark = np.zeros(n, np.int32), np.empty(n, np.int32), 0
    for root in entries[:ROUNDS]:
        goals, left = np.zeros(n, np.bool_), entries[entries != root]
        goals[root], found = True, [np.array([root], np.int32)]
        while len(left):
            leads = np.zeros(len(left), np.bool_)
            for i, start in enumerate(left):
                mark += 1
                leads[i] = leads_to(neighbours, start, goals, seen, mark, queue)
                goals[start] |= leads[i]
            found.append(left[leads])
            left = left[~leads] if leads.any() else left[:0]
        kept = np.concatenate(found)
        best = kept if len(kept) > len(best) else best
        if 2 * len(best) >= len(entries):
            break
    return best


def link_unreachable(neighbours: Int32s, entry: int) -> Int32s:
    """Link nodes that nothing leads to from a node near them.

    The link takes an empty place, or that of a link whose end has others.

    Parameters
    ----------
    neighbours : (n, g) int32, changed in place
    entry : int
        A walk starts from one node: all must be found from this one.

    Returns
    -------
    (u,) int32
        Nodes that still cannot be reached.
    """
    entries = np.array([entry], np.int32)
    lost = unreachable(neighbours, entries)
    for _ in range(ROUNDS):
        if not len(lost):
            break
        degrees = np.zeros(len(neighbours), np.int32)
        count_links(neighbours, degrees)
        taken = [_link(neighbours, degrees, node) for node in lost.tolist()]
        left = unreachable(neighbours, entries)
        if len(left) >= len(lost):  # a link that was taken led to more than its end
            for place in filter(None, reversed(taken)):
                neighbours[place[:2]] = place[2]
            break
        lost = left
    return lost


@kernel
def count_links(neighbours: Array, degrees: Array) -> None:
    """Add the links that lead to each node, (n, g) int32 → (n,) int32.

    A copy of all links, as a selection of them is, takes as much memory as the graph.
    """
    for i in range(len(neighbours)):
        for j in range(neighbours.shape[1]):
            if neighbours[i, j] >= 0:
                degrees[neighbours[i, j]] += 1


def _link(
    neighbours: Int32s, degrees: Int32s, node: int
) -> tuple[int, int, int] | None:
    """Make one of the nodes around `node` link to it, if any can.

    Returns the node, the place of the link, and what was there before.
    """
    near = neighbours[node][neighbours[node] >= 0]
    around = np.unique(np.concatenate([near, neighbours[near].ravel()]))
    around = around[(around >= 0) & (around != node)]
    for other in (*near.tolist(), *around.tolist()):
        links = neighbours[other]
        free = np.flatnonzero(links < 0)
        spare = np.flatnonzero(degrees[links] > 1)
        if len(free):
            place = free[0]
        elif len(spare):
            place = spare[-1]
            degrees[links[place]] -= 1
        else:
            continue
        before = int(links[place])
        links[place] = node
        degrees[node] += 1
        return int(other), int(place), before
    return None
