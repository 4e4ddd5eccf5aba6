"""How a diagnosis is shown: plain text, rich, HTML. Knows no numbers of its own."""

from __future__ import annotations

import html as markup
import textwrap
from typing import Any, Protocol

from funnel.adapt.measures import SHORTLISTS, Figures

HEADER = ("dims", "energy", *(f"{m:,}" for m in SHORTLISTS), "rows for 99 %")
WIDTH = 88


class Shown(Protocol):
    """What can be shown: a verdict, facts, tables and advice."""

    @property
    def verdict(self) -> str:
        """Return the headline."""

    @property
    def advice(self) -> tuple[str, ...]:
        """Return what to do."""

    def facts(self) -> list[tuple[str, str]]:
        """Return names and values."""

    def sections(self) -> list[tuple[str, Figures]]:
        """Return tables and their headings."""


def cells(figures: Figures) -> list[tuple[str, ...]]:
    """Return one row a width, as text."""
    rows = zip(
        figures.dims, figures.energy, figures.recall, figures.needed, strict=True
    )
    return [
        (f"{dim:,}", f"{energy:.3f}", *(f"{r:.3f}" for r in recall), f"{needed:,}")
        for dim, energy, recall, needed in rows
    ]


def plain(shown: Shown) -> str:
    """Return it as plain text, at most 88 wide, ASCII but for what users named."""
    lines = [shown.verdict, ""]
    lines += [f"{name:<12} {value}" for name, value in shown.facts()]
    for title, figures in shown.sections():
        table = [HEADER, *cells(figures)]
        widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
        lines += ["", title]
        lines += [
            "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True))
            for row in table
        ]
    lines += ["", "what to do"]
    for sentence in shown.advice:
        lines += textwrap.wrap(
            sentence, WIDTH, initial_indent="- ", subsequent_indent="  "
        )
    return "\n".join(lines)


def rich(shown: Shown) -> Any:
    """Return what rich prints, which is not needed otherwise."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    for name, value in shown.facts():
        facts.add_row(Text(name, "dim"), Text(value))
    parts: list[Any] = [Text(shown.verdict, "bold"), Text(), facts]
    for title, figures in shown.sections():
        table = Table(title=title, title_justify="left", title_style="bold")
        for name in HEADER:
            table.add_column(name, justify="right")
        for row in cells(figures):
            table.add_row(*row)
        parts += [Text(), table]
    parts += [Text(), Text("what to do", "bold")]
    return Group(*parts, *(Text(f"- {sentence}") for sentence in shown.advice))


def html(shown: Shown) -> str:
    """Return it as HTML, everything escaped."""

    def row(cells: tuple[str, ...], kind: str) -> str:
        inside = "".join(f"<{kind}>{markup.escape(c)}</{kind}>" for c in cells)
        return f"<tr>{inside}</tr>"

    parts = [f"<p><b>{markup.escape(shown.verdict)}</b></p>", "<table>"]
    parts += [row(fact, "td") for fact in shown.facts()]
    parts.append("</table>")
    for title, figures in shown.sections():
        parts += [f"<p>{markup.escape(title)}</p>", "<table>", row(HEADER, "th")]
        parts += [row(one, "td") for one in cells(figures)]
        parts.append("</table>")
    items = "".join(f"<li>{markup.escape(s)}</li>" for s in shown.advice)
    return "\n".join([*parts, f"<ul>{items}</ul>"])
