"""Tables of ``--peers``: queries per second at equal knn_recall, and what indexes cost.

Called by `benchmarks.run`, for the terminal, and by `benchmarks.results_page`.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console

from benchmarks.peer_results import (
    MODES,
    TARGETS,
    Files,
    best_recall,
    duel,
)
from benchmarks.tables import MISSING, Table, number, share, size, to_rich

SAID = {"batch": "one batch", "single": "single calls (p50)"}
NARROWEST = 130


def speed_table(files: Files, mode: str, threads: int) -> Table:
    """Return each peer's speed at each target, and ours over it."""
    header = ["peer"]
    for target in TARGETS:
        header += [f"QPS at {target:.2f}", "funnel", "ratio"]
    header.append("best recall")
    rows = []
    for record in files.measured(threads):
        found = [duel(record, mode, target) for target in TARGETS]
        cells = [record["peer"]]
        for one in found:
            cells += [number(one.peer_qps), number(one.our_qps), times(one.ratio)]
        order = [one.ratio for one in found if one.ratio is not None] or [1e9]
        rows.append((order[-1], [*cells, share(best_recall(record))]))
    rows.sort(key=lambda row: row[0])
    plural = "s" if threads > 1 else ""
    title = f"{files.dataset}: {SAID[mode]}, {threads} thread{plural}"
    return Table(title, header, [cells for _, cells in rows])


def times(ratio: float | None) -> str:
    """Write a ratio."""
    return MISSING if ratio is None else f"{number(ratio)}×"


def cost_table(files: Files) -> Table:
    """Return build time, memory and disk of every index."""
    header = ["index", "build s", "× funnel", "build peak", "RAM", "disk", "open ms"]
    ours = files.ours["ours"]
    fastest = ours["funnel-pca"]["build_s"]
    rows = [_cost(key, built, fastest) for key, built in ours.items()]
    seen = set(ours)
    for record in files.measured():
        if record["peer"] not in seen:
            seen.add(record["peer"])
            rows.append(_cost(record["peer"], record, fastest))
    note = (
        "RAM is anonymous memory of an open index that has searched; what is mapped "
        "from files is not in it. Build peak is the anonymous memory that the build "
        "added to the vectors'."
    )
    return Table(f"{files.dataset}: building and keeping", header, rows, [note])


def _cost(key: str, built: dict[str, Any], fastest: float) -> list[str]:
    startup = built["startup"] or {}
    return [
        key,
        number(built["build_s"]),
        times(built["build_s"] / fastest),
        size(built["peak_bytes"]),
        size(startup.get("anon_bytes")),
        size(built["disk_bytes"]),
        number(startup.get("open_ms")),
    ]


def tables(files: Files) -> list[Table]:
    """Return all tables of a data set."""
    threads = sorted({record["threads"] for record in files.measured()})
    speeds = [speed_table(files, mode, count) for mode in MODES for count in threads]
    return [*speeds, cost_table(files)]


def show(files: Files, console: Console | None = None) -> None:
    """Print the tables."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    for table in tables(files):
        console.print(to_rich(table))
        for note in table.notes:
            console.print(f"[dim]{note}[/dim]", highlight=False)
    for peer, why in files.left_out().items():
        console.print(f"Left out: {peer} ({why})", highlight=False, markup=False)
