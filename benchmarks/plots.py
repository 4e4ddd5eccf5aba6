"""Draws the figures of a run: query time against quality, quality against work.

A curve a system, named at its end; ours are solid, peers are dashed. The colours are
Okabe and Ito's, which colour-blind readers can tell apart, and every curve has a
marker of its own. Reads results, measures nothing. Called by `benchmarks.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from sklearn.isotonic import isotonic_regression

from benchmarks.results import Record, curves, depth, effort, label
from benchmarks.tables import number

OURS = {
    "funnel_pca": ("#0072B2", "o"),
    "rerank_pca": ("#56B4E9", "s"),
    "funnel": ("#D55E00", "^"),
    "rerank": ("#E69F00", "D"),
    "funnel_paper": ("#009E73", "v"),
    "prefix_ann": ("#CC79A7", "<"),
    "prefix": ("#CC79A7", "P"),
    "exact": ("#0072B2", "h"),
}
PEER_COLOURS = ("#000000", "#7F7F7F", "#8C6D31", "#5B3A8E", "#B0413E", "#3C6E47")
PEER_MARKERS = "*Xdp>18H"
WORST_SHOWN = 0.9  # share of the best ndcg where that axis begins
RECALL_TICKS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
MOST_NINES = 0.9995  # stands for 1 on the stretched axis
DPI = 144
Value = Callable[[Record], float | None]


def draw(results: Mapping[str, Any], dims: list[Record], folder: Path) -> list[Path]:
    """Write the figures as PNG files into `folder`; those without data are left out.

    Returns
    -------
    list of Path
        ``time_knn_recall.png``, ``time_ndcg.png`` and ``work_map.png``.
    """
    k, paths = depth(results), []
    for name, metric in (("knn_recall", f"knn_recall@{k}"), ("ndcg", f"ndcg@{k}")):
        if any(one[metric] is not None for one in results["sweep"]):
            paths.append(folder / f"time_{name}.png")
            _query_time(results, metric, paths[-1])
    if dims[-1][f"map@{k}"] is not None:
        paths.append(folder / "work_map.png")
        _work(results, dims, f"map@{k}", paths[-1])
    return paths


def _query_time(results: Mapping[str, Any], metric: str, path: Path) -> None:
    """Draw the median of single calls (left) and one batch (right)."""
    figure, stretched = Figure(figsize=(13, 5.6)), metric.startswith("knn_recall")
    clocks = {
        "single calls, p50 in µs": lambda one: one["time_us"]["p50"],
        "one batch, µs a query": lambda one: one["batch_us"],
    }
    panels = [
        _Panel(axes, results)
        for axes in figure.subplots(1, 2, sharex=True, sharey=True)
    ]
    for panel, (name, clock) in zip(panels, clocks.items(), strict=True):
        panel.curves(lambda one: _shown(one[metric], stretched), clock)
        panel.axes.set_yscale("log")
        panel.axes.set_ylabel(f"{name}  (lower is better)")
        panel.axes.set_xlabel(f"{metric}  (further right is better)")
        panel.axes.tick_params(labelleft=True)
        decimal(panel.axes.yaxis)
        if stretched:
            stretch(panel.axes)
        else:
            values = [one[metric] for one in results["sweep"]]
            worst, best = max(min(values), WORST_SHOWN * max(values)), max(values)
            room = max((best - worst) / 20, 1e-4)
            panel.axes.set_xlim(worst - room, best + room)
    _finish(figure, panels, f"Query time against {metric}", path)


def _work(
    results: Mapping[str, Any], dims: list[Record], metric: str, path: Path
) -> None:
    """Draw the MRL paper's figure: map@k against MFLOPs a query."""
    figure = Figure(figsize=(8.6, 5.6))
    panel = _Panel(figure.subplots(), results)
    axes = panel.axes
    scan = [(one["mflops_per_query"], one[metric]) for one in dims]
    axes.plot(*zip(*scan, strict=True), color="0.65", lw=1, marker=".", zorder=1)
    for one, at in zip(dims, scan, strict=True):
        below = {"xytext": (6, -9), "textcoords": "offset points", "fontsize": 7.5}
        axes.annotate(f"{one['dim']} dims", at, color="0.4", **below)
    panel.curves(lambda one: one["mflops_per_query"], lambda one: one[metric])
    axes.set_xscale("log")
    axes.set_xlabel("MFLOPs a query  (grey: exact scan of a prefix)")
    axes.set_ylabel(f"{metric}  (higher is better)")
    decimal(axes.xaxis)
    _finish(figure, [panel], f"{metric} against work", path)


class _Panel:
    """Axes with a curve a system; remembers where each curve ends, to name it there."""

    def __init__(self, axes: Axes, results: Mapping[str, Any]) -> None:
        self.axes, self.results = axes, results
        self.ends: list[tuple[str, dict[str, Any], tuple[float, float]]] = []

    def curves(self, x: Value, y: Value) -> None:
        """Plot every system that has both values; mark the chosen effort."""
        chosen = {label(one): effort(one) for one in self.results["rows"]}
        for name, records in curves(self.results["sweep"]).items():
            points = [(x(one), y(one)) for one in records]
            if any(value is None for point in points for value in point):
                continue
            style = self._style(name)
            self.axes.plot(*zip(*points, strict=True), lw=1.6, ms=4, **style)
            for one, at in zip(records, points, strict=True):
                if effort(one) == chosen.get(name):
                    self.axes.plot(*at, ms=9, mfc="none", mew=1.6, **style)
            self.ends.append((name, style, points[-1]))

    def _style(self, name: str) -> dict[str, Any]:
        """Give a curve the same look in every figure."""
        if name in OURS:
            colour, marker = OURS[name]
            return {"color": colour, "marker": marker, "ls": "-"}
        names = dict.fromkeys(label(one) for one in self.results["rows"])
        at = [other for other in names if other not in OURS].index(name)
        return {
            "color": PEER_COLOURS[at % len(PEER_COLOURS)],
            "marker": PEER_MARKERS[at % len(PEER_MARKERS)],
            "ls": "--",
        }

    def name_curves(self) -> None:
        """Write the names right of the axes, near their curves and never on another.

        Needs the final scales and sizes: called last.
        """
        axes, bottom, height = self.axes, self.axes.bbox.y0, self.axes.bbox.height
        gap, leftmost = 13 * axes.figure.dpi / 72, axes.get_xlim()[0]
        spots = sorted(
            (axes.transData.transform(at)[1] - bottom, name, style["color"], at)
            for name, style, at in self.ends
            if at[0] >= leftmost
        )
        places = spread([spot for spot, *_ in spots], gap, height)
        for place, (_, name, colour, at) in zip(places, spots, strict=True):
            point_out(axes, name, at, (1.05, place / height), colour, 9)

    def list_curves(self) -> None:
        """Write the names in a column at the right: where all curves end together."""
        ordered = sorted(self.ends, key=lambda end: (-round(end[2][1], 3), end[2][0]))
        handles = [
            Line2D([], [], ms=5, label=name, **look) for name, look, _ in ordered
        ]
        self.axes.legend(
            handles=handles,
            labelcolor="linecolor",
            loc="upper left",
            bbox_to_anchor=(1.02, 1),
            frameon=False,
            fontsize=9,
        )


def point_out(
    axes: Axes,
    name: str,
    at: tuple[float, float],
    place: tuple[float, float],
    colour: Any,
    size: float,
) -> None:
    """Write `name` at a place, in fractions of the axes, and lead it to point `at`."""
    axes.annotate(
        name,
        at,
        xytext=place,
        textcoords="axes fraction",
        va="center",
        fontsize=size,
        color=colour,
        arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.7, "ls": ":"},
        annotation_clip=False,
    )


def spread(wanted: list[float], gap: float, height: float) -> list[float]:
    """Move ascending places apart to at least `gap`, each as little as possible.

    Least squares under an order is isotonic regression, once the gaps are taken out.
    """
    if not wanted:
        return []
    gaps = gap * np.arange(len(wanted))
    room = max(height - gaps[-1], 0)
    return list(isotonic_regression(wanted - gaps, y_min=0, y_max=room) + gaps)


def _shown(value: float | None, stretched: bool) -> float | None:
    """Return where a value is drawn: the stretched axis has no 1."""
    return min(value, MOST_NINES) if stretched and value is not None else value


def stretch(axes: Axes) -> None:
    """Stretch the recall axis towards 1, where the curves differ."""

    def forward(value: np.ndarray) -> np.ndarray:
        return -np.log10(np.maximum(1 - np.asarray(value), 1e-9))

    def inverse(value: np.ndarray) -> np.ndarray:
        return 1 - 10.0 ** -np.asarray(value)

    worst = min(float(np.min(line.get_xdata())) for line in axes.lines)
    axes.set_xscale("function", functions=(forward, inverse))
    axes.set_xlim(max(0.0, 1 - 1.2 * (1 - worst)), MOST_NINES + 0.0001)
    ticks = [tick for tick in RECALL_TICKS if tick >= axes.get_xlim()[0]]
    axes.set_xticks([*ticks, MOST_NINES], [*(f"{tick:g}" for tick in ticks), "1"])
    axes.xaxis.set_minor_locator(NullLocator())


def decimal(axis: Any) -> None:
    """Label a log axis at 1, 2 and 5 of each decade, in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1)))
    axis.set_minor_formatter(NullFormatter())


def _finish(figure: Figure, panels: list[_Panel], title: str, path: Path) -> None:
    """Add the title, data and machine, name the curves, save."""
    results = panels[0].results
    params, machine = results["rows"][0]["params"], results["machine"]
    size = f"{params['rows']:,} × {params['full_dim']}"
    heading = f"{title}: {results['dataset']}, {size}"
    figure.suptitle(heading, x=0.01, ha="left", weight="bold")
    plural = "s" if machine["threads"] > 1 else ""
    small = (
        f"{machine['cpu']}, {machine['threads']} thread{plural}; open marker: "
        f"effort {_chosen(results)}; dashed: peers"
    )
    figure.text(0.01, 0.01, small, fontsize=8, color="0.35")
    left, right, gap = (0.075, 0.9, 0.54) if len(panels) > 1 else (0.09, 0.78, 0)
    figure.subplots_adjust(left, 0.13, right, 0.91, wspace=gap)
    for panel in panels:
        panel.axes.grid(visible=True, which="major", color="0.92", lw=0.8)
        panel.axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).draw()
    for panel in panels:
        panel.name_curves() if len(panels) > 1 else panel.list_curves()
    figure.savefig(path, dpi=DPI)


def _chosen(results: Mapping[str, Any]) -> int | str:
    efforts = [effort(one) for one in results["rows"] if effort(one)]
    return efforts[0] if efforts else "none"
