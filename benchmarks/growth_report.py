"""How cost grows with rows and dims: exponents, tables and a figure of stored points.

Reads what `benchmarks.growth` measured, measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rich.console import Console

from benchmarks.pareto import qps_at
from benchmarks.plots import DPI, decimal
from benchmarks.tables import (
    MISSING,
    Table,
    machine_words,
    number,
    share,
    size,
    to_rich,
)

TARGETS = (0.95, 0.99)
NARROWEST = 130
COLOURS = ("#0072B2", "#D55E00", "#009E73")
SWEPT = {"rows": "rows, n", "full_dim": "full_dim"}
"""What is swept: the field of a record, and its name on an axis."""

Record = dict[str, Any]


class Fit(NamedTuple):
    """``factor * x ** exponent``, through `points` points."""

    exponent: float
    factor: float
    points: int

    def __str__(self) -> str:
        return f"{self.exponent:+.2f}"


def at_target(record: Record, target: float) -> Record | None:
    """Return the fastest swept point whose knn_recall reaches `target`."""
    good = [one for one in record["sweep"] if one["knn_recall"] >= target]
    return min(good, key=lambda one: one["us"], default=None)


def between(record: Record, target: float, name: str) -> float | None:
    """Return a swept field at a recall of exactly `target`; None if none reaches it.

    Read between two points, as `pareto.qps_at` does: the fastest point that reaches a
    target overshoots it by as much as the sweep happens to, and that would look like
    growth.
    """
    swept = ((one["knn_recall"], 1 / one[name]) for one in record["sweep"])
    found = qps_at(swept, target)
    return found and 1 / found


QUANTITIES: dict[str, Callable[[Record], float | None]] = {
    "build, s": lambda record: record["build_s"],
    f"µs a query at {TARGETS[0]}": partial(between, target=TARGETS[0], name="us"),
    f"rows scored at {TARGETS[0]}": partial(
        between, target=TARGETS[0], name="rows_scored"
    ),
}


def fit(points: Iterable[tuple[float, float | None]]) -> Fit | None:
    """Fit a power law by least squares of logarithms; None without two places.

    Points whose value is None are left out.
    """
    known = [(x, y) for x, y in points if y is not None and y > 0]
    if len({x for x, _ in known}) < 2:
        return None
    x, y = np.log(np.array(known, dtype=float)).T
    slope, intercept = np.polyfit(x, y, 1)
    return Fit(float(slope), math.exp(float(intercept)), len(known))


def along(records: Iterable[Record], swept: str, fixed: int) -> list[Record]:
    """Return the records that differ in `swept` alone, in its order."""
    other = next(name for name in SWEPT if name != swept)
    mine = [record for record in records if record[other] == fixed]
    return sorted(mine, key=lambda record: record[swept])


def fits(records: Sequence[Record], dim: int, n: int) -> dict[str, dict[str, Any]]:
    """Return the exponents of each quantity, against rows (at `dim`) and dims (at n).

    As JSON holds them: quantity → what is swept → exponent, factor and points, or
    None.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, value in QUANTITIES.items():
        for swept, fixed in (("rows", dim), ("full_dim", n)):
            some = along(records, swept, fixed)
            one = fit((record[swept], value(record)) for record in some)
            found.setdefault(name, {})[swept] = one and one._asdict()
    return found


def cost_table(records: Sequence[Record]) -> Table:
    """Return what building and keeping each point took."""
    header = ["rows × dims", "axes", "build s", "build peak", "RAM", "disk"]
    rows = [
        [
            shape_of(one),
            f"{one['params']['graph_dim']}/{one['params']['code_dim']}",
            number(one["build_s"]),
            size(one["peak_bytes"]),
            size(one["anon_bytes"]),
            size(one["disk_bytes"]),
        ]
        for one in records
    ]
    note = (
        "Axes: principal axes of graph and codes. Build peak: anonymous memory added "
        "to the vectors'. RAM: that of an open index that has searched."
    )
    return Table("building and keeping", header, rows, [note])


def search_table(records: Sequence[Record]) -> Table:
    """Return the fastest swept point of each that reaches each target."""
    header = ["rows × dims"]
    for target in TARGETS:
        header += [f"{target}: shortlist", "recall", "QPS", "rows scored"]
    rows = []
    for one in records:
        found = [target_cells(at_target(one, target)) for target in TARGETS]
        rows.append([shape_of(one), *(cell for cells in found for cell in cells)])
    return Table("one batch, fastest swept point", header, rows)


def shape_of(record: Record) -> str:
    """Write a point's rows and dims."""
    return f"{record['rows']:,} × {record['full_dim']}"


def target_cells(found: Record | None) -> list[str]:
    """Return shortlist, recall, QPS and rows scored of a swept point."""
    if found is None:
        return [MISSING] * 4
    return [
        str(found["shortlist"]),
        share(found["knn_recall"]),
        number(1e6 / found["us"]),
        number(found["rows_scored"]),
    ]


def fit_table(found: dict[str, dict[str, Any]], dim: int, n: int) -> Table:
    """Return the exponents."""
    header = ["grows as", f"n to the … ({dim} dims)", f"dims to the … (n = {n:,})"]
    rows = []
    for name, by_axis in found.items():
        shown = [one and Fit(**one) for one in by_axis.values()]
        cells = [f"{one} ({one.points} points)" if one else MISSING for one in shown]
        rows.append([name, *cells])
    return Table("exponents (least squares of logarithms)", header, rows)


def draw(records: Sequence[Record], dim: int, n: int, path: Path) -> None:
    """Write the figure: a row a quantity, against n (left) and full_dim (right)."""
    figure = Figure(figsize=(10, 9.5))
    panels = figure.subplots(len(QUANTITIES), 2, sharex="col", squeeze=False)
    columns = {"rows": dim, "full_dim": n}
    for row, (name, value) in enumerate(QUANTITIES.items()):
        for at, (swept, fixed) in enumerate(columns.items()):
            some = along(records, swept, fixed)
            points = [(one[swept], value(one)) for one in some]
            _panel(panels[row, at], points, name, swept, COLOURS[row])
    for axes, (swept, name) in zip(panels[-1], SWEPT.items(), strict=True):
        fixed = f"{dim} dims" if swept == "rows" else f"n = {n:,}"
        axes.set_xlabel(f"{name}  ({fixed})")
    figure.suptitle("Growth: synthetic data", x=0.01, ha="left", weight="bold")
    machine = records[0]["machine"]
    plural = "s" if machine["threads"] > 1 else ""
    small = (
        f"{machine['cpu']}; searches with {machine['threads']} thread{plural}, builds "
        f"with {machine['build_threads']}; dashed: least squares of logarithms"
    )
    figure.text(0.01, 0.01, small, fontsize=8, color="0.35")
    figure.subplots_adjust(0.09, 0.08, 0.98, 0.94, wspace=0.22, hspace=0.12)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI)


def _panel(
    axes: Axes,
    points: list[tuple[float, float | None]],
    name: str,
    swept: str,
    hue: str,
) -> None:
    """Plot one quantity and its power law, the exponent in the legend."""
    known = [(x, y) for x, y in points if y is not None]
    law = fit(points)
    if known:
        axes.plot(*zip(*known, strict=True), color=hue, marker="o", ms=5, lw=1.6)
    if law:
        ends = np.array([known[0][0], known[-1][0]], dtype=float)
        letter = "n" if swept == "rows" else "d"
        exponent = f"${letter}^{{{law.exponent:.2f}}}$"
        fitted = law.factor * ends**law.exponent
        axes.plot(ends, fitted, color="0.4", ls="--", lw=1.2, label=f"∝ {exponent}")
        axes.legend(frameon=False, fontsize=10, loc="best")
    axes.set_xscale("log")
    axes.set_yscale("log")
    if known:
        values = [y for _, y in known]
        axes.set_ylim(min(values) / 1.5, max(values) * 1.5)
        axes.set_xticks([x for x, _ in known], [f"{x:,}" for x, _ in known])
        axes.xaxis.set_minor_locator(NullLocator())
    decimal(axes.yaxis)
    axes.set_ylabel(name)
    axes.grid(visible=True, which="major", color="0.92", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def streamed_table(record: Record) -> Table:
    """Return what the build and the search of a large index took."""
    build, found = record["build"], record["search"]
    rows = [
        ["machine", machine_words(record["machine"])],
        ["vectors", size(record["vector_bytes"])],
        ["memory that is let", size(record["limit_bytes"])],
        ["vectors in memory", "refused" if build["refuses_the_vectors"] else "let"],
        ["build, s", number(build["build_s"])],
        ["build: peak of its own memory", size(build["peak_anon_bytes"])],
        ["build: peak with mapped files", size(build["peak_rss_bytes"])],
        ["disk", size(build["disk_bytes"])],
        ["search: memory of its own", size(found["anon_bytes"])],
        ["search: peak with mapped files", size(found["peak_rss_bytes"])],
        ["exact search, µs a query", number(found["exact_us"])],
    ]
    for target in TARGETS:
        one = at_target(found, target)
        shortlist, recall, qps, scored = target_cells(one)
        said = f"{qps} (recall {recall}, shortlist {shortlist}, {scored} rows scored)"
        rows.append([f"QPS at {target}", said if one else "not reached"])
    title = f"{record['rows']:,} × {record['full_dim']} {record['dtype']}, streamed"
    return Table(title, ["", ""], rows)


def show(tables: Iterable[Table], console: Console | None = None) -> None:
    """Print tables and their notes."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    for table in tables:
        console.print(to_rich(table))
        for note in table.notes:
            console.print(f"[dim]{note}[/dim]", highlight=False)
