"""What a search did, and where it lost a row, as values that print themselves."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import Any

HEADER = ("step", "dim", "rows in", "kept", "last score", "bytes", "µs")


@dataclass(frozen=True)
class ShownStep:
    """A step of one search.

    Parameters
    ----------
    name : str
    dim : int
    rows_in, kept : int
    last_score : float
        Of the last row that went on.
    bytes_read : int
    time_us : float
    """

    name: str
    dim: int
    rows_in: int
    kept: int
    last_score: float
    bytes_read: int
    time_us: float

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table's row."""
        return (
            self.name, f"{self.dim:,}", f"{self.rows_in:,}", f"{self.kept:,}",
            f"{self.last_score:.4f}", f"{self.bytes_read:,}", f"{self.time_us:.1f}",
        )  # fmt: skip


@dataclass(frozen=True)
class Explanation:
    """What one search did: prints as a table, shows as one in a notebook.

    Parameters
    ----------
    steps : tuple of ShownStep
    k : int
    origin : str
        Where the plan came from.
    time_us : float
        Inside compiled code.
    """

    steps: tuple[ShownStep, ...]
    k: int
    origin: str
    time_us: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [HEADER, *(step.cells() for step in self.steps)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
        lines = [f"k = {self.k}, {self.origin}; {self.time_us:.1f} µs"]
        for row in rows:
            first, *others = zip(row, widths, strict=True)
            cells = [first[0].ljust(first[1]), *(c.rjust(w) for c, w in others)]
            lines.append("  ".join(cells))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in HEADER)
        rows = (
            "".join(f"<td>{html.escape(cell)}</td>" for cell in step.cells())
            for step in self.steps
        )
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        title = html.escape(str(self).splitlines()[0])
        return f"<p>{title}</p><table><tr>{head}</tr>{body}</table>"


@dataclass(frozen=True)
class WhyNot:
    """Where a search lost a row.

    Parameters
    ----------
    identifier : int or str
    lost_by : {"walk", "cut", "rerank", "scan"} or None
        None for a hit.
    rank : int or None
        Among what that step scored, from 1; of a row that the walk did not hand on,
        among all rows by their codes; None if it is not among the best 20,000.
    score, threshold : float or None
        Of the row, and of the last row that went on.
    verdict : str
        In words.
    change : dict
        The least that keeps it there: an argument of `search`, or ``keep`` of the stage
        at ``dim``. Empty where nothing is known to.
    at : dict of int to (int, float)
        Dims → rank and score among what was retrieved.
    """

    identifier: Any
    lost_by: str | None
    rank: int | None
    score: float | None
    threshold: float | None
    verdict: str
    change: dict[str, int]
    at: dict[int, tuple[int, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        said = ", ".join(f"{name}={value}" for name, value in self.change.items())
        lines = [f"{self.identifier!r}: {self.verdict}"]
        lines += [f"kept with {said}"] if said else []
        lines += [
            f"  {dim:>6,} dims: rank {rank:,}, score {score:.4f}"
            for dim, (rank, score) in self.at.items()
        ]
        return "\n".join(lines)
