"""How sure the order of hits is: whether the last dims agree on it.

Called by `FunnelIndex.search` where it is asked for. Searches nothing.

q = queries, k = hits, d = full dims.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from funnel.kernels.types import TINY, Floats, Rows
from funnel.snapshot import Snapshot

COMPARED = 2  # nested dims below the full width
TOGETHER_BYTES = 64 << 20  # of vectors that are read at a time
Numbers = npt.NDArray[np.float64]


def compared_dims(dims: tuple[int, ...]) -> tuple[int, ...]:
    """Return the dims whose ranks are compared with the final one.

    The two nested dims before the last, or the one there is; without any, a quarter and
    a half of the full width.

    Parameters
    ----------
    dims : tuple of int
        Nested dims, full_dim last.
    """
    full = dims[-1]
    halves = tuple(dim for dim in (full // 4, full // 2) if dim)
    return dims[:-1][-COMPARED:] or halves


def uncertainty_of(snapshot: Snapshot, queries: Floats, rows: Rows) -> Floats:
    """Return how much the rank of each hit moves over the last nested dims.

    The hits of a query are ranked anew by their prefixes, renormalised, of each of
    `compared_dims`; equal scores keep the order of the hits. Of a hit, that is the mean
    distance of these ranks from its rank as a hit, over the largest there can be, the
    number of hits less one: 0 where the last dims agree on its place.

    Reads the vectors of all hits, which a search has just read: some µs a hit.

    Parameters
    ----------
    queries : (q, d) float32
        Checked and transformed.
    rows : (q, k) int64
        Hits, best first; −1 behind the last of a query.

    Returns
    -------
    (q, k) float32
        From 0 to 1; NaN where there is no hit, and where the query is of zeros alone:
        it has no direction to agree on.
    """
    out = np.full(rows.shape, np.nan, np.float32)
    row_bytes = max(1, rows.shape[1]) * snapshot.manifest.full_dim * 8
    step = max(1, TOGETHER_BYTES // row_bytes)
    for first in range(0, len(rows), step):
        some = slice(first, first + step)
        out[some] = _some(snapshot, queries[some], rows[some])
    return out


def _some(snapshot: Snapshot, queries: Floats, rows: Rows) -> Floats:
    """Do as `uncertainty_of`, of few queries."""
    full, found = snapshot.manifest.full_dim, rows >= 0
    norms = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    wanted = queries / np.where(norms > 0, norms, 1)
    stored = np.zeros((*rows.shape, full))
    stored[found] = snapshot.vectors(rows[found])
    lengths = np.ones(rows.shape)
    if snapshot.manifest.metric == "ip":
        lengths = np.linalg.norm(stored, axis=2)
    places = np.arange(rows.shape[1])
    moved, dims = np.zeros(rows.shape), compared_dims(snapshot.manifest.dims)
    for dim in dims:
        scores = _cosines(stored[:, :, :dim], wanted[:, :dim]) * lengths
        scores[~found] = -np.inf
        moved += np.abs(_ranks(scores) - places)
    most = np.maximum(found.sum(axis=1, keepdims=True) - 1, 1) * max(1, len(dims))
    return np.where(found & (norms > 0), moved / most, np.nan).astype(np.float32)


def _cosines(stored: Numbers, wanted: Numbers) -> Numbers:
    """Return the cosines of (q, k, d) rows and (q, d) queries, times a query's norm.

    That changes no order. Zero rows score 0.
    """
    norms = np.linalg.norm(stored, axis=2)
    products: Numbers = np.einsum("qkd,qd->qk", stored, wanted)
    cosines: Numbers = np.divide(
        products, norms, out=np.zeros_like(norms), where=norms > TINY
    )
    return cosines


def _ranks(scores: Numbers) -> Rows:
    """Return the rank of each score of a row, from 0; equal ones keep their order.

    Scores are compared as float32: what float64 sums differ by is no difference.
    """
    order = np.argsort(-scores.astype(np.float32), axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(scores.shape[1])[None, :], axis=1)
    return ranks
