"""What a diagnosis found, as a value: its verdict, what to do, and how it is shown.

Measures nothing (`measures.py`), reads nothing (`diagnose.py`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from funnel.adapt.measures import SHORTLISTS, Figures, Order
from funnel.adapt.tables import Shown, Table
from funnel.plan import MARGIN

KINDS = ("matryoshka", "unordered", "unstructured", "unknown")
HEADER = ("dims", "energy", *(f"{m:,}" for m in SHORTLISTS), "rows for 99 %")
NAMES = {"prefix": "own prefix", "pca": "principal axes"}
MANY_COPIES = 0.1  # share of the rows
EVEN = 1.01  # longest over shortest row: all of one length
FEW = 4  # rows a dim: axes of fewer fit them better than what comes
USUAL_SHORTLIST = 200


@dataclass(frozen=True)
class Diagnosis(Shown):
    """What `funnel.diagnose` found.

    Parameters
    ----------
    kind : {"matryoshka", "unordered", "unstructured", "unknown"}
        Ordered by its own dims; by principal axes only; by neither; too few distinct
        rows to tell.
    projection : {"prefix", "pca"}
        What ``build(projection="auto")`` chooses; with queries, what serves them best.
    graph_dim, code_dim : int
        What it chooses for both.
    dims : tuple of int
        The own prefixes that are worth a stage; without queries of one's own what
        ``build(dims="auto")`` takes, which measures the first rows only.
    rows, full_dim : int
        Rows that were read, bad ones included, and their width.
    sample_rows : int
        Rows of a uniform sample of the usable ones; one of each was measured.
    queries : int
        Queries that prefixes were judged by.
    queries_given : bool
        Whether those are the caller's, or rows of the sample.
    non_finite, zero : int
        Rows that hold NaN or infinity (or overflow float32), or have no direction.
    copies : int
        Usable rows that equal an earlier one.
    norms : tuple of three float
        Least, median and largest norm of the usable rows; zeros where there are none.
    contrast : float or None
        Relative contrast: mean distance over nearest distance.
    order : Order
        How much better the first dims are than random ones.
    structure : float
        How uneven energy is over directions: 0 for isotropic noise, at most 1.
    prefix, axes : Figures
        What prefixes of the embedding, and of its principal axes, are worth.
    """

    kind: str
    projection: str
    graph_dim: int
    code_dim: int
    dims: tuple[int, ...]
    rows: int
    full_dim: int
    sample_rows: int
    queries: int
    queries_given: bool
    non_finite: int
    zero: int
    copies: int
    norms: tuple[float, float, float]
    contrast: float | None
    order: Order
    structure: float
    prefix: Figures
    axes: Figures

    @property
    def verdict(self) -> str:
        """Return what this embedding is, and what is advised, in one line."""
        widths = f"graph_dim {self.graph_dim}, code_dim {self.code_dim} advised"
        rotate = "rotate first: " if self.projection == "pca" else ""
        heads = {
            "matryoshka": f"Matryoshka-like: projection {self.projection!r}, {widths}",
            "unordered": f"not ordered: {rotate}projection {self.projection!r}, "
            f"{widths}",
            "unstructured": "no structure: no short projection keeps its neighbours",
            "unknown": "too few distinct rows to tell",
        }
        return heads[self.kind]

    @property
    def needed(self) -> int:
        """Return the rows of a shortlist that the advised projection needs."""
        chosen = self.prefix if self.projection == "prefix" else self.axes
        return chosen.rows_needed()[self.code_dim]

    @property
    def advice(self) -> tuple[str, ...]:
        """Return what to do, a sentence each, the most important first."""
        return (*self._about_search(), *self._about_rows())

    def _about_search(self) -> list[str]:
        """Say what to build, by how much it is better, and how to search it."""
        if self.kind == "unknown":
            return ["diagnose more rows: these decide nothing"]
        if self.kind == "unstructured":
            return [
                "search with mode='exact': a shortlist by "
                f"{self.code_dim} dims needs {self.needed:,} of {self.sample_rows:,} "
                "rows; are these embeddings, or noise?"
            ]
        widths = f"code_dim={self.code_dim}"
        if self.graph_dim != self.code_dim:
            widths = f"graph_dim={self.graph_dim}, {widths}"
        build = f"FunnelIndex.build(X, projection={self.projection!r}, {widths})"
        if not self.queries_given:
            build += ", which the default (projection='auto') chooses"
        said = [build, self._comparison()]
        wanted = int(MARGIN * self.needed)
        if wanted > USUAL_SHORTLIST:
            said.append(f"search with shortlist={wanted} or more")
        if self.sample_rows < FEW * self.full_dim and not self.queries_given:
            said.append(
                f"{self.sample_rows:,} rows are few for axes of {self.full_dim} dims, "
                "which fit them better than what comes: pass queries= to measure that"
            )
        return said

    def _comparison(self) -> str:
        """Say how many rows either space needs at the widths that may be chosen."""
        prefix, axes = self.prefix.rows_needed(), self.axes.rows_needed()
        counts = ", ".join(
            f"{axes[w]:,} against {prefix[w]:,} at {w} dims"
            for w in sorted(prefix.keys() & axes.keys())
            if w >= 64 or w == self.code_dim
        )
        return (
            "rows of a shortlist that hold 99 % of the top 10, by principal axes "
            f"against the own prefix: {counts}"
        )

    def _about_rows(self) -> list[str]:
        """Say what is to be done about bad rows, copies and uneven norms."""
        said = []
        if self.non_finite or self.zero:
            said.append(
                f"{self.non_finite:,} rows hold NaN or infinity, {self.zero:,} are "
                "zero: on_bad_vectors='drop' leaves them out"
            )
        usable = self.rows - self.non_finite - self.zero
        if self.copies > MANY_COPIES * usable:
            said.append(
                f"{self.copies:,} of {usable:,} rows are copies, which share a node of "
                "the graph: all of this is of one of each"
            )
        if self.norms[2] > EVEN * self.norms[0]:
            said.append(
                f"norms run from {self.norms[0]:.3g} to {self.norms[2]:.3g}: all of "
                "this is by cosine; metric='ip' would rank long rows higher"
            )
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain types, fit for JSON."""
        found = dataclasses.asdict(self)
        found["order"]["deviations"] = self.order.deviations
        return {
            "verdict": self.verdict,
            "advice": list(self.advice),
            "shortlists": list(SHORTLISTS),
            **found,
        }

    @property
    def headline(self) -> str:
        """Return the verdict."""
        return self.verdict

    def facts(self) -> list[tuple[str, str]]:
        """Return what is known besides the table, as pairs of a name and its value."""
        whose = "given" if self.queries_given else "rows of the sample"
        low, middle, high = self.norms
        contrast = "-" if self.contrast is None else f"{self.contrast:.3f}"
        return [
            ("rows", f"{self.rows:,} x {self.full_dim:,} dims"),
            ("sample", f"{self.sample_rows:,} rows; {self.queries:,} queries, {whose}"),
            ("bad rows", f"{self.non_finite:,} NaN or infinite, {self.zero:,} zero"),
            ("copies", f"{self.copies:,}"),
            ("norms", f"{low:.4g} ... {middle:.4g} ... {high:.4g}"),
            ("contrast", f"{contrast} (mean distance over nearest)"),
            ("order", f"first dims recall {self.order.gain:+.3f} above random ones, "
             f"{self.order.deviations:.1f} standard deviations"),
            ("structure", f"{self.structure:.2f} (0 is isotropic noise)"),
            ("nested dims", ", ".join(map(str, self.dims))),
        ]  # fmt: skip

    def sections(self) -> list[Table]:
        """Return a table of each space."""
        return [
            Table(
                f"{NAMES[f.space]}: knn_recall@10 in a shortlist of", HEADER, _cells(f)
            )
            for f in (self.prefix, self.axes)
        ]


def _cells(figures: Figures) -> list[tuple[str, ...]]:
    """Return one row a width, as text."""
    rows = zip(
        figures.dims, figures.energy, figures.recall, figures.needed, strict=True
    )
    return [
        (f"{dim:,}", f"{energy:.3f}", *(f"{r:.3f}" for r in recall), f"{needed:,}")
        for dim, energy, recall, needed in rows
    ]
