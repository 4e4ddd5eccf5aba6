"""Draws queries per second against knn_recall: a curve a system, `funnel` in colour.

A panel a number of threads, an image a clock and data set. Reads the files of
``--peers``. Called by `benchmarks.results_page`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.pareto import Point, front
from benchmarks.peer_report import SAID
from benchmarks.peer_results import HALVES, MODES, OWN_PREFIX, SUBJECT, Files, points
from benchmarks.plots import DPI, MOST_NINES, decimal, point_out, spread, stretch

OURS = {
    SUBJECT: ("#D55E00", "o"),
    HALVES: ("#CC79A7", "^"),
    OWN_PREFIX: ("#0072B2", "s"),
}
GREYS, MARKERS = ("0.1", "0.35", "0.55"), "*Xdp>18H<vP"
LEAST_SHOWN = 0.7


def draw(files: Files, folder: Path) -> list[Path]:
    """Write an image for one batch and one for single calls."""
    threads = sorted({record["threads"] for record in files.measured()})
    paths = []
    for mode in MODES if threads else ():
        figure = Figure(figsize=(7.2 * len(threads), 7.4))
        panels = figure.subplots(1, len(threads), squeeze=False)[0]
        ends: list[list[tuple[str, Any, Point]]] = []
        for axes, count in zip(panels, threads, strict=True):
            ends.append(_curves(axes, files, mode, count))
            plural = "s" if count > 1 else ""
            axes.set_title(f"{count} thread{plural}", fontsize=10, loc="left")
            axes.set_xlabel("knn_recall@10  (further right is better)")
            axes.set_ylabel(f"queries per second, {SAID[mode]}")
            axes.grid(visible=True, which="major", color="0.92", lw=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        shape = f"{files.ours['rows']:,} × {files.ours['full_dim']}"
        heading = f"{files.dataset}, {shape}: {SAID[mode]}"
        figure.suptitle(heading, x=0.01, ha="left", weight="bold")
        figure.text(0.01, 0.01, files.ours["machine"]["cpu"], fontsize=8, color="0.35")
        figure.subplots_adjust(0.07, 0.09, 0.87, 0.91, wspace=0.45)
        FigureCanvasAgg(figure).draw()
        for axes, named in zip(panels, ends, strict=True):
            _name_curves(axes, named)
        paths.append(folder / f"{files.dataset}-{mode}.png")
        figure.savefig(paths[-1], dpi=DPI, bbox_inches="tight")
    return paths


def _curves(
    axes: Axes, files: Files, mode: str, threads: int
) -> list[tuple[str, Any, Point]]:
    """Plot the fronts; return each curve's name, colour and end."""
    ends = []
    records = list(files.measured(threads))
    for at, record in enumerate(records):
        look = {
            "color": GREYS[at % 3],
            "marker": MARKERS[at % len(MARKERS)],
            "ls": "--",
        }
        cloud = points(record, mode, "peer")
        ends += _curve(axes, record["peer"], cloud, look | {"lw": 0.9, "ms": 3.5})
    for run, (colour, marker) in OURS.items():
        look = {"color": colour, "marker": marker, "lw": 2.2, "ms": 5, "zorder": 5}
        cloud = _median_cloud([points(one, mode, "ours", run) for one in records])
        ends += _curve(axes, run, cloud, look)
    axes.set_yscale("log")
    decimal(axes.yaxis)
    stretch(axes)
    return ends


def _curve(
    axes: Axes, name: str, cloud: list[Point], look: dict[str, Any]
) -> list[tuple[str, Any, Point]]:
    shown = [(min(x, MOST_NINES), y) for x, y in front(cloud) if x >= LEAST_SHOWN]
    if not shown:
        return []
    axes.plot(*zip(*shown, strict=True), **look)
    return [(name, look["color"], shown[-1])]


def _median_cloud(clouds: list[list[Point]]) -> list[Point]:
    """Join what the processes measured of ours: a point a recall, its median speed."""
    speeds: dict[float, list[float]] = {}
    for cloud in clouds:
        for recall, qps in cloud:
            speeds.setdefault(recall, []).append(qps)
    return [(recall, float(np.median(qps))) for recall, qps in speeds.items()]


def _name_curves(axes: Axes, ends: list[tuple[str, Any, Point]]) -> None:
    """Write the names right of the axes, near the ends and never on another."""
    bottom, height = axes.bbox.y0, axes.bbox.height
    spots = sorted(
        (float(axes.transData.transform(at)[1] - bottom), name, colour, at)
        for name, colour, at in ends
    )
    gap = 12 * axes.figure.dpi / 72
    places = spread([spot for spot, *_ in spots], gap, height)
    for place, (_, name, colour, at) in zip(places, spots, strict=True):
        point_out(axes, name, at, (1.04, place / height), colour, 8)
