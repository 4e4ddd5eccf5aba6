"""What a search returns: `Hits` (ids and scores), and the `Trace` of what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TraceStage:
    """What one step of a search did, summed over the queries of the batch.

    Parameters
    ----------
    name : str
        "walk", "scan", "cut" or "rerank".
    dim : int
        Dims that the step scores by.
    rows_in, rows_kept : int
        Rows scored (by a walk: nodes), and rows passed on.
    dims_read : int
        Dims that were read for it, over all rows.
    bytes_read : int
        Bytes of vectors or codes that it read.
    time_us : float
        Microseconds spent, summed over threads.
    """

    name: str
    dim: int
    rows_in: int
    rows_kept: int
    dims_read: int
    bytes_read: int
    time_us: float


@dataclass(frozen=True)
class Trace:
    """The steps of a search, in order, and how many queries they served.

    Parameters
    ----------
    stages : tuple of TraceStage
    queries : int
    kernel_us : float
        Microseconds inside compiled code, summed over threads.
    """

    stages: tuple[TraceStage, ...]
    queries: int
    kernel_us: float

    def after_filter(self, rows: int, passed: int, time_us: float) -> Trace:
        """Return the trace with the filter as its first step; no query pays for it."""
        step = TraceStage("filter", 0, rows, passed, 0, 0, time_us)
        return Trace((step, *self.stages), self.queries, self.kernel_us)

    @property
    def bytes_read(self) -> int:
        """Bytes of vectors and codes that all steps read, for all queries."""
        return sum(step.bytes_read for step in self.stages)

    def __iter__(self) -> Iterator[TraceStage]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, at: int) -> TraceStage:
        return self.stages[at]

    def __str__(self) -> str:
        per = max(self.queries, 1)
        head = f"{'step':<8}{'dim':>6}{'rows in':>10}{'kept':>8}{'bytes':>10}{'µs':>9}"
        lines = [f"{head}   (a query, mean of {self.queries})"]
        lines += [
            f"{s.name:<8}{s.dim:>6}{s.rows_in / per:>10.1f}{s.rows_kept / per:>8.1f}"
            f"{s.bytes_read / per:>10.0f}{s.time_us / per:>9.1f}"
            for s in self.stages
        ]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Hits:
    """The answers of a search, best first; unpacks as ``ids, scores``.

    Parameters
    ----------
    ids : (q, k) or (k,) ndarray
        The ids the index was built with; row numbers if it was built without.
    scores : (q, k) or (k,) float32
        Higher is better.
    trace : Trace or None
        What the search cost, where ``trace=True`` was asked.
    version : int
        Of the index, that was searched.
    uncertainty : (q, k) or (k,) float32, or None
        How much a hit's rank moves over the last dims, 0 to 1, where
        ``uncertainty=True`` was asked; NaN where there is no hit, or a query of zeros.
    complete : bool
        False where `budget_ms` or `max_bytes` ended the search of a query before its
        last stage: its scores are those of the stage before.
    """

    ids: npt.NDArray[Any]
    scores: npt.NDArray[np.float32]
    trace: Trace | None = None
    version: int = 0
    uncertainty: npt.NDArray[np.float32] | None = None
    complete: bool = True

    @property
    def counts(self) -> Any:
        """Answers of each query, (q,) or an int: fewer than k where no more match."""
        found = np.isfinite(self.scores).sum(axis=-1)
        return found if found.ndim else int(found)

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        yield self.ids
        yield self.scores

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        best = ""
        if self.ids.size:
            first = self.ids.reshape(-1)[0]
            best = f", best {first!r} at {self.scores.reshape(-1)[0]:.4f}"
        return f"Hits(shape={self.ids.shape}{best}; higher scores are better)"
