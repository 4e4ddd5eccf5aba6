"""What graph and codes are dims of: the embedding's own prefix, or principal axes.

Fits axes on a sample, and chooses between the two by measuring both on that sample.
Reads no file, projects no corpus (`build.py`) and no query (`kernels/query.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from funnel.kernels.rows import squared_norms
from funnel.kernels.types import TINY, Floats

PROJECTIONS = ("prefix", "pca", "auto")
WIDTHS = (64, 128, 256)
PROBES = 256  # sample rows that act as queries
TARGET = 0.99  # share of the exact top 10 that a shortlist must hold
SHORT = 40  # rows: a width is wide enough when it holds the target in so many
TOP = 10
ITERATIONS = 8


@dataclass(frozen=True)
class Projection:
    """What was chosen, and why.

    Parameters
    ----------
    kind : {"prefix", "pca"}
    graph_dim, code_dim : int
        Dims of it that the graph is built on, and that the walk scores.
    axes : (max(graph_dim, code_dim), full_dim) float32
        Rows are orthonormal, most energy first; (0, 0) for the prefix.
    reason : str
        One sentence for people.
    needed : dict of str to int
        "prefix 64" → rows of a shortlist that hold 99 % of the exact top 10, on the
        sample; empty where nothing was measured.
    """

    kind: str
    graph_dim: int
    code_dim: int
    axes: Floats
    reason: str
    needed: dict[str, int]


def unit(rows: Floats) -> Floats:
    """Return rows scaled to unit norm; zero rows stay zero."""
    squares = np.empty(len(rows))
    squared_norms(np.ascontiguousarray(rows), squares)
    norms = np.sqrt(squares).astype(np.float32)[:, None]
    out: Floats = np.divide(rows, norms, out=np.zeros_like(rows), where=norms >= TINY)
    return out


def principal_axes(sample: Floats, width: int) -> Floats:
    """Return the `width` directions that hold most of the sample's energy.

    Uncentred, so that inner products are kept: eigenvectors of the second moment.

    Parameters
    ----------
    sample : (n, d) float32, unit norm

    Returns
    -------
    (width, d) float32
    """
    moment = sample.T @ sample
    vectors = _leading_eigenvectors(moment, width)
    # A direction's sign is arbitrary: fix it, so that equal data give equal axes.
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return np.ascontiguousarray((vectors * signs).T, dtype=np.float32)


def _leading_eigenvectors(moment: Floats, width: int) -> Floats:
    """Return the eigenvectors of the `width` largest eigenvalues, largest first.

    Subspace iteration with a margin of extra vectors: of 2,048 dims it finds 256 axes
    some ten times faster than a full decomposition, with the same energy to 0.1 %.
    """
    full_dim, block = len(moment), width + 64
    if block * 2 >= full_dim:
        return np.linalg.eigh(moment.astype(np.float64))[1][:, ::-1][:, :width]
    basis = np.random.default_rng(0).standard_normal((full_dim, block))
    basis = basis.astype(np.float32)
    for _ in range(ITERATIONS):
        basis = np.linalg.qr(moment @ basis)[0]
    small = basis.T @ (moment @ basis)
    turned = np.linalg.eigh(small.astype(np.float64))[1][:, ::-1][:, :width]
    return np.linalg.qr(basis.astype(np.float64) @ turned)[0]


def choose_projection(
    sample: Floats,
    asked: str,
    graph_dim: int | None,
    code_dim: int | None,
    seed: int,
) -> Projection:
    """Choose the projection and its dims, by measurement where they were not given.

    Parameters
    ----------
    sample : (n, d) float32
        Rows of the corpus, not normalised.
    asked : {"prefix", "pca", "auto"}
    graph_dim, code_dim : int or None
    seed : int
        Draws the sample's probes.
    """
    rows = unit(sample)
    full_dim = rows.shape[1]
    widths = sorted({min(w, full_dim) for w in WIDTHS})
    widest = max(widths[-1], graph_dim or 0, code_dim or 0)
    kinds = ("prefix", "pca") if asked == "auto" else (asked,)
    axes = principal_axes(rows, widest) if "pca" in kinds else np.empty((0, 0), "f4")
    given = code_dim or graph_dim
    tried = [given] if given else widths
    needed: dict[str, int] = {}
    if asked == "auto" or not given:
        for kind in kinds:
            short = rows[:, :widest] if kind == "prefix" else rows @ axes.T
            for width, count in rows_needed(rows, short, tried, seed).items():
                needed[f"{kind} {width}"] = count
    best = {kind: _narrowest(kind, tried, needed) for kind in kinds}
    kind = min(kinds, key=lambda k: _cost(best[k], needed.get(f"{k} {best[k]}", 0)))
    width = best[kind]
    g = graph_dim or (min(width, code_dim) if code_dim else width)
    c = code_dim or max(width, g)
    kept = axes[: max(g, c)] if kind == "pca" else np.empty((0, 0), np.float32)
    reason = _reason(asked, kind, width, needed, len(rows))
    return Projection(kind, g, c, np.ascontiguousarray(kept), reason, needed)


def rows_needed(
    rows: Floats, short: Floats, widths: list[int], seed: int
) -> dict[int, int]:
    """Return, for each width, the rows of a shortlist that hold `TARGET` of the top 10.

    Probes are rows of the sample itself, left out of their own answers.

    Parameters
    ----------
    rows : (n, d) float32, unit norm
    short : (n, ≥ widths) float32
        The same rows, projected.
    """
    n = len(rows)
    if n < 2 * TOP:
        return dict.fromkeys(widths, n)
    rng = np.random.default_rng(seed)
    probes = rng.choice(n, min(PROBES, n), replace=False)
    exact = rows[probes] @ rows.T
    exact[np.arange(len(probes)), probes] = -np.inf
    top = np.argpartition(-exact, TOP, axis=1)[:, :TOP]
    counts = {}
    for width in widths:
        part = unit(np.ascontiguousarray(short[:, :width]))
        scores = part[probes] @ part.T
        scores[np.arange(len(probes)), probes] = -np.inf
        wanted = np.take_along_axis(scores, top, axis=1)
        ranks = [(scores >= wanted[:, i, None]).sum(axis=1) for i in range(TOP)]
        counts[width] = int(np.quantile(np.array(ranks), TARGET, method="higher"))
    return counts


def _narrowest(kind: str, widths: list[int], needed: dict[str, int]) -> int:
    """Return the first width whose shortlist is short enough, else the widest."""
    for width in widths:
        if needed.get(f"{kind} {width}", 0) <= SHORT:
            return width
    return widths[-1]


def _cost(width: int, needed: int) -> float:
    """Return about what a search costs: a longer shortlist, then wider codes."""
    return max(needed, SHORT) * (1 + width / 512)


def _reason(asked: str, kind: str, width: int, needed: dict[str, int], n: int) -> str:
    names = {"prefix": "own prefix", "pca": "principal axes"}
    if not needed:
        return f"{names[kind]}: as asked"
    counts = ", ".join(
        f"{count} rows by {names[key.split()[0]]} {key.split()[1]}"
        for key, count in needed.items()
    )
    how = "chosen" if asked == "auto" else "as asked"
    return (
        f"{names[kind]} at {width} dims {how}: on a sample of {n:,} rows, 99 % of the "
        f"exact top 10 are within {counts}"
    )
