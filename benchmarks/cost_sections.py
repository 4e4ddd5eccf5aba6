"""What a search costs, for the page of results: the memory floor, and how cost grows.

Reads what `benchmarks.roofline` and `benchmarks.growth` left, measures nothing. Called
by `benchmarks.results_page`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.growth_report import (
    Record,
    cost_table,
    draw,
    fit_table,
    search_table,
    streamed_table,
)
from benchmarks.results import read_json
from benchmarks.roofline import effort_table, memory_table
from benchmarks.tables import to_markdown

FIGURE = "growth.png"


def floor_section(path: Path) -> str:
    """Return what reading alone would take, from the JSON of the roofline."""
    if not path.exists():
        return ""
    found = read_json(path)
    times = [one["times"] for one in found["efforts"]]
    lines = [
        "## Beside the memory floor\n",
        f"Whole searches take {min(times):.1f} to {max(times):.1f} times as long as "
        "reading what they read would at least: `python -m benchmarks.roofline "
        f"--dataset {found['dataset']}`, commit `{found['commit']}`.\n",
        *(to_markdown(table) for table in (memory_table(found), effort_table(found))),
    ]
    return "\n".join(lines)


def growth_section(folder: Path, figures: Path) -> str:
    """Return how cost grows with rows and dims, and draw it, from a folder of JSON."""
    records = [read_json(path) for path in sorted(folder.glob("*x*.json"))]
    measured = [one for one in records if one["status"] == "measured"]
    points = [one for one in measured if "sweep" in one]
    large = [one for one in measured if "search" in one]
    if not points:
        return ""
    points.sort(key=lambda one: (one["full_dim"], one["rows"]))
    fitted = read_json(folder / "fits.json")
    dim, n = fitted["dim"], fitted["n"]
    draw(points, dim, n, figures / FIGURE)
    tables = [cost_table(points), search_table(points)]
    tables += [fit_table(fitted["fits"], dim, n), *map(streamed_table, large)]
    lines = [
        "## How cost grows\n",
        "Synthetic data, `python -m benchmarks.growth` and `--larger-than-memory`, "
        f"commit {_commits(measured)}.\n",
        *(to_markdown(table) for table in tables),
        f"![growth]({figures.name}/{FIGURE})\n",
    ]
    return "\n".join(lines)


def _commits(records: list[Record]) -> str:
    return ", ".join(f"`{one}`" for one in sorted({one["commit"] for one in records}))
