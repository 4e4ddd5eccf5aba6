"""Tables as plain text cells, and how they look on a terminal and in Markdown.

Called by `benchmarks.report`, which says what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

MISSING = "–"
WIDE = 120  # characters


@dataclass(frozen=True)
class Table:
    """A title, a header, rows of cells; the first column is text, others numbers."""

    title: str
    header: Sequence[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with three significant digits and thousands separated."""
    if value is None:
        return MISSING
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def share(value: float | None) -> str:
    """Write a metric in [0, 1] with three decimals, without the leading zero."""
    if value is None:
        return MISSING
    return f"{value:.3f}" if value >= 0.9995 else f"{value:.3f}"[1:]


def size(n_bytes: float | None) -> str:
    """Write bytes in the unit that suits them (powers of 1000)."""
    if n_bytes is None:
        return MISSING
    for unit, limit in (("B", 1e3), ("kB", 1e6), ("MB", 1e9), ("GB", float("inf"))):
        if n_bytes < limit:
            value = n_bytes / (limit / 1e3) if unit != "GB" else n_bytes / 1e9
            return f"{number(value)} {unit}"
    return MISSING


def wide_console() -> Console:
    """Return a console that has room for wide tables where it is not a terminal."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    return console


def to_rich(table: Table) -> RichTable:
    """Return the table for a terminal."""
    out = RichTable(title=table.title, box=box.SIMPLE_HEAD, title_justify="left")
    for at, name in enumerate(table.header):
        out.add_column(name, justify="left" if at == 0 else "right", no_wrap=at == 0)
    for row in table.rows:
        out.add_row(*row)
    return out


def to_markdown(table: Table) -> str:
    """Return the table as Markdown with its title and notes."""
    rule = ["---"] + ["---:"] * (len(table.header) - 1)
    lines = ["| " + " | ".join(row) + " |" for row in (table.header, rule, *table.rows)]
    notes = "".join(f"\n{note}\n" for note in table.notes)
    return f"### {table.title}\n\n" + "\n".join(lines) + "\n" + notes


def machine_words(machine: Mapping[str, Any]) -> str:
    """Say what `machine.describe` found: processor, cores, memory, system."""
    extensions = ", ".join(machine["vector_extensions"])
    return (
        f"{machine['cpu']} ({extensions}), {machine['cores']} cores, "
        f"{size(machine['memory_bytes'])}, {machine['system']}"
    )
