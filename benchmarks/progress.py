"""Progress of a long run: bars on a terminal, a line a finished step elsewhere.

Everything goes to stderr, so that the report alone is on stdout. Called by
`benchmarks.run` and `benchmarks.experiment`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)


@dataclass
class Step:
    """One step that is under way."""

    bar: Progress
    task: TaskID
    name: str

    def advance(self, amount: int = 1) -> None:
        """Say that `amount` more is done."""
        self.bar.advance(self.task, amount)

    def next(self, part: str) -> None:
        """Say that the part named `part` begins."""
        started = self.bar.tasks[self.task].fields["begun"]
        self.bar.update(self.task, advance=int(started), part=part, begun=True)

    def at(self, point: Any) -> None:
        """Say which point of the sweep is being measured."""
        effort = "" if point.effort is None else f" {point.effort}"
        self.bar.update(self.task, part=f"{point.system.name} {point.run}{effort}")


class Steps:
    """Shows steps one below the other."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[part]}", style="dim"),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Steps:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    @contextlib.contextmanager
    def step(self, name: str, total: int) -> Iterator[Step]:
        """Show one step of `total` parts while the block runs."""
        start = time.perf_counter()
        task = self._bar.add_task(name, total=total, part="", begun=False)
        yield Step(self._bar, task, name)
        self._bar.update(task, completed=total, part="")
        if not self._console.is_terminal:
            seconds = time.perf_counter() - start
            self._console.print(f"{name}: {seconds:.1f} s", highlight=False)
