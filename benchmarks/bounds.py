"""What bounds by Cauchy and Schwarz rule out, over prefixes and principal axes.

In float64 and with exact coordinates: the most that `policy="certified"` could spare.
Called by `benchmarks.adaptive`.

q = queries, n = rows of a shortlist, d = full width, w = width of a projection.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from funnel.projection import principal_axes

AXES = (64, 128, 256)
PREFIXES = (128, 256, 512, 768, 1024)
SHORTLIST = 200
QUERIES = 300
SAMPLE = 8_000  # rows that axes are fitted to


def upper(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the most that each row's cosine may be, by some of its coordinates.

    Parameters
    ----------
    rows, query : (n, w), (w,) float64
        Coordinates of vectors of unit length on orthonormal axes.
    """
    outside = [np.maximum(0, 1 - (x**2).sum(axis=-1)) for x in (rows, query)]
    bound: np.ndarray = rows @ query + np.sqrt(outside[0] * outside[1])
    return bound


def ruled_out(index: Any, corpus: Any, queries: np.ndarray, k: int) -> dict[str, float]:
    """Return the share of a shortlist that cannot be an answer, by each projection.

    The k-th exact score being known.

    Parameters
    ----------
    index : FunnelIndex
        Its ids are rows of the corpus.
    corpus : (n, d) array or memory map
    """
    queries = _unit(np.asarray(queries[:QUERIES], np.float64))
    draw = np.random.default_rng(0).choice
    count = min(SAMPLE, len(corpus))
    sample = corpus[np.sort(draw(len(corpus), count, replace=False))]
    full = queries.shape[1]
    axes = principal_axes(_unit(np.asarray(sample, np.float32)), min(AXES[-1], full))
    spaces = {f"axes {w}": axes[:w].astype(np.float64) for w in AXES if w < full}
    spaces |= {f"own {w}": np.eye(w, full) for w in PREFIXES if w < full}
    found: dict[str, list[float]] = {name: [] for name in spaces}
    asked, walk = queries.astype(np.float32), "prefix_ann"
    listed = index.search(asked, SHORTLIST, shortlist=SHORTLIST, mode=walk).ids
    for query, ids in zip(queries, listed, strict=True):
        rows = _unit(np.asarray(corpus[np.sort(ids)], np.float64))
        least = np.sort(rows @ query)[-k]
        for name, space in spaces.items():
            possible = upper(rows @ space.T, space @ query)
            found[name].append(float((possible < least).mean()))
    return {name: float(np.mean(shares)) for name, shares in found.items()}


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
