"""Text between two markers of a document: the part that a command makes."""

from __future__ import annotations

from pathlib import Path

END = "<!-- end of results -->"


def replace(doc: Path, begin: str, text: str) -> None:
    """Put `text` between the line `begin` and the next `END` of a document."""
    before, rest = doc.read_text().split(begin)
    doc.write_text(f"{before}{begin}\n{text}\n{END}{rest.split(END)[1]}")
