"""What graph and codes are dims of: the embedding's own prefix, or principal axes.

Fits axes on a sample, and chooses between the two by measuring both on that sample.
Reads no file, projects no corpus (`build.py`) and no query (`kernels/query.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from funnel.kernels.codes import is_head
from funnel.kernels.types import Floats
from funnel.probes import Probes

PROJECTIONS = ("prefix", "pca", "auto")
WIDTHS = (64, 128, 256)
SHORT = 40  # rows: codes are wide enough when they hold the target in so many
LINES = 128  # dims: narrower codes save next to nothing, and may need as much fewer
TAILED = 5  # times the shortlist, whose tails are read
WORTH = 3 / 4  # of the cost without a tail: what one may cost
GRAPH_SHORT = 80  # the same of the graph's dims
ITERATIONS = 8  # at most
SETTLED = 1e-4  # of the energy: an iteration that adds no more is the last
DEPENDENT = 1e-5  # of the longest column: what another adds to those before it


@dataclass(frozen=True)
class Projection:
    """What was chosen, and why.

    Parameters
    ----------
    kind : {"prefix", "pca"}
    graph_dim, code_dim : int
        Dims of it that the graph is built on, and that codes hold.
    walk_dim : int
        Of the code's dims those that the walk scores; the rest ranks what it found.
    axes : (max(graph_dim, code_dim), full_dim) float32
        Rows are orthonormal, most energy first; (0, 0) for the prefix.
    code_rows : int
        Rows of a shortlist by the code's coordinates that hold 99 % of the exact
        top 10, on the sample.
    stage_rows : dict of int to int
        The same for longer own prefixes, where the projection is the own prefix.
    needed : dict of str to int
        The same for all that was tried: "prefix 64" → rows.
    asked : str
        "auto", or the kind that was asked for.
    sample_rows : int
        Rows of the sample.
    """

    kind: str
    graph_dim: int
    code_dim: int
    walk_dim: int
    axes: Floats
    code_rows: int
    stage_rows: dict[int, int]
    needed: dict[str, int]
    asked: str
    sample_rows: int

    @property
    def reason(self) -> str:
        """Return what was chosen and why, in one sentence."""
        names = {"prefix": "own prefix", "pca": "principal axes"}
        how = "chosen" if self.asked == "auto" else "as asked"
        counts = ", ".join(
            f"{count} rows by {names[key.split()[0]]} {key.split()[1]}"
            for key, count in self.needed.items()
        )
        return (
            f"{names[self.kind]} at {self.code_dim} dims {how}: on a sample of "
            f"{self.sample_rows:,} rows, 99 % of the exact top 10 are within {counts}"
        )


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
    if 2 * len(sample) < sample.shape[1]:
        vectors = _few_rows_axes(sample, width)
    else:
        vectors = _leading_eigenvectors(sample.T @ sample, width)
    # A direction's sign is arbitrary: fix it, so that equal data give equal axes.
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return np.ascontiguousarray((vectors * signs).T, dtype=np.float32)


def _few_rows_axes(sample: Floats, width: int) -> Floats:
    """Return what `_leading_eigenvectors` does of fewer rows than dims.

    They span few directions, so their own inner products tell which are the leading
    ones; what is lacking of `width` is any direction across them.
    """
    left = np.linalg.svd(sample.T.astype(np.float64), full_matrices=False)[0]
    left = left[:, :width]
    if left.shape[1] == width:
        return left
    drawn = np.random.default_rng(0).standard_normal((len(left), width))
    drawn[:, : left.shape[1]] = left
    spanned: Floats = np.linalg.qr(drawn)[0]
    spanned[:, : left.shape[1]] = left
    return spanned


def _leading_eigenvectors(moment: Floats, width: int) -> Floats:
    """Return the eigenvectors of the `width` largest eigenvalues, largest first.

    Subspace iteration with a margin of extra vectors: of 2,048 dims it finds 256 axes
    some eight times faster than a full decomposition, with the same energy to 0.01 %.
    """
    full_dim, block = len(moment), width + 64
    if block * 2 >= full_dim:
        return np.linalg.eigh(moment.astype(np.float64))[1][:, ::-1][:, :width]
    drawn = np.random.default_rng(0).standard_normal((full_dim, block))
    moved, held = moment @ drawn.astype(np.float32), 0.0
    for _ in range(ITERATIONS):
        basis = _orthonormal(moved).astype(np.float32)
        moved = moment @ basis
        before, held = held, float(np.vdot(basis, moved))
        if held - before <= SETTLED * held:
            break
    small = basis.T @ moved
    turned = np.linalg.eigh(small.astype(np.float64))[1][:, ::-1][:, :width]
    return _orthonormal(basis @ turned).astype(np.float32)


def _orthonormal(columns: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return an orthonormal basis of what the columns span.

    By the Cholesky factor of their inner products: three products of matrices, where
    a QR decomposition goes column by column, and its threads wait for each other at
    each (`bible-mrl`, beside other work: axes in 3.6 s by QR, in .7 s by this).

    References
    ----------
    Fukaya et al. 2014, "CholeskyQR2: a simple and communication-avoiding algorithm for
    computing a tall-skinny QR factorization on a large-scale parallel system".
    """
    wide = columns.astype(np.float64)
    try:
        factor = np.linalg.cholesky(wide.T @ wide)
    except np.linalg.LinAlgError:
        return np.linalg.qr(wide)[0]
    heights = factor.diagonal()
    if heights.min() < DEPENDENT * heights.max():
        return np.linalg.qr(wide)[0]
    found: npt.NDArray[np.float64] = wide @ np.linalg.inv(factor).T
    return found


def choose_projection(
    rows: Floats,
    asked: str,
    graph_dim: int | None,
    code_dim: int | None,
    seed: int,
) -> Projection:
    """Choose the projection and its dims, by measurement where they were not given.

    Parameters
    ----------
    rows : (n, d) float32, unit norm
        A sample of the corpus.
    asked : {"prefix", "pca", "auto"}
    graph_dim, code_dim : int or None
    seed : int
        Draws the sample's probes.
    """
    full_dim = rows.shape[1]
    given = code_dim or graph_dim
    widths = [given] if given else sorted({min(w, full_dim) for w in WIDTHS})
    widest = max(widths[-1], graph_dim or 0, code_dim or 0)
    kinds = ("prefix", "pca") if asked == "auto" else (asked,)
    axes = principal_axes(rows, widest) if "pca" in kinds else np.empty((0, 0), "f4")
    probes = Probes.of_sample(rows, seed)
    measured = {
        k: probes.rows_needed(rows if k == "prefix" else rows @ axes.T, widths)
        for k in kinds
    }
    kind, width = cheapest(measured)
    # A graph may be coarser than the codes that are scored on it, and builds faster.
    g = graph_dim or min(_narrowest(measured[kind], GRAPH_SHORT), code_dim or full_dim)
    head = code_dim or max(width, g)
    c = head if given or kind == "prefix" else with_tail(measured[kind], head, full_dim)
    longer = [d for d in (2 * c, 4 * c) if kind == "prefix" and 2 * d <= full_dim]
    return Projection(
        kind,
        g,
        c,
        head,
        np.ascontiguousarray(axes[: max(g, c)]) if kind == "pca" else axes[:0, :0],
        measured[kind].get(c, measured[kind][width]),
        probes.rows_needed(rows, longer),
        {f"{k} {w}": rows for k in kinds for w, rows in measured[k].items()},
        asked,
        len(rows),
    )


def cheapest(measured: Mapping[str, dict[int, int]]) -> tuple[str, int]:
    """Return the projection and the width with which a search costs least.

    Of equals, the one that needs fewer rows: queries may need many times as many.

    Parameters
    ----------
    measured : mapping of str to dict of int to int
        For each projection, the rows of a shortlist that each width needs.
    """
    best = {kind: _wide_enough(needed) for kind, needed in measured.items()}
    rows = {kind: measured[kind][width] for kind, width in best.items()}
    kind = min(best, key=lambda k: (_cost(best[k], rows[k]), rows[k]))
    return kind, best[kind]


def _wide_enough(needed: dict[int, int]) -> int:
    """Return the first width of codes that needs few enough rows, else the widest.

    Real queries are farther from the corpus than its own rows, by which this is mostly
    measured, and were seen to need six times as many. Codes of 64 dims save no more
    than one cache line a row: they are taken where they need next to nothing.
    """
    for width, count in needed.items():
        if count <= SHORT * min(1, width / LINES):
            return width
    return max(needed)


def with_tail(needed: Mapping[int, int], head: int, full_dim: int) -> int:
    """Return how wide codes should be of which a walk scores the first `head` dims.

    The rest of a code, its tail, is a line for 64 dims, read of `TAILED` times the
    shortlist, and a query is projected on more axes; what it spares is rows at full
    width. Counted in numbers of two bytes, as rows are where they are read fastest.

    Parameters
    ----------
    needed : mapping of int to int
        Rows of a shortlist that each width needs.
    """
    best, least = head, float(needed.get(head, 0) * full_dim)
    for width, count in needed.items():
        spent = TAILED * count * (width - head) / 2 + full_dim * (width - head) / 32
        cost = count * full_dim + spent
        if width > head and is_head(head, width) and cost < WORTH * least:
            best, least = width, cost
    return best


def _narrowest(needed: dict[int, int], limit: int) -> int:
    """Return the first width whose shortlist is short enough, else the widest."""
    for width, count in needed.items():
        if count <= limit:
            return width
    return max(needed)


def _cost(width: int, needed: int) -> float:
    """Return about what a search costs: a longer shortlist, then wider codes."""
    return max(needed, SHORT) * (1 + width / 512)
