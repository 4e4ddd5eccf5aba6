"""What `benchmarks.living` measured, as tables and as a part of docs/living.md.

Measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import marked
from benchmarks.tables import Table, number, to_markdown

Record = dict[str, Any]
BEGIN = "<!-- results: made by `python -m benchmarks.living --doc` -->\n"


def tables(found: Record) -> Sequence[Table]:
    """Return the figures as tables."""
    rows = [
        [one["name"], *map(number, one["us"]), f"{one['ratio']:.2f}×"]
        for one in found["searches"]
    ]
    header = ["searches, µs a query", "one segment", f"{found['segments']} segments",
              "ratio"]  # fmt: skip
    passing = [
        [f"{f['share']:.0%} pass", number(f["made_ms"]), number(f["batch_us"]),
         f"{f['ratio']:.2f}×", f"{f['knn_recall']:.4f}"]
        for f in found["filters"]
    ]  # fmt: skip
    cost = [[name, number(ms)] for name, ms in found["changes_ms"].items()]
    cost.append([f"open with {found['versions']} versions", number(found["open_ms"])])
    busy, held = found["compacting"], found["bytes"]
    cost.append(["compact, s", number(busy["seconds"])])
    slower = busy["p99_during_us"] / busy["p99_before_us"]
    cost.append(["p99 of a reader meanwhile, times", f"{slower:.2f}"])
    ratio = held["compacted"] / held["fresh"]
    cost.append(["disk of the compacted, times a fresh build", f"{ratio:.3f}"])
    judged = ["rows", "made, ms", "µs", "of none", "knn_recall@10"]
    return (
        Table(f"{found['about']}: segments", header, rows),
        Table(f"{found['about']}: filters", judged, passing),
        Table(f"{found['about']}: changes", ["", "ms"], cost),
    )


def write(found: Record, doc: Path) -> None:
    """Put the tables between the markers of a document."""
    about, commit = found["machine"], str(found["commit"] or "unknown")
    said = f"{about['cpu']}, one thread, commit `{commit[:9]}{commit[40:]}`.\n"
    made = "\n".join([said, *(to_markdown(table) for table in tables(found))])
    marked.replace(doc, BEGIN, made)
