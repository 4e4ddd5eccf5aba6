"""What `tune` chose and how sure that is, as a value that prints and plots itself.

Measures nothing (`tune.py`). Called by `FunnelIndex.tune`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from funnel.errors import InvalidArgumentError
from funnel.store.tuned import Level, Tuned

HEADER = ("shortlist", "ef_search", "slack", "stages", "loss", "µs")
NAMES = {"knn_recall": "knn_recall@{k}", "ndcg": "ndcg@{k} of exact"}


@dataclass(frozen=True)
class Tuning:
    """The report of `FunnelIndex.tune`.

    Parameters
    ----------
    tuned : Tuned
        What the index stores: its levels, and the chosen one.
    target : float or None
        What was asked of the measure.
    confidence : float or None
    reached : bool
        Whether a level below an exact scan is sure enough, or one within the budget.
    quality : float
        The measure of the chosen level, mean over the held-out queries.
    interval : (float, float)
        Its 95 % interval, by the normal approximation.
    exact_us : float
        Microseconds a query that a scan takes, one thread, in a batch of 100.
    rows : int
        Of the index, when it was tuned.
    own_queries : bool
        Whether rows of the index served as queries, which are nearer to it than most.
    beside : mapping of str to (float, (float, float))
        The other measures of the chosen level, with their intervals: given relevance,
        knn_recall and ndcg are both told.
    """

    tuned: Tuned
    target: float | None
    confidence: float | None
    reached: bool
    quality: float
    interval: tuple[float, float]
    exact_us: float
    rows: int
    own_queries: bool
    beside: Mapping[str, tuple[float, tuple[float, float]]] = field(
        default_factory=dict
    )

    @property
    def chosen(self) -> Level:
        """The level that plain searches take from now on."""
        return self.tuned.levels[self.tuned.chosen]

    @property
    def measure(self) -> str:
        """What is measured, in words."""
        return NAMES[self.tuned.measure].format(k=self.tuned.k)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self) | {"tuned": self.tuned.to_json()}

    def __str__(self) -> str:
        low, high = self.interval
        queries = "rows of the index" if self.own_queries else "queries"
        lines = [
            f"{self.measure} {self.quality:.4f} (95 %: {low:.4f} to {high:.4f}) at "
            f"{self.chosen.us:.1f} µs a query, on {self.tuned.queries:,} held-out "
            f"{queries}; an exact scan takes {self.exact_us:,.0f} µs",
        ]
        for name, (mean, (least, most)) in self.beside.items():
            said = NAMES[name].format(k=self.tuned.k)
            lines.append(f"{said} {mean:.4f} (95 %: {least:.4f} to {most:.4f})")
        if not self.reached and self.target is not None:
            lines.append(
                f"no walk is sure to reach {self.target}: searches scan every row"
            )
        elif not self.reached:
            lines.append("no level is within the budget: this is the cheapest")
        lines.append(_row(["", *HEADER]))
        for at, level in enumerate(self.tuned.levels):
            lines.append(_row(["→" if at == self.tuned.chosen else "", *_cells(level)]))
        return "\n".join(lines)

    def plot(self, path: Any = None) -> Any:
        """Draw loss against time, the chosen level marked; return the figure.

        Parameters
        ----------
        path : str or Path, optional
            Where to write it too.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        InvalidArgumentError
            If matplotlib is not installed.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise InvalidArgumentError(
                "plot() needs matplotlib: pip install matplotlib"
            ) from error
        walked = [level for level in self.tuned.levels if not level.exact]
        figure = Figure(figsize=(6, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot([one.us for one in walked], [1 - one.loss for one in walked], "o-")
        if not self.chosen.exact:
            axes.plot(self.chosen.us, 1 - self.chosen.loss, "o", ms=12, mfc="none")
        if self.target is not None:
            axes.axhline(self.target, ls="--", lw=1, color="0.5")
        axes.set(xlabel="µs a query, one thread", ylabel=self.measure, xscale="log")
        if path is not None:
            figure.savefig(path)
        return figure


def _cells(level: Level) -> list[str]:
    if level.exact:
        return ["all", "–", "–", "–", "0", f"{level.us:,.0f}"]
    slack = "–" if level.slack is None else f"{level.slack:g}"
    stages = " ".join(f"{dim}:{keep}" for dim, keep in level.stages) or "–"
    knobs = [str(level.shortlist), str(level.ef_search), slack, stages]
    return [*knobs, f"{level.loss:.4f}", f"{level.us:.1f}"]


def _row(cells: Sequence[str]) -> str:
    widths = (2, 10, 10, 7, 11, 9, 9)
    return "".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True))
