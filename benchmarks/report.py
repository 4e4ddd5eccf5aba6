"""Turns results into tables and sentences: on the terminal and as Markdown.

Reads only what ``results.json`` (and ``dims.json`` beside it) holds, so that a stored
run gives the same report again: ``python -m benchmarks.report DIR``. It measures
nothing; figures are drawn by `benchmarks.plots`. Called by `benchmarks.run`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.results import Record, depth, effort, label, read_json
from benchmarks.speedups import (
    BATCH,
    HEADLINE,
    OWN_RERANK,
    SINGLE,
    SUBJECTS,
    TARGETS,
    Clock,
    Speedup,
    peers,
    speedups,
)
from benchmarks.tables import (
    MISSING,
    Table,
    machine_words,
    number,
    share,
    size,
    to_markdown,
    to_rich,
)

Results = Mapping[str, Any]
NARROWEST = 118
"""Columns for output that is not a terminal: the widest table fits."""


def query_table(results: Results) -> Table:
    """Return the table of the Vespa experiment: query time and quality of each run."""
    k = depth(results)
    header = ["run", "effort", "mean µs", "p50", "p95", "p99", "batch µs", "QPS"]
    header += [f"ndcg@{k}", f"map@{k}", f"knn_recall@{k}"]
    rows = []
    for one in results["rows"]:
        times = [number(one["time_us"][name]) for name in ("mean", "p50", "p95", "p99")]
        judged = [share(one[f"{name}@{k}"]) for name in ("ndcg", "map", "knn_recall")]
        speed = [number(one["batch_us"]), number(one["qps"])]
        rows.append([label(one), _number(effort(one)), *times, *speed, *judged])
    note = (
        "Times are µs a query: mean to p99 of single calls, then one batch of all "
        "queries, which QPS is taken from. Effort is the shortlist, or ef_search for "
        "a run without one."
    )
    return Table("Query time and quality", header, rows, [note])


def cost_table(results: Results) -> Table:
    """Return what each run reads a query, and what its index takes to keep."""
    header = ["run", "MFLOPs / query", "bytes / query", "RAM", "disk", "build s"]
    header += ["open ms", "call overhead µs", "first hit s", "compile s"]
    rows = []
    for one in results["rows"]:
        sizes = [one["bytes_per_query"], one["anon_bytes"], one["disk_bytes"]]
        names = ("build_s", "open_ms", "call_overhead_us", "first_hit_s", "compile_s")
        rest = [number(one[name]) for name in names]
        work = number(one["mflops_per_query"])
        rows.append([label(one), work, *map(size, sizes), *rest])
    note = (
        "RAM is anonymous memory (not mapped from files) of an open index that has "
        "searched; first hit is a fresh process, imports included; compile is what a "
        "first use costs once, and is in no other figure."
    )
    return Table("Work, memory and start-up", header, rows, [note])


def dims_table(dims: list[Record]) -> Table:
    """Return the quality of exact search at each prefix, as a share of full width."""
    k = next(name for name in dims[-1] if name.startswith("knn_recall@")).split("@")[1]
    names = [f"{name}@{k}" for name in ("ndcg", "map", "recall")]
    header = ["dims", f"ndcg@{k}", "share", f"map@{k}", "share", f"recall@{k}", "share"]
    rows = []
    for one in dims:
        pairs = [(one[name], dims[-1][name]) for name in names]
        cells = [x for value, full in pairs for x in (share(value), _part(value, full))]
        found = one[f"knn_recall@{k}"]
        rows.append([str(one["dim"]), *cells, _part(found, 1)])
    header.append(f"knn_recall@{k}")
    title = "What a prefix is worth: exact search at each width"
    note = "Shares are of full width; knn_recall is 100 % there by definition."
    return Table(title, header, rows, [note])


def _part(value: float | None, whole: float | None) -> str:
    return MISSING if value is None or not whole else f"{value / whole:.1%}"


def _number(value: int | None) -> str:
    return MISSING if value is None else str(value)


def speedup_table(results: Results) -> Table:
    """Return the speed-ups by both clocks, and each cascade against its rerank."""
    opponents = ["best scan", *peers(results)]
    header = ["run", "clock", f"knn_recall@{depth(results)} ≥", "µs a query"]
    rows = []
    subjects = [name for name in OWN_RERANK if name not in SUBJECTS]
    for subject in (*SUBJECTS, *subjects):
        for clock in (BATCH, SINGLE):
            for target in TARGETS:
                found = speedups(results, clock, target, subject)
                if not found:
                    continue
                ours = next(iter(found.values())).subject
                cells = [_times(found.get(name)) for name in opponents]
                rerank = _times(found.get(OWN_RERANK.get(subject, "")))
                given = [subject, clock.name, f"{target}", number(clock.read(ours))]
                rows.append([*given, *cells, rerank])
    note = (
        "How many times the opponent's time: each side's fastest swept point that "
        "reaches the target, same clock (of single calls the p50). Best scan: the "
        "faster of our exact scan and faiss flat. Own rerank: the same graph without "
        "the middle stages; below 1× the cascade does not pay."
    )
    title = "Speed-up at equal knn_recall"
    return Table(title, [*header, *opponents, "own rerank"], rows, [note])


def _times(found: Speedup | None) -> str:
    return MISSING if found is None else f"{number(found.times)}×"


def sentences(results: Results) -> Iterator[str]:
    """Say each speed-up of the headline target in words, clock by clock."""
    threads = results["machine"]["threads"]
    for clock in (BATCH, SINGLE):
        for subject in SUBJECTS:
            found = speedups(results, clock, HEADLINE, subject)
            if not found:
                continue
            ours = next(iter(found.values())).subject
            parts = "; ".join(
                f"{number(one.times)}× as fast as {_point(one.opponent, clock)}"
                for one in found.values()
            )
            plural = "s" if threads > 1 else ""
            yield (
                f"{_said(clock)}, {threads} thread{plural}: "
                f"{_point(ours, clock)} is {parts}."
            )


def _said(clock: Clock) -> str:
    return "One batch" if clock is BATCH else "Single calls (p50)"


def _point(record: Record, clock: Clock) -> str:
    """Name a swept point with all that a reader needs to judge it."""
    k = next(name for name in record if name.startswith("knn_recall@")).split("@")[1]
    knob = record["params"].get("knob")
    setting = f", {knob} {effort(record)}" if knob else ""
    name = "our exact scan" if label(record) == "exact" else label(record)
    recall = share(record[f"knn_recall@{k}"])
    return f"{name} ({number(clock.read(record))} µs, knn_recall@{k} {recall}{setting})"


def machine_lines(results: Results) -> Iterator[str]:
    """Say what the figures were measured on."""
    machine, found = results["machine"], results["versions"]
    params = results["rows"][0]["params"]
    yield (
        f"Data: {results['dataset']}, {params['rows']:,} × {params['full_dim']}, "
        f"{params['queries']:,} queries, k = {params['k']}, "
        f"median of {params['rounds']} interleaved rounds."
    )
    yield (
        f"Machine: {machine_words(machine)}; "
        f"searches with {machine['threads']} and builds with "
        f"{machine['build_threads']} threads; load {machine['load_average']}."
    )
    have = ", ".join(f"{name} {value}" for name, value in found.items() if value)
    yield f"Versions: {have}; commit {results['commit'] or 'unknown'}."
    for name, why in machine.get("left_out", {}).items():
        yield f"Left out: {name} ({why})."


def tables(results: Results, dims: list[Record]) -> list[Table]:
    """Return all tables, in the order of the report."""
    shown = [query_table(results), cost_table(results), dims_table(dims)]
    faster = speedup_table(results)
    return [*shown, faster] if faster.rows else shown


def markdown(
    results: Results, dims: list[Record], figure_paths: Sequence[Path] = ()
) -> str:
    """Return the whole report as Markdown; figures are linked by file name."""
    head = f"## {results['dataset']}\n\n" + "\n".join(
        f"- {line}" for line in machine_lines(results)
    )
    said = "\n".join(f"- {line}" for line in sentences(results))
    shown = "\n".join(to_markdown(table) for table in tables(results, dims))
    figures = "\n".join(f"![{path.stem}]({path.name})" for path in figure_paths)
    return f"{head}\n\n{shown}\n{said}\n\n{figures}\n"


def show(results: Results, dims: list[Record], console: Console | None = None) -> None:
    """Print the report on the terminal."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    for table in tables(results, dims):
        console.print(to_rich(table))
        for note in table.notes:
            console.print(f"[dim]{note}[/dim]", highlight=False)
        console.print()
    for line in (*sentences(results), "", *machine_lines(results)):
        console.print(line, highlight=False)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    stored_dims = json.loads((folder / "dims.json").read_text())
    show(read_json(folder / "results.json"), stored_dims)
