"""The results as plain values: one record a system, run and effort; JSON and CSV.

Knows names and units of what is reported, measures and prints nothing. Called by
`benchmarks.run` and `benchmarks.report`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""A row of the results; `FIELDS` are its keys."""

FIELDS = (
    "system",
    "run",
    "params",
    "time_us",
    "batch_us",
    "qps",
    "ndcg@10",
    "map@10",
    "knn_recall@10",
    "mflops_per_query",
    "bytes_per_query",
    "anon_bytes",
    "disk_bytes",
    "build_s",
    "open_ms",
    "call_overhead_us",
    "first_hit_s",
    "compile_s",
)
TIMES = ("mean", "p50", "p95", "p99")


def fields(k: int) -> tuple[str, ...]:
    """Return the keys of a record when the metrics were taken at `k`."""
    return tuple(name.replace("@10", f"@{k}") for name in FIELDS)


def label(record: Record) -> str:
    """Name it in a table or a figure: the run if it is ours, else the system."""
    return record["run"] if record["system"] == "funnel" else record["system"]


def effort(record: Record) -> int | None:
    """Return the swept knob's value; None for an exhaustive search."""
    params = record["params"]
    return params[params["knob"]] if params.get("knob") else None


def curves(sweep: Iterable[Record]) -> dict[str, list[Record]]:
    """Group swept records by label, each in order of effort."""
    grouped: dict[str, list[Record]] = {}
    for record in sorted(sweep, key=lambda one: effort(one) or 0):
        grouped.setdefault(label(record), []).append(record)
    return grouped


def depth(results: Mapping[str, Any]) -> int:
    """Return the k that the metrics were taken at."""
    names = [name for name in results["rows"][0] if name.startswith("knn_recall@")]
    return int(names[0].split("@")[1])


def write_json(results: Mapping[str, Any], path: Path) -> None:
    """Write results; numbers keep six significant digits."""
    path.write_text(json.dumps(_rounded(results), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text())


def write_csv(records: Iterable[Record], path: Path) -> None:
    """Write one line a record; nested values become columns such as ``time_us.p50``."""
    flat = [_flat(_rounded(record)) for record in records]
    columns = list(dict.fromkeys(name for one in flat for name in one))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def write_trec(run: Mapping[str, Mapping[str, float]], tag: str, path: Path) -> None:
    """Write a run file: query, Q0, document, rank, score, tag."""
    with path.open("w") as file:
        for query, docs in run.items():
            for rank, (doc, score) in enumerate(docs.items(), start=1):
                file.write(f"{query} Q0 {doc} {rank} {score:g} {tag}\n")


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            out |= {f"{name}.{inner}": one for inner, one in _flat(value).items()}
        else:
            out[name] = value
    return out


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
