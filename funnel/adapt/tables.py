"""How findings are shown: plain text, rich, HTML. Knows no numbers of its own.

The base of `Diagnosis`, `Explanation`, `WhyNot`, `StageLosses` and `Evaluation`.
"""

from __future__ import annotations

import html as markup
import textwrap
from typing import Any, NamedTuple

WIDTH = 88
NONE = "-"


class Table(NamedTuple):
    """A table of text; its first `left` columns are aligned to the left."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: int = 0


class Shown:
    """What can be shown: a headline, facts, tables and advice."""

    @property
    def headline(self) -> str:
        """Return the headline."""
        raise NotImplementedError

    @property
    def advice(self) -> tuple[str, ...]:
        """Return what to do."""
        return ()

    def facts(self) -> list[tuple[str, str]]:
        """Return names and values."""
        return []

    def sections(self) -> list[Table]:
        """Return tables."""
        return []

    def __str__(self) -> str:
        """Return it as plain text."""
        return plain(self)

    def __rich__(self) -> Any:
        """Return it as rich shows it."""
        return rich(self)

    def _repr_html_(self) -> str:
        """Return it as notebooks show it."""
        return html(self)


def number(value: float | None, form: str) -> str:
    """Return a number as text, a dash where there is none."""
    return NONE if value is None else format(value, form)


def plain(shown: Shown) -> str:
    """Return it as plain text; sentences are at most 88 wide."""
    parts = [shown.headline]
    if facts := shown.facts():
        parts.append("\n".join(f"{name:<12} {value}" for name, value in facts))
    parts += ["\n".join(_lines(table)) for table in shown.sections()]
    if shown.advice:
        lines = ["what to do"]
        for sentence in shown.advice:
            lines += textwrap.wrap(
                sentence, WIDTH, initial_indent="- ", subsequent_indent="  "
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _lines(table: Table) -> list[str]:
    rows = [table.header, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.header))]
    lines = [table.title] if table.title else []
    for row in rows:
        cells = [
            cell.ljust(w) if i < table.left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def rich(shown: Shown) -> Any:
    """Return what rich prints, which is not needed otherwise."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    parts: list[Any] = [Text(shown.headline, "bold")]
    if shown.facts():
        facts = RichTable.grid(padding=(0, 2))
        for name, value in shown.facts():
            facts.add_row(Text(name, "dim"), Text(value))
        parts += [Text(), facts]
    for table in shown.sections():
        made = RichTable(
            title=table.title or None, title_justify="left", title_style="bold",
            box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
        )  # fmt: skip
        for i, name in enumerate(table.header):
            justify: Any = "left" if i < table.left else "right"
            made.add_column(name, justify=justify, overflow="fold")
        for row in table.rows:
            made.add_row(*map(Text, row))
        parts += [Text(), made]
    if shown.advice:
        parts += [Text(), Text("what to do", "bold")]
    return Group(*parts, *(Text(f"- {sentence}") for sentence in shown.advice))


def html(shown: Shown) -> str:
    """Return it as HTML, everything escaped."""

    def row(cells: tuple[str, ...], kind: str) -> str:
        inside = "".join(f"<{kind}>{markup.escape(c)}</{kind}>" for c in cells)
        return f"<tr>{inside}</tr>"

    parts = [f"<p><b>{markup.escape(shown.headline)}</b></p>"]
    if facts := shown.facts():
        parts += ["<table>", *(row(fact, "td") for fact in facts), "</table>"]
    for table in shown.sections():
        parts += [f"<p>{markup.escape(table.title)}</p>"] if table.title else []
        parts += ["<table>", row(table.header, "th")]
        parts += [row(one, "td") for one in table.rows]
        parts.append("</table>")
    if shown.advice:
        items = "".join(f"<li>{markup.escape(s)}</li>" for s in shown.advice)
        parts.append(f"<ul>{items}</ul>")
    return "\n".join(parts)
