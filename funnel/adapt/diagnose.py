"""Tell what an embedding is worth to a funnel, before anything is built.

Reads the data once, keeps a sample, measures it (`measures.py`), and says what
`FunnelIndex.build` would choose and why (`diagnosis.py`). Writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from funnel.adapt.diagnosis import Diagnosis
from funnel.adapt.measures import (
    ORDER_ROWS,
    Figures,
    Judge,
    Order,
    order_of,
    structure_of,
)
from funnel.build.nodes import row_hashes
from funnel.build.sample import Reservoir
from funnel.errors import (
    DimensionError,
    InvalidArgumentError,
    check_choice,
    check_whole,
)
from funnel.kernels.rows import squared_norms
from funnel.kernels.types import Floats
from funnel.nested import nested_dims
from funnel.options import MAX_SEED, default_dims
from funnel.probes import PROBES, TOP
from funnel.progress import Progress

# The rule of `choose_projection`, on figures that queries of one's own may have made.
from funnel.projection import WIDTHS, cheapest, principal_axes, with_tail
from funnel.sources import open_source
from funnel.vectors import LEAST, MOST, TRANSFORMS, apply_transform, check_rows

LEAST_GAIN = 0.02  # of recall: below it, an order is of no use
LEAST_DEVIATIONS = 4.0  # chance exceeds it once in some 2,000 times
LEAST_STRUCTURE = 0.1
LONG = 100  # rows by half of the dims: a shortlist that shortens nothing


def diagnose(
    data: Any,
    *,
    queries: Any = None,
    transform: str | None = None,
    seed: int = 0,
    progress: Any = False,
    vector_column: str | None = None,
) -> Diagnosis:
    """Say whether an embedding is Matryoshka, what a funnel gains, and what to do.

    Reads everything once, in batches, and keeps 12 bytes a row and a uniform sample: at
    most 20,000 rows and 256 MB, the one that a build would draw. Measuring 20,000 rows
    of 1,024 dims takes some ten seconds of a core. Bad rows are counted and left
    out. All of it is by cosine.

    Parameters
    ----------
    data : (n, full_dim) array-like, Arrow data, path or glob, or iterator of these
        As `FunnelIndex.build` takes it; an iterator is used up.
    queries : as `data`, optional
        Queries as they will come, where those are unlike the corpus (questions against
        articles): projection and dims are then chosen on them, 256 at most. By default
        rows of the sample act as queries.
    transform : {"layer_norm"}, optional
        Applied first, to queries as well; what nomic-embed needs.
    seed : int
        Draws the sample and the queries; with the seed of a build, the same ones.
    progress : bool, callable or tqdm class
    vector_column : str, optional
        Of tables and Parquet files; by default found by type and usual names.

    Returns
    -------
    Diagnosis
        Prints as a table; ``.verdict``, ``.advice`` and ``.to_dict()`` for programs.

    Raises
    ------
    InvalidArgumentError
        If there are no rows at all.
    DimensionError
        If queries are not as wide as the data.
    FunnelError
        A subclass that says what else was wrong.

    References
    ----------
    Kusupati et al. 2022, *Matryoshka Representation Learning*, arXiv:2205.13147,
    section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from funnel import diagnose
    >>> rng = np.random.default_rng(0)
    >>> hidden = rng.standard_normal((2_000, 24)) / np.sqrt(1 + np.arange(24))
    >>> rotation = np.linalg.qr(rng.standard_normal((128, 128)))[0]
    >>> found = diagnose(hidden @ rotation[:24])
    >>> found.verdict
    "not ordered: rotate first: projection 'pca', graph_dim 64, code_dim 64 advised"
    >>> found.prefix.rows_needed()[64] > 2 * found.axes.rows_needed()[64]
    True
    """
    if transform is not None:
        check_choice("transform", transform, TRANSFORMS)
    check_whole("seed", seed, 0, MAX_SEED)
    reporter = Progress(progress)
    corpus = _Reading("embeddings", data, vector_column, transform, seed, reporter)
    asked = None
    if queries is not None:
        asked = _Reading("queries", queries, None, transform, seed, reporter).sample
        if asked.rows.shape[1] != corpus.full_dim:
            raise DimensionError(
                f"queries have {asked.rows.shape[1]} dims; "
                f"the embeddings have {corpus.full_dim}"
            )
    with reporter.step("measuring", 1) as advance:
        found = _measure(corpus, None if asked is None else asked.rows, seed)
        advance(1)
    return found


class _Reading:
    """What one pass over a source found: a sample, and counts of all rows."""

    def __init__(
        self, name: str, data: Any, vector_column: str | None, transform: str | None,
        seed: int, progress: Progress,
    ) -> None:  # fmt: skip
        if isinstance(data, list | tuple) and not len(data):
            raise InvalidArgumentError(f"there are no {name} to diagnose")
        source = open_source(data, vector_column)
        self.rows = self.non_finite = self.zero = self.full_dim = 0
        self._hashes: list[npt.NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        self._norms: list[Floats] = [np.empty(0, np.float32)]
        vectors = (batch.vectors for batch in source.batches)
        with progress.step(f"reading {name}", source.rows) as advance:
            for rows in _checked(vectors, name, transform):
                if not self.rows:
                    self.full_dim = rows.shape[1]
                    self.sample = Reservoir(self.full_dim, seed)
                self._take(rows)
                advance(len(rows))
        if not self.rows:
            raise InvalidArgumentError(f"there are no {name} to diagnose")

    def _take(self, rows: Floats) -> None:
        """Count a batch's rows, and offer the usable ones to the sample."""
        squares = np.empty(len(rows))
        squared_norms(rows, squares)
        broken, zero = ~(squares <= MOST), squares < LEAST
        good = ~(broken | zero)
        self.rows += len(rows)
        self.non_finite += int(broken.sum())
        self.zero += int(zero.sum())
        rows = rows if good.all() else rows[good]
        self.sample.offer(rows)
        self._hashes.append(row_hashes(rows))
        self._norms.append(np.sqrt(squares[good]).astype(np.float32))

    def counts(self) -> dict[str, Any]:
        """Return what a diagnosis says of all rows, by its names."""
        hashes, norms = np.concatenate(self._hashes), np.concatenate(self._norms)
        spread = (norms.min(), np.median(norms), norms.max()) if len(norms) else ()
        return {
            "rows": self.rows,
            "full_dim": self.full_dim,
            "sample_rows": len(self.sample.rows),
            "non_finite": self.non_finite,
            "zero": self.zero,
            "copies": len(hashes) - len(np.unique(hashes)),
            "norms": tuple(float(norm) for norm in spread) or (0.0, 0.0, 0.0),
        }


def _checked(
    batches: Iterator[npt.NDArray[Any]], name: str, transform: str | None
) -> Iterator[Floats]:
    """Yield batches as float32 of one width, transformed."""
    width = None
    for vectors in batches:
        rows = check_rows(vectors, name)
        if width not in (None, rows.shape[1]):
            raise DimensionError(
                f"{name} change their width from {width} to {rows.shape[1]} dims"
            )
        width = rows.shape[1]
        if len(rows):
            with np.errstate(invalid="ignore", over="ignore"):
                yield apply_transform(rows, transform)


def _measure(corpus: _Reading, queries: Floats | None, seed: int) -> Diagnosis:
    """Measure a sample, choose as a build does, and put it all together."""
    rows, full_dim = corpus.sample.distinct(), corpus.full_dim
    judge = Judge.of_sample(rows, seed)
    if queries is not None:
        drawn = np.random.default_rng(seed).permutation(len(queries))[:PROBES]
        judge = Judge(rows, queries[drawn], None)
    prefix, axes = _both(judge, full_dim)
    projection, head, width = _choice(prefix, axes, full_dim)
    order, structure, kind = Order(0.0, 0.0), 0.0, "unknown"
    if len(rows) > 2 * TOP and len(judge.queries):
        some = _some(rows, seed)
        order, structure = order_of(some, seed), structure_of(some, seed)
        kind = _kind(prefix, order, structure, full_dim)
    return Diagnosis(
        **corpus.counts(),
        kind=kind,
        projection=projection,
        graph_dim=head,  # the default builder's graph is over what a walk scores
        code_dim=width,
        dims=nested_dims(prefix.rows_needed(), full_dim),
        queries=len(judge.queries),
        queries_given=queries is not None,
        contrast=judge.contrast(),
        order=order,
        structure=structure,
        prefix=prefix,
        axes=axes,
    )


def _both(judge: Judge, full_dim: int) -> tuple[Figures, Figures]:
    """Return the figures of the own prefix and of the principal axes."""
    chosen_from = {min(width, full_dim) for width in WIDTHS}
    dims = sorted(chosen_from | set(default_dims(full_dim)[:-1]))
    prefix = judge.figures("prefix", judge.rows, judge.queries, dims)
    few = [width for width in dims if width <= max(chosen_from)]
    if not len(judge.rows):
        return prefix, judge.figures("pca", judge.rows, judge.queries, few)
    turned = principal_axes(judge.rows, few[-1]).T
    own, queries = judge.rows @ turned, judge.queries @ turned
    return prefix, judge.figures("pca", own, queries, few)


def _choice(prefix: Figures, axes: Figures, full_dim: int) -> tuple[str, int, int]:
    """Return what a build chooses on these figures: projection, walk_dim, code_dim."""
    widths = sorted({min(width, full_dim) for width in WIDTHS})
    measured = {
        figures.space: {width: figures.rows_needed()[width] for width in widths}
        for figures in (prefix, axes)
    }
    kind, head = cheapest(measured)
    width = with_tail(measured[kind], head, full_dim) if kind == "pca" else head
    return kind, head, width


def _some(rows: Floats, seed: int) -> Floats:
    """Return at most `ORDER_ROWS` rows of the sample, drawn from it."""
    if len(rows) <= ORDER_ROWS:
        return rows
    draw = np.random.default_rng(seed).choice
    return rows[np.sort(draw(len(rows), ORDER_ROWS, replace=False))]


def _kind(prefix: Figures, order: Order, structure: float, full_dim: int) -> str:
    """Return what the embedding is: see `Diagnosis`."""
    if order.gain >= LEAST_GAIN and order.deviations >= LEAST_DEVIATIONS:
        return "matryoshka"
    if structure >= LEAST_STRUCTURE:
        return "unordered"
    half = [n for w, n in prefix.rows_needed().items() if 2 * w <= full_dim]
    return "unordered" if half and half[-1] <= LONG else "unstructured"
