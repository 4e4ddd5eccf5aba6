"""What adaptive classification costs and gets right, as values that print themselves.

Counts stages that were computed elsewhere; fits nothing. Called by `estimator.py`.

n = rows, s = stages; confidences and `right` are (n, s), as in `thresholds.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from funnel.classify.stages import Outcomes
from funnel.classify.thresholds import GRID, Floats, Ints, path, stops


class ExpectedDims(NamedTuple):
    """Dims a row, on average: of the last head used, and of all heads up to it.

    Heads of their own weights do not share products, so that `cumulative` is what is
    multiplied; the MRL paper counts `last`, which is what is read of a row.

    Parameters
    ----------
    last, cumulative : float
    """

    last: float
    cumulative: float


@dataclass(frozen=True)
class StageReport:
    """One stage: its head alone, who stops there, and the cascade that ends there.

    Parameters
    ----------
    dim : int
    threshold : float
        A row whose confidence is above it stops here; −inf at the last stage.
    head_accuracy : float
        Of this head on all rows.
    share_stopped : float
        Of all rows.
    stopped_accuracy : float
        Of the rows that stop here; NaN where none do.
    capped_accuracy : float
        Of the cascade that ends here: a curve of the MRL paper, its figure 6.
    capped_dims : ExpectedDims
    """

    dim: int
    threshold: float
    head_accuracy: float
    share_stopped: float
    stopped_accuracy: float
    capped_accuracy: float
    capped_dims: ExpectedDims


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy and dims where the thresholds are the powers of a level.

    Parameters
    ----------
    level, accuracy : float
    expected_dims : ExpectedDims
    """

    level: float
    accuracy: float
    expected_dims: ExpectedDims


@dataclass(frozen=True)
class Report:
    """Accuracy against dims; `print` it for a table.

    Parameters
    ----------
    rows : int
        Labelled rows that it is of.
    accuracy, full_accuracy : float
        With the thresholds, and of the last head on all rows.
    expected_dims : ExpectedDims
    stages : tuple of StageReport
    curve : tuple of CurvePoint
        At 100 levels, from 0 (first head) to 1 (full width).
    """

    rows: int
    accuracy: float
    full_accuracy: float
    expected_dims: ExpectedDims
    stages: tuple[StageReport, ...]
    curve: tuple[CurvePoint, ...]

    def __str__(self) -> str:
        """Return a line of sums and a Markdown table of the stages."""
        last, cumulative = self.expected_dims
        lines = [
            f"{self.rows:,} rows: accuracy {self.accuracy:.4f}, at full width "
            f"{self.full_accuracy:.4f}; {last:.1f} dims expected, {cumulative:.1f} "
            f"over all heads used, of {self.stages[-1].dim}",
            "",
            "| dim | threshold | head alone | stop here | right of these |",
            "| --: | --: | --: | --: | --: |",
        ]
        for one in self.stages:
            limit = "–" if one.threshold == -np.inf else f"{one.threshold:.3f}"
            lines.append(
                f"| {one.dim} | {limit} | {one.head_accuracy:.4f} "
                f"| {one.share_stopped:.4f} | {one.stopped_accuracy:.4f} |"
            )
        return "\n".join(lines)


def expected_dims(stopped: Ints, dims: Sequence[int]) -> ExpectedDims:
    """Return the mean dims of rows that stopped at these stages."""
    last, cumulative = np.asarray(dims)[stopped], np.cumsum(dims)[stopped]
    return ExpectedDims(float(last.mean()), float(cumulative.mean()))


def make_report(outcomes: Outcomes, thresholds: Floats, dims: Sequence[int]) -> Report:
    """Count what stops where, and how much of it is right."""
    sure, right = outcomes.confidences, outcomes.right
    stopped = stops(sure, thresholds)
    curve = tuple(
        CurvePoint(float(point), *_judge(outcomes, path(point, len(dims)), dims))
        for point in GRID
    )
    accuracy, cost = _judge(outcomes, thresholds, dims)
    stages = tuple(
        _stage(outcomes, thresholds, dims, stopped, at) for at in range(len(dims))
    )
    return Report(len(sure), accuracy, float(right[:, -1].mean()), cost, stages, curve)


def _judge(
    outcomes: Outcomes, thresholds: Floats, dims: Sequence[int]
) -> tuple[float, ExpectedDims]:
    """Return accuracy and dims of a cascade."""
    stopped = stops(outcomes.confidences, thresholds)
    hit = outcomes.right[np.arange(len(stopped)), stopped]
    return float(hit.mean()), expected_dims(stopped, dims)


def _stage(
    outcomes: Outcomes, thresholds: Floats, dims: Sequence[int], stopped: Ints, at: int
) -> StageReport:
    """Return what stage `at` does."""
    here = stopped == at
    right = outcomes.right[:, at]
    capped = Outcomes(outcomes.confidences[:, : at + 1], outcomes.right[:, : at + 1])
    return StageReport(
        dims[at],
        float(thresholds[at]) if at < len(thresholds) else -np.inf,
        float(right.mean()),
        float(here.mean()),
        float(right[here].mean()) if here.any() else float("nan"),
        *_judge(capped, thresholds[:at], dims[: at + 1]),
    )
